"""Arrays of numpy and JAX in foreign pickles, put together without numpy's own code.

A forged state of one of numpy's types could reach into memory.
"""

from collections.abc import Callable
from typing import Any

from ..errors import UserError
from .stored import StoredTensor, array, type_of


class NumpyDtype:
    """A stand-in for numpy's dtype, and for ml_dtypes' and JAX's under it: a word, and the order of its bytes."""

    def __init__(self, code: Any = "", *rest: Any) -> None:
        if isinstance(code, bytes):
            code = code.decode("latin1")
        self._code = code if isinstance(code, str) else str(getattr(code, "origin", "")).rpartition(".")[2]
        self._order = ""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self._order = state[1]

    @property
    def code(self) -> str:
        """The dtype's word in the form that `stored.type_of` takes."""
        return self._order + self._code if type_of(self._order + self._code) else self._code


class NumpyArray:
    """A stand-in for numpy's array until its state is there."""

    content: "StoredTensor | str" = "<array>"

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], NumpyDtype):
            raise UserError("an array of another kind than numpy makes: not read")
        _, shape, dtype, columns_first, data = state
        self.content = array(data, shape, dtype.code, columns_first=bool(columns_first))


def jax_array(function: Callable[..., Any], args: tuple[Any, ...], state: Any, *rest: Any) -> Any:
    """Stand in for JAX's `_reconstruct_array`, which fills a numpy array."""
    filled = function(*args)
    if not isinstance(filled, NumpyArray):
        raise UserError("an array of another kind than numpy makes: not read")
    filled.__setstate__(state)
    return filled


def numpy_buffer(buffer: Any, dtype: Any, shape: Any, order: str) -> NumpyArray:
    """Stand in for numpy's `_frombuffer`, of pickle's protocol 5."""
    filled = NumpyArray()
    filled.__setstate__((1, shape, dtype, order == "F", bytes(buffer)))
    return filled


def numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    """Return a number, or a string where it is none."""
    scalar = array(data, (), dtype.code) if isinstance(dtype, NumpyDtype) else "<scalar>"
    return scalar.read().item() if isinstance(scalar, StoredTensor) else scalar
