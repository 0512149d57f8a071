"""The conditions: unscaled times in full precision."""

import math

import pytest
import torch

from alphaflow.models import MLP, TimeEmbedder, sinusoids


def test_sinusoids_are_those_of_the_unscaled_time() -> None:
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    features = sinusoids(t)
    assert features.shape == (3, 256)
    for i in (0, 1, 64, 127):
        frequency = 10_000 ** (-i / 128)  # from 1 to nearly 1e-4
        for row, time in enumerate(t.tolist()):
            assert features[row, i].item() == pytest.approx(math.cos(time * frequency), abs=1e-14)
            assert features[row, 128 + i].item() == pytest.approx(math.sin(time * frequency), abs=1e-14)


def test_sinusoids_are_smooth_in_time() -> None:
    """No frequency above 1, so the derivative of no feature exceeds 1: the point of not scaling t."""
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    _, slope = torch.func.jvp(sinusoids, (t,), (torch.ones_like(t),))
    assert slope.abs().max() <= 1
    assert slope.abs().max() > 0.99


def test_precision_follows_the_time_but_is_never_below_float32() -> None:
    t = torch.rand(4)
    assert sinusoids(t.double()).dtype == torch.float64
    assert sinusoids(t.bfloat16()).dtype == sinusoids(t).dtype == torch.float32


def test_autocast_does_not_round_the_time() -> None:
    torch.manual_seed(0)
    embed = TimeEmbedder(32)
    t = torch.tensor([0.5, 0.5003])  # the same number in bfloat16
    exact = embed(t)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embed(t), exact)
    assert not torch.equal(exact[0], exact[1])


def test_condition_is_computed_in_the_precision_of_z() -> None:
    net = MLP(2, width=16).double()
    z, r, t = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3), torch.rand(3)
    c = net.condition(z, r, t, None)
    assert c.dtype == torch.float64
    torch.testing.assert_close(c, net.condition(z, r.double(), t.double(), None), rtol=0, atol=1e-15)
