"""What every network promises, whatever its architecture."""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from alphaflow.models import MLP, DiT, Network, UNet, VideoDiT

CLASSES = 5
NETWORKS: dict[str, tuple[Callable[[int], Network], tuple[int, ...]]] = {
    "dit": (lambda classes: DiT((8, 4), 2, 3, width=32, depth=2, heads=2, num_classes=classes), (3, 8, 4)),
    "video joint": (lambda classes: VideoDiT((4, 8), 3, 2, 2, 32, 2, 2, classes), (2, 3, 4, 8)),
    "video factorised": (
        lambda classes: VideoDiT((4, 8), 3, 2, 2, 32, 3, 2, classes, attention="factorised"),
        (2, 3, 4, 8),
    ),
    "mlp": (lambda classes: MLP(6, width=32, depth=2, num_classes=classes), (2, 3)),
    "unet": (lambda classes: UNet(3, width=16, multipliers=(1, 2), num_classes=classes), (3, 8, 4)),
    "dit guided": (lambda classes: DiT((8, 4), 2, 3, 32, 2, 2, classes, guided=classes > 0), (3, 8, 4)),
    "mlp guided": (lambda classes: MLP(6, width=32, depth=2, num_classes=classes, guided=classes > 0), (2, 3)),
}


def perturbed(net: Network, scale: float = 0.1) -> Network:
    """The network with every parameter moved, so that nothing is zero any more."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in net.parameters():
            p += scale * torch.randn(p.shape, generator=generator).to(p)
    return net


def build(name: str, classes: int = CLASSES) -> Network:
    torch.manual_seed(0)
    return perturbed(NETWORKS[name][0](classes)).double()


def inputs(name: str, batch: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    z = torch.randn(batch, *NETWORKS[name][1], generator=g, dtype=dtype)
    r = 0.4 * torch.rand(batch, generator=g, dtype=dtype)
    t = r + 0.05 + 0.5 * torch.rand(batch, generator=g, dtype=dtype)
    y = torch.randint(0, CLASSES, (batch,), generator=g)
    return z, r, t, y


every_network = pytest.mark.parametrize("name", NETWORKS)


@every_network
def test_output_has_the_shape_and_dtype_of_z(name: str) -> None:
    net, (z, r, t, y) = build(name), inputs(name)
    u = net(z, r, t, y)
    assert u.shape == z.shape and u.dtype == torch.float64 and u.isfinite().all()
    assert net.float()(z.float(), r.float(), t.float(), y).dtype == torch.float32


@every_network
def test_none_is_the_unconditional_index(name: str) -> None:
    net, (z, r, t, y) = build(name), inputs(name)
    torch.testing.assert_close(net(z, r, t), net(z, r, t, torch.full_like(y, CLASSES)), rtol=0, atol=0)
    assert not torch.allclose(net(z, r, t), net(z, r, t, y))


@every_network
def test_depends_on_every_argument(name: str) -> None:
    net, (z, r, t, y) = build(name), inputs(name)
    u = net(z, r, t, y)
    for other in (net(z + 0.1, r, t, y), net(z, r - 0.05, t, y), net(z, r, t + 0.05, y)):
        assert ((other - u).flatten(1).abs().amax(1) > 1e-4).all()
    # Moving both times leaves t−r as it was: t itself must enter, and t−r must too (above).
    assert not torch.allclose(net(z, r + 0.05, t + 0.05, y), u, atol=1e-5)


@every_network
def test_rows_are_independent(name: str) -> None:
    net, (z, r, t, y) = build(name), inputs(name)
    u = net(z, r, t, y)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(z[order], r[order], t[order], y[order]), u[order])
    alone = torch.cat([net(z[i : i + 1], r[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, u)


@every_network
def test_jvp_is_the_central_difference(name: str) -> None:
    net, (z, r, t, y) = build(name), inputs(name)
    v = torch.randn_like(z)
    h = 1e-5
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        tangents = (v, torch.zeros_like(r), torch.ones_like(t))
        u, du = jvp(lambda z, r, t: net(z, r, t, y), (z, r, t), tangents)
        difference = (net(z + h * v, r, t + h, y) - net(z - h * v, r, t - h, y)) / (2 * h)
        torch.testing.assert_close(u, net(z, r, t, y))
    assert du.abs().max() > 0.1
    torch.testing.assert_close(du, difference, rtol=1e-6, atol=1e-7)


@every_network
def test_double_backward_is_the_jvp(name: str) -> None:
    """The tangent of the output, got by differentiating the vector-Jacobian product, equals forward mode."""
    net, (z, r, t, y) = build(name), inputs(name)
    v = torch.randn_like(z)
    primals = (z, r, t)
    tangents = (v, torch.zeros_like(r), torch.ones_like(t))
    with sdpa_kernel(SDPBackend.MATH):
        _, du = jvp(lambda z, r, t: net(z, r, t, y), primals, tangents)
        _, twice = torch.autograd.functional.jvp(lambda z, r, t: net(z, r, t, y), primals, tangents)
        torch.testing.assert_close(twice, du)
        du.square().sum().backward()  # and forward mode can itself be differentiated
    # A bias that is added last has no part in du/dt; every matrix has.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.ndim > 1)


@every_network
def test_bfloat16_autocast(name: str) -> None:
    net, (z, r, t, y) = build(name).float(), inputs(name, dtype=torch.float32)
    tangents = (torch.randn_like(z), torch.zeros_like(r), torch.ones_like(t))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        u, du = jvp(lambda z, r, t: net(z, r, t, y), (z, r, t), tangents)
        with torch.autocast("cpu", torch.bfloat16):
            low, dlow = jvp(lambda z, r, t: net(z, r, t, y), (z, r, t), tangents)
    assert low.dtype == torch.float32
    assert (low - u).norm() < 0.05 * u.norm()
    assert (dlow - du).norm() < 0.1 * du.norm()
    assert not torch.equal(low, u)  # autocast was really on


@pytest.mark.parametrize("name", ["dit", "unet"])
def test_traces_into_one_graph_with_the_jvp_inside(name: str) -> None:
    """Tracing is slow, so with the smallest networks that have every part."""
    smallest: Network
    smallest = DiT((8, 4), 2, 3, 32, 1, 2, CLASSES) if name == "dit" else UNet(3, 8, (1, 1), 1, CLASSES)
    net, (z, r, t, y) = perturbed(smallest).double(), inputs(name)
    v = torch.randn_like(z)

    def loss(z: Tensor, r: Tensor, t: Tensor, v: Tensor, y: Tensor) -> Tensor:
        u, du = jvp(lambda z, r, t: net(z, r, t, y), (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t)))
        return (u - v + du.detach()).square().mean()

    with sdpa_kernel(SDPBackend.MATH):
        expected = loss(z, r, t, v, y)
        gradients = torch.autograd.grad(expected, list(net.parameters()))
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(z, r, t, v, y)
        torch.testing.assert_close(compiled, expected)
        for mine, theirs in zip(torch.autograd.grad(compiled, list(net.parameters())), gradients):
            torch.testing.assert_close(mine, theirs)


@every_network
def test_config_builds_the_same_network(name: str) -> None:
    net, (z, r, t, y) = build(name), inputs(name)
    assert set(net.config) == set(inspect.signature(type(net).__init__).parameters) - {"self"}
    again = type(net)(**net.config).double()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(z, r, t, y), net(z, r, t, y))
    assert net.num_classes == net.config["num_classes"] == CLASSES


@every_network
def test_without_classes(name: str) -> None:
    net, (z, r, t, y) = build(name, classes=0), inputs(name)
    assert net(z, r, t).shape == z.shape
    assert not any("y_embedder" in key for key in net.state_dict())
    with pytest.raises(ValueError, match=r"num_classes=0.*y=None"):
        net(z, r, t, y)


@every_network
def test_wrong_times_are_refused(name: str) -> None:
    net, (z, r, t, y) = build(name), inputs(name)
    with pytest.raises(ValueError, match=r"t has shape \(4, 1\).*\(4,\)"):
        net(z, r, t[:, None], y)
    with pytest.raises(ValueError, match=r"r has shape \(\)"):
        net(z, r[0], t, y)


def test_every_parameter_is_trained_by_the_average_velocity() -> None:
    """After one step away from the zero initialisation, no parameter is cut off from the loss."""
    for name in NETWORKS:
        net, (z, r, t, y) = build(name), inputs(name)
        y[0] = CLASSES
        net(z, r, t, y).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters()), name


def test_mlp_learns_the_velocity_of_a_gaussian() -> None:
    """For data N(0, s²) the velocity is linear in z, with a slope that changes sign in t."""
    torch.manual_seed(0)
    net, s = MLP(1, width=32, depth=2), 0.5
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(300):
        x, noise, t = s * torch.randn(128, 1), torch.randn(128, 1), torch.rand(128)
        z = (1 - t)[:, None] * x + t[:, None] * noise
        loss = (net(z, t, t) - (noise - x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    t = torch.linspace(0.05, 0.95, 10)
    variance = (1 - t) ** 2 * s**2 + t**2
    z = variance.sqrt()[:, None]
    exact = ((t - (1 - t) * s**2) / variance)[:, None] * z
    with torch.no_grad():
        u = net(z, t, t)
    assert (u - exact).abs().mean() < 0.2
    assert u[0] < 0 < u[-1]


def test_mlp_refuses_another_number_of_values() -> None:
    with pytest.raises(ValueError, match=r"3 values a row.*dim=3"):
        MLP(2)(torch.zeros(4, 3), torch.zeros(4), torch.ones(4))


def test_networks_refuse_a_negative_number_of_classes() -> None:
    with pytest.raises(ValueError, match="num_classes=-1"):
        MLP(2, num_classes=-1)
