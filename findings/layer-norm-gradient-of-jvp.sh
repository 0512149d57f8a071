#!/usr/bin/env bash
# A gradient through the derivative of torch's layer_norm is wrong, without a word or an error: of a loss of
# torch.func.jvp's tangent, and of the double backward pass alike. The derivative itself is right. Central differences
# of the function, with their ordinary gradient, and the same norm written out agree (torch 2.13.0, CPU, float64;
# rms_norm and group_norm are right). Whoever trains through du/dt (TVM, a gradient penalty) meets it.
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "torch==2.13.0" numpy
"$here/venv/bin/python" - <<'PY'
import torch
import torch.nn.functional as F

print("torch", torch.__version__)
torch.manual_seed(0)
w = torch.randn(3, 8, dtype=torch.float64).requires_grad_()
d, s, h = torch.randn(3, 8, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64), 1e-5


def written(x):
    x = x - x.mean(-1, keepdim=True)
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def gradients(norm):
    def u(s):
        return norm(w * w + s * d)

    _, tangent = torch.func.jvp(u, (s,), (torch.ones_like(s),))
    quotient = (u(s + h) - u(s - h)) / (2 * h)
    ours, right = (torch.autograd.grad(one.square().sum(), w)[0] for one in (tangent, quotient))
    return ((tangent - quotient).norm() / quotient.norm()).item(), ((ours - right).norm() / right.norm()).item()


slope, gradient = gradients(lambda x: F.layer_norm(x, (8,), eps=1e-6))
plain_slope, plain_gradient = gradients(written)
print("layer_norm: tangent off by", slope, "its gradient by", gradient)
print("written out: tangent off by", plain_slope, "its gradient by", plain_gradient)
right = slope < 1e-6 and plain_slope < 1e-6 and plain_gradient < 1e-6
assert right and gradient > 0.1, "the behaviour has changed"
PY
