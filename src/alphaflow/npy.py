"""Headers of NumPy's array files, read by everything that reads such files, from several threads as well."""

from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_READERS = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0, 3: npy.read_array_header_2_0}


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of an array; the file stands where its numbers begin.

    CPython 3.11's parser, which reads the header, now and then raises a SystemError where several threads use it
    (github.com/python/cpython, issue 106905; findings/array-headers-in-threads.sh): it is asked again.

    Raises:
        ValueError: no array file, one of a version that is not known, or of a negative size.
    """
    start = file.tell()
    for _ in range(20):
        try:
            version = npy.read_magic(file)
            if version[0] not in _READERS:
                raise ValueError(f"an array file of version {version[0]}.{version[1]}, and 1 to 3 are known")
            header = _READERS[version[0]](file)
        except SystemError:
            file.seek(start)
            continue
        if min(header[0], default=0) < 0:
            raise ValueError(f"an array of negative size {header[0]}")
        return header
    raise ValueError("its header could not be read in 20 attempts")


def array_in(data: bytes, file: IO[bytes], header: tuple[tuple[int, ...], bool, np.dtype[Any]]) -> NDArray[Any]:
    """Return the array of `data`, whose header was read from `file`; numbers that the caller may change."""
    shape, columns_first, dtype = header
    count = int(np.prod(shape, dtype=object))
    flat = np.frombuffer(data, dtype, count, file.tell()) if count else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if columns_first else "C").copy()
