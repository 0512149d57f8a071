"""What loses the tangent or the gradient, or mixes rows of which some have none, is refused by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alphaflow.derivatives.fused import NoRule, dual_forward
from foreign_bodies import Net, check
from small_networks import inputs


class Swish(torch.autograd.Function):
    """EfficientNet's, which keeps less for the backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


class Reversal(torch.autograd.Function):
    """Gives its input back as it is."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return -grad


ESCAPED = {
    "autograd function": (lambda h, c: Swish.apply(h) * c, "inside of a torch.autograd.Function"),
    "autograd function that gives its input back": (lambda h, c: Reversal.apply(h) * c, "Function|reached past"),
    "reentrant checkpoint": (
        lambda h, c: checkpoint(lambda x: x.sin(), h, use_reentrant=True) * c,
        "use_reentrant=True",
    ),
    "buffer": (lambda h, c: torch.zeros(h.shape).double().index_copy_(1, torch.arange(8), h), "writes in place"),
    "buffer by index": (lambda h, c: torch.zeros(h.shape).double().__setitem__(..., h), "writes in place"),
    "buffer plus": (lambda h, c: torch.ones(h.shape).double().add_(h) * c, "writes in place"),
    "out=": (lambda h, c: torch.add(h, c, out=torch.empty(h.shape).double()), "out="),
    "data": (lambda h, c: h * c.data, "Tensor.data"),
    "item": (lambda h, c: h * c.max().item() if len(h) == 1 else h * c[..., 0].T.tolist()[0], "tolist|item"),
    "float": (lambda h, c: h * float(c.sum((0, 1))), "float|whole batch|along the batch"),
    "tensor of it": (lambda h, c: h * torch.tensor(c), "reached past"),
    "numpy": (lambda h, c: h * torch.from_numpy(c.detach().numpy()), "numpy"),
    "array": (lambda h, c: h * torch.as_tensor(__import__("numpy").asarray(c)), "array"),
    "as_strided": (lambda h, c: torch.as_strided(h, (len(h), 4), (8, 2)).repeat(1, 2) * c, "as_strided"),
    "vmap": (lambda h, c: torch.vmap(lambda x: x.sin())(h) * c, "reached past"),
    "as_subclass": (lambda h, c: h.as_subclass(Tensor) * c, "reached past|as_subclass"),
    "operator of torch.library": (lambda h, c: h + act(h) * c, "no rule for .*act"),
    "rrelu": (lambda h, c: F.rrelu(h, training=True) * c, "same draw"),
    "bernoulli": (lambda h, c: h * torch.bernoulli(c.sigmoid()), "same draw"),
    "in place, random": (lambda h, c: h * (c * 1).normal_(), "same draw"),
    "scripted function": (
        lambda h, c: h + clamped(c, 4.0),
        "clamped is a torch.jit.script.*PYTORCH_JIT=0",
    ),
    "products scattered": (
        lambda h, c: h.scatter_reduce(1, torch.zeros(len(h), 8, dtype=torch.long), c, "prod"),
        "zeros for its derivative",
    ),
}


@torch.jit.script
def clamped(x: Tensor, most: float) -> Tensor:
    return (x / most).tanh() * most


@torch.library.custom_op("alphaflow_tests::act", mutates_args=())
def act(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


act.register_autograd(
    lambda ctx, grad: grad * ctx.slope,
    setup_context=lambda ctx, inputs, output: setattr(ctx, "slope", inputs[0].sigmoid()),
)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("graph", [True, False], ids=["with a graph", "without"])
@pytest.mark.parametrize("name", ESCAPED)
def test_what_would_lose_the_tangent_or_the_gradient_is_refused(name, graph, start):
    body, message = ESCAPED[name]
    net, (z, v, t) = Net(body), inputs()
    with torch.set_grad_enabled(graph), pytest.raises(NoRule, match=message):
        dual_forward(lambda z, t: net(z, t, t), z, v[start:], t, start=start)


recurrent = nn.GRU(8, 8, batch_first=True).double()
MIXED = {
    "flip": lambda h, c: h.flip(0) + c,
    "flipped by keywords": lambda h, c: torch.flip(h, dims=(0,)) + c,
    "roll": lambda h, c: h.roll(1, 0) + c,
    "sort": lambda h, c: h.sort(0).values + c,
    "cumsum": lambda h, c: h.cumsum(0) + c,
    "log_softmax": lambda h, c: h.log_softmax(0) + c,
    "normalize": lambda h, c: F.normalize(h, dim=0) + c,
    "gram": lambda h, c: h @ (h.T @ c),
    "einsum": lambda h, c: torch.einsum("bi,bj,cj->ci", h, c, h),
    "permuted": lambda h, c: h[torch.arange(len(h)).flip(0)] + c,
    "gathered": lambda h, c: h.gather(0, torch.zeros(len(h), 8, dtype=torch.long)) + c,
    "attention over the batch": lambda h, c: F.scaled_dot_product_attention(h[None], h[None], c[None])[0],
    "convolution over the batch": lambda h, c: F.conv1d(h[None], torch.ones(4, 4, 1).double())[0] * c,
    "batch norm": lambda h, c: F.batch_norm(h, None, None, training=True) * c,
    "folded": lambda h, c: (h.view(2, -1, 8) * torch.arange(1, 3).double()[:, None, None]).sum(0).repeat(2, 1) + c,
    "written from another row": lambda h, c: (h * 1).index_copy_(0, torch.tensor([0, 3]), h[:2]) + c,
    "recurrent over the batch": lambda h, c: recurrent(h[None])[0][0] * c,
    "tensordot over the batch": lambda h, c: torch.tensordot(torch.ones(4, 4).double(), h, 1) + c,
    "tensordot of both": lambda h, c: torch.tensordot(h, c, ([1], [1])) @ h,
    "added to its transpose": lambda h, c: h[:, :4] @ h[:, 4:].T @ c,
}


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_mix_are_refused_on_part_of_the_batch_and_right_on_all_of_it(name):
    net, (z, v, t) = Net(MIXED[name]), inputs()
    for start in (1, 3):
        with pytest.raises(NoRule):
            dual_forward(lambda z, t: net(z, t, t), z, v[start:], t, start=start)
    if name != "written from another row":
        check(net, 0)
