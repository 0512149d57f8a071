#!/usr/bin/env bash
# torch.func.jvp of scatter_reduce(reduce="prod") gives zeros, without a word,
# where the backward pass and central differences agree on another value (torch 2.13.0, CPU).
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "torch==2.13.0" numpy
"$here/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)
x = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
index, source = torch.tensor([0, 0, 1]), torch.tensor([7.0, 11.0, 13.0], dtype=torch.float64)
v, h = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64), 1e-5
f = lambda x: torch.scatter_reduce(x, 0, index, source, "prod")
forward = torch.func.jvp(f, (x,), (v,))[1]
backward = torch.autograd.functional.jacobian(f, x) @ v
difference = (f(x + h * v) - f(x - h * v)) / (2 * h)
print("forward", forward.tolist(), "backward", backward.tolist(), "difference", difference.tolist())
assert not forward.any() and torch.allclose(backward, difference), "the behaviour has changed"
PY
