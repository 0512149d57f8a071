"""CRC-32C, the checksum of TFRecord files (RFC 3720, B.4), in numpy."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_WIDTH = 64  # bytes that are taken one after the other; the blocks of so many go side by side
_SHORT = 1024  # bytes up to which a loop is quicker

Words = NDArray[np.uint32]


@cache
def _table() -> Words:
    """Return what each byte makes of a register of zeros, uint32 (256,)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


@cache
def _listed() -> list[int]:
    return _table().tolist()


@cache
def _shift(level: int) -> Words:
    """Return what `_WIDTH` · 2**level bytes of zeros make of each byte of a register, uint32 (4, 256)."""
    if level:
        half = _shift(level - 1)
        return _shifted(half.reshape(-1), level - 1).reshape(4, 256)
    states = (
        np.arange(256, dtype=np.uint32)[None] << np.uint32(8) * np.arange(4, dtype=np.uint32)[:, None]
    ).ravel()
    for _ in range(_WIDTH):
        states = _table()[states & 0xFF] ^ (states >> 8)
    return states.reshape(4, 256)


def _shifted(states: Words, level: int) -> Words:
    table = _shift(level)
    return (
        table[0][states & 0xFF]
        ^ table[1][(states >> 8) & 0xFF]
        ^ table[2][(states >> 16) & 0xFF]
        ^ table[3][states >> 24]
    )


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of bytes.

    The register is linear in the data: bytes are taken in blocks side by side, whose registers are then joined in
    pairs, each left one shifted by the length of the right one.
    """
    if len(data) < _SHORT:
        state, table = 0xFFFFFFFF, _listed()
        for byte in data:
            state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
        return state ^ 0xFFFFFFFF
    raw = np.frombuffer(data, np.uint8)
    blocks = np.zeros(-(-len(raw) // _WIDTH) * _WIDTH, np.uint8)  # zeros before the data change nothing
    blocks[-len(raw) :] = raw
    start = len(blocks) - len(raw)
    blocks[start : start + 4] ^= 0xFF  # the register begins with ones
    columns = np.ascontiguousarray(blocks.reshape(-1, _WIDTH).T).astype(np.uint32)
    states = np.zeros(columns.shape[1], np.uint32)
    for column in columns:
        states = _table()[(states ^ column) & 0xFF] ^ (states >> 8)
    level = 0
    while len(states) > 1:
        if len(states) % 2:
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = _shifted(states[0::2], level) ^ states[1::2]
        level += 1
    return int(states[0]) ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """Return the checksum as TFRecord keeps it: turned right by 15 bits, and a constant added."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
