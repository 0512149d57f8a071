"""A check of what a pickle would do to the memory of its reader, from its instructions alone.

A pickle of some bytes can ask its reader for gigabytes: for a place far out in its memory, or for empty containers
without end. The instructions are looked at before any of them is followed.
"""

import pickletools
from typing import Any

from ..errors import UserError

MOST = 2_000_000
"""The most instructions in a pickle. A training snapshot of the largest has some ten thousand."""
_PLACES = ("PUT", "BINPUT", "LONG_BINPUT")


def check_opcodes(file: Any) -> None:
    """Look through the pickle that begins where `file` stands, and leave `file` there.

    Raises:
        UserError: the pickle has more than `MOST` instructions, or names a place in memory beyond all of them.
        ValueError: it is cut short, or no pickle.
    """
    start, furthest, count = file.tell(), -1, 0
    for opcode, argument, _ in pickletools.genops(file):
        count += 1
        if opcode.name in _PLACES:
            furthest = max(furthest, int(argument or 0))
        if count > MOST:
            raise UserError(f"its pickle has more than {MOST} instructions: not read further")
    if furthest > 2 * count + 1024:
        raise UserError(f"its pickle asks for {furthest} places in memory and has {count} instructions: not read")
    file.seek(start)
