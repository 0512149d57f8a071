"""What the rules do on CUDA under autocast, as far as a machine without it can tell: which types they mix.

Fake tensors claim to lie on CUDA, and autocast treats them so; no number is computed. CUDA's kernels refuse
operands of different types where those of the CPU promote them, and its autocast makes softmax and norms float32.
"""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from alphaflow.derivatives import attention, dual, fused  # noqa: F401 -- it loads the rules

STRICT = ("_softmax_backward_data", "native_layer_norm_backward", "native_group_norm_backward", "bmm", "baddbmm")
"""Operations whose first two operands must be of one type."""

FUNCTIONS = {
    "attention": lambda x, c: F.scaled_dot_product_attention(x, x * c, x),
    "softmax": lambda x, c: x.softmax(-1),
    "layer norm": lambda x, c: F.layer_norm(x, (8,)),
    "affine layer norm": lambda x, c: F.layer_norm(x, (8,), c.sum((0, 1, 2)), c.sum((0, 1, 2))),
    "group norm": lambda x, c: F.group_norm(x, 2, c.sum((0, 1, 2)), c.sum((0, 1, 2))),
    "rms norm": lambda x, c: F.rms_norm(x, (8,), c.sum((0, 1, 2))),
    "activations": lambda x, c: F.gelu(F.silu(x)),
    "linear": lambda x, c: F.linear(x, c.sum((0, 1))),
    "product": lambda x, c: x @ c.mT,
}


class Strict(TorchDispatchMode):
    """Raises where CUDA would."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.__name__.split(".")[0] in STRICT:
            kinds = {arg.dtype for arg in args[:2]}
            assert len(kinds) == 1, f"{func} of {kinds}"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def cuda(monkeypatch) -> Iterator[None]:
    """Fake tensors, autocast to bfloat16 on CUDA."""
    monkeypatch.setitem(attention.CHUNK, "cuda", 8 * 8 * 4)  # half of a row's queries at a time
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    with FakeTensorMode():
        yield
    torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_rules_mix_no_types_and_give_autocasts_primal(cuda, name, kind, start):
    x = torch.randn(3, 8, 8, 8, device="cuda", dtype=torch.bfloat16)
    tangent = torch.randn(3 - start, 8, 8, 8, device="cuda", dtype=kind)
    factor = torch.randn(1, 1, 8, 8, device="cuda")
    plain = FUNCTIONS[name](x, factor)
    with Strict():
        out = FUNCTIONS[name](dual.make(x, tangent, start), factor)
    assert out.primal.dtype == plain.dtype and out.primal.is_cuda
    assert out.tangent.shape == (3 - start, *plain.shape[1:])
