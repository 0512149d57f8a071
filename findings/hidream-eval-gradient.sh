#!/usr/bin/env bash
# The mixture of experts of diffusers' HiDream has another gradient in eval() than its own numbers have: there its
# experts run under torch.no_grad, so the backward pass goes through the shared expert only, without a word or an
# error (diffusers 0.42.1, torch 2.13.0, CPU). In train() the same weights give the same output, and the gradient
# agrees with central differences. Whoever tunes an adapter, or guides by a gradient, in eval() gets another one.
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "torch==2.13.0" "diffusers==0.42.1" numpy
"$here/venv/bin/python" - <<'PY'
import diffusers
import torch
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU

print("torch", torch.__version__, "diffusers", diffusers.__version__)
torch.manual_seed(0)
layer = MOEFeedForwardSwiGLU(dim=8, hidden_dim=16, num_routed_experts=2, num_activated_experts=2).double()
torch.nn.init.normal_(layer.gate.weight)  # the layer leaves it as the memory was
x, v, w = torch.randn(3, 2, 4, 8, dtype=torch.float64)
h, outputs, off = 1e-5, {}, {}
for mode in ("train", "eval"):
    layer.train(mode == "train").zero_grad()
    at = x.clone().requires_grad_()
    outputs[mode] = layer(at)
    (outputs[mode] * w).sum().backward()
    with torch.no_grad():
        difference = ((layer(x + h * v) - layer(x - h * v)) * w).sum() / (2 * h)
    off[mode] = (((at.grad * v).sum() - difference) / difference).abs().item()
    none = sum(p.grad is None for p in layer.experts.parameters())
    print(mode, "gradient off by", off[mode], "weights of experts without one:", none)
same = torch.allclose(outputs["train"], outputs["eval"], rtol=1e-12)
assert same and off["train"] < 1e-6 and off["eval"] > 0.01 and none == 6, "the behaviour has changed"
PY
