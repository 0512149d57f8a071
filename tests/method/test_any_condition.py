"""A condition of any kind, a tensor of each row or several by name, goes the way that classes go."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import alphaflow as af
from alphaflow.condition import join_conditions, map_condition, with_null
from alphaflow.derivatives.total import du_dt
from alphaflow.method.guidance import Guidance, Guided
from alphaflow.path import Points
from alphaflow.rng import KeyedRandom

B, D, W = 12, 5, 3
NULL = {"words": torch.full((4, W), -1.0, dtype=torch.float64), "place": 7}


class Listening(nn.Module):
    """u(z, r, t, y) of y = {"words": (B, 4, W) float, "place": (B,) int64}, smooth in z and t."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(D + 2 + W + 4, 16), nn.Tanh(), nn.Linear(16, D)).double()
        self.places = nn.Embedding(8, 4).double()

    def forward(self, z, r, t, y=None):
        told = torch.cat([y["words"].square().mean(1), self.places(y["place"])], 1)
        return self.inner(torch.cat([z, r[:, None], t[:, None], told], 1))


def condition() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "words": torch.randn(B, 4, W, generator=generator, dtype=torch.float64),
        "place": torch.randint(7, (B,), generator=generator),
    }


def data() -> torch.Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_objective_of_a_dictionary_is_that_of_its_rows_alone(alpha):
    """Each row of a batch, with its own part of y, is what an objective of that row alone makes of it."""
    net, y = Listening(), condition()
    guidance = Guidance(null=NULL, omega=1.5, kappa=0.3, drop=0.5)
    objective = af.AlphaFlow(alpha=alpha, flow_ratio=0.25, guidance=guidance)
    points = objective.draw(net, data(), y, generator=KeyedRandom(1, torch.arange(B)))
    whole = objective.evaluate(net, points)
    dropped = (points.y["place"] == 7).nonzero()[:, 0].tolist()
    assert 0 < len(dropped) < B
    assert all(torch.equal(points.y["words"][k], NULL["words"]) for k in dropped)
    for k in range(B):
        alone = replace(points.rows(k, k + 1), flow_rows=int(k < points.flow_rows))
        assert alone.y["words"].shape == (1, 4, W)
        assert torch.allclose(objective.evaluate(net, alone).residual, whole.residual[k : k + 1], rtol=1e-10)


def test_guided_velocities_are_those_of_the_formula_row_by_row():
    net, y, x = Listening(), condition(), data()
    random = KeyedRandom(5, torch.arange(B))
    t = torch.linspace(0.1, 0.9, B, dtype=torch.float64)
    v = torch.ones_like(x)
    guided, told = Guidance(null=NULL, omega=2.0, kappa=0.25, drop=0.4)(net, x, v, t, y, random)
    lost = told["place"] == 7
    assert 0 < int(lost.sum()) < B
    for k in range(B):
        z, at = x[k : k + 1], t[k : k + 1]
        one = map_condition(y, lambda part, k=k: part[k : k + 1])
        expected = 2 * v[k] + 0.25 * net(z, at, at, one)[0] - 1.25 * net(z, at, at, with_null(one, NULL))[0]
        assert torch.allclose(guided[k], v[k] if lost[k] else expected)


def test_du_dt_and_samples_take_dictionaries():
    net, y, z = Listening(), condition(), data()
    v, t, r = torch.randn_like(z), torch.full((B,), 0.7).double(), torch.full((B,), 0.2).double()
    slopes = [du_dt(net, Points(z, v, r, t, y), way)[1].detach() for way in ("fused", "forward", "difference")]
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-10)
    assert torch.allclose(slopes[0], slopes[2], rtol=1e-4, atol=1e-6)
    steps = af.sample(net, z, y, times=(1.0, 0.5, 0.0))
    alone = af.sample(net, z[3:4], map_condition(y, lambda part: part[3:4]), times=(1.0, 0.5, 0.0))
    assert torch.allclose(steps[3], alone[0])


def test_guidance_at_sampling_leads_away_from_the_null_of_each_part():
    net, y, z = Listening(), condition(), data()
    t, r = torch.full((B,), 0.8).double(), torch.full((B,), 0.3).double()
    none = with_null(y, NULL)
    expected = net(z, r, t, none) + 3 * (net(z, r, t, y) - net(z, r, t, none))
    assert torch.allclose(Guided(net, NULL, 3.0)(z, r, t, y), expected)


def test_guidance_by_a_tensor_has_the_fixed_point_of_its_formula():
    """Where the network's velocity is ω' v_c + (1 - ω') v_∅, ω' = ω / (1 - κ), guided training keeps it: the mean
    of ṽ is that velocity itself."""
    omega, kappa, null = 1.2, 0.4, torch.tensor([-2.0, 0.5])
    scale = omega / (1 - kappa)

    def velocity(y):  # of the data, which depends on y alone
        return torch.stack([y.sum(1), (y * y).sum(1)], 1)

    def net(z, r, t, y):
        plain = velocity(null.expand(len(z), 2))
        at_null = (y == null).all(1, keepdim=True)
        return torch.where(at_null, plain, scale * velocity(y) + (1 - scale) * plain)

    y = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    guidance = Guidance(null=null, omega=omega, kappa=kappa, drop=0.3)
    t = torch.full((50,), 0.5)
    guided, told = guidance(net, torch.zeros(50, 2), velocity(y), t, y, KeyedRandom(2, torch.arange(50)))
    kept = (told == y).all(1)
    assert 0 < int(kept.sum()) < 50
    assert torch.allclose(guided[kept], net(torch.zeros(50, 2), t, t, y)[kept], atol=1e-5)


def test_a_null_of_another_kind_is_refused():
    y = condition()
    with pytest.raises(ValueError, match=r"null condition has one value, and y has place, words"):
        with_null(y, 0)
    with pytest.raises(ValueError, match=r"null of y\['words'\] has shape \(4,\), and a row of it \(4, 3\)"):
        with_null(y, {"words": torch.zeros(4), "place": 7})
    with pytest.raises(ValueError, match="one tensor"):
        with_null(y["words"], NULL)
    with pytest.raises(ValueError, match="scales go with classes"):
        Guidance(null=NULL, scales=(1.0, 4.0))


def test_conditions_are_joined_part_by_part():
    y = condition()
    both = join_conditions([y, with_null(y, NULL)])
    assert torch.equal(both["words"][:B], y["words"])
    assert bool((both["place"][B:] == 7).all())
