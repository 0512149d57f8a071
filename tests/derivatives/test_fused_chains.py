"""Chains of layouts drawn at random: `fused` equals `torch.func.jvp` on them, or refuses; and its guards."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alphaflow.derivatives.dual import make
from alphaflow.derivatives.fused import NoRule, dual_forward
from small_networks import inputs

STEPS = {
    "transpose": lambda x, pick: x.transpose(pick(x.ndim), pick(x.ndim)),
    "permute": lambda x, pick: x.permute(*pick.order(x.ndim)),
    "merge": lambda x, pick: x.flatten(k := pick(x.ndim), min(k + 1, x.ndim - 1)),
    "cut": lambda x, pick: _cut(x, pick(x.ndim)),
    "reshape": lambda x, pick: x.reshape(pick.of((len(x), -1), (-1, x.shape[-1]), (-1,), (x.shape[0], -1, 1))),
    "unsqueeze": lambda x, pick: x.unsqueeze(pick(x.ndim + 1)) if x.ndim < 6 else x,
    "squeeze": lambda x, pick: x.squeeze(),
    "pad": lambda x, pick: F.pad(x, (1, 0), value=2.0) if x.numel() < 500 else x,
    "halves": lambda x, pick: torch.cat(x.chunk(2, k := pick(x.ndim)), k),
    "norm": lambda x, pick: F.layer_norm(x, x.shape[-1:]) if x.shape[-1] > 1 else x,
    "softmax": lambda x, pick: x.softmax(pick(x.ndim)),
    "scale": lambda x, pick: x * torch.linspace(1, 2, x.shape[-1], dtype=x.dtype),
    "sine": lambda x, pick: x.sin(),
    "flip": lambda x, pick: x.flip(pick(x.ndim)),
    "write": lambda x, pick: _written(x, pick(x.ndim)),
    "stack": lambda x, pick: torch.stack([x, x.cos()], pick(x.ndim + 1)) if x.numel() < 500 else x,
    "einsum": lambda x, pick: torch.einsum("...i,ij->...j", x, torch.ones(x.shape[-1], 2, dtype=x.dtype)),
}


def _cut(x: Tensor, dim: int) -> Tensor:
    return x.unflatten(dim, (-1, 2)) if x.shape[dim] % 2 == 0 else x


def _written(x: Tensor, dim: int) -> Tensor:
    x = x.clone()
    seen = x.transpose(0, dim)
    x.narrow(dim, 0, 1).mul_(2.0)
    seen.select(0, -1).add_(1.0)
    return x


class Pick:
    """Random choices, the same each time the network runs."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)

    def __call__(self, n: int) -> int:
        return self.source.randrange(max(n, 1))

    def order(self, n: int) -> list[int]:
        return self.source.sample(range(n), n)

    def of(self, *values):
        return self.source.choice(values)


@pytest.mark.parametrize("block", range(4))
def test_random_chains_of_layouts_are_right_or_refused(block):
    right = 0
    for seed in range(40 * block, 40 * block + 40):

        def u(z, t, seed=seed):
            pick = Pick(seed)
            x = (z.sin() * t[:, None])[:, None] * torch.arange(1, 4, dtype=z.dtype)[:, None]
            for name in pick.source.choices(list(STEPS), k=7):
                x = STEPS[name](x, pick) if x.ndim else x
            return x

        z, v, t = inputs()
        expected, change = torch.func.jvp(u, (z, t), (v, torch.ones_like(t)))
        for start in (0, 1, 2):
            out = None
            try:
                out = _dual(u, z, v, t, start)
            except NoRule:
                assert start, "refused with tangents on all rows"
                continue
            torch.testing.assert_close(out.primal, expected, rtol=1e-12, atol=1e-12)
            covered = change.narrow(out.rows, out.start, change.shape[out.rows] - out.start) if start else change
            torch.testing.assert_close(out.tangent, covered, rtol=1e-9, atol=1e-10)
            right += 1
    assert right > 45


def _dual(u, z: Tensor, v: Tensor, t: Tensor, start: int):
    return u(make(z, v[start:], start), make(t, torch.ones_like(t[start:]), start))


def test_a_view_written_past_the_functions_that_are_intercepted_is_refused():
    def u(z, t):
        x = z * t[:, None]
        with torch._C.DisableTorchFunctionSubclass():
            x.primal.mul_(2.0)
        return x.sin()

    z, v, t = inputs()
    with pytest.raises(NoRule, match="could not be intercepted"):
        dual_forward(u, z, v, t)


def test_the_numbers_of_a_dual_are_nowhere_to_be_found_but_in_its_parts():
    def u(z, t):
        with torch._C.DisableTorchFunctionSubclass():
            assert not z.data_ptr()
            with pytest.raises(NoRule, match="reached past"):
                z.sin()
        return z * math.pi

    z, v, t = inputs()
    torch.testing.assert_close(dual_forward(u, z, v, t)[1], math.pi * v)
