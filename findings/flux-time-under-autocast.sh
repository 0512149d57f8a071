#!/usr/bin/env bash
# diffusers' FluxTransformer2DModel under bfloat16 autocast tells times apart only to 8 bits, although time, weights and
# inputs are float32: it casts the time, in [0, 1], to the type of its embedded tokens, which autocast has made
# bfloat16, and multiplies by 1000 after that. So 200 times between 0.9 and 1 give a few dozen outputs, the time is off
# by up to 2 of 1000, and the slope in time is that at another time. Flux2Transformer2DModel has the same line before
# its tokens are embedded, and tells all 200 apart (diffusers 0.42.1, torch 2.13.0, CPU). A float32 output of
# `x_embedder` is enough to cure it.
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "torch==2.13.0" "diffusers==0.42.1" numpy
"$here/venv/bin/python" - <<'PY'
import diffusers
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel

print("torch", torch.__version__, "diffusers", diffusers.__version__)
small = {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "joint_attention_dim": 16}
small |= {"attention_head_dim": 8}
torch.manual_seed(0)
flux = FluxTransformer2DModel(**small, axes_dims_rope=(2, 2, 4), pooled_projection_dim=16).eval()
flux2 = Flux2Transformer2DModel(**small, axes_dims_rope=(2, 2, 2, 2), guidance_embeds=False).eval()
times = torch.linspace(0.9, 0.9995, 200)
z, words = torch.randn(1, 16, 4), torch.randn(1, 5, 16)


def told_apart(net: torch.nn.Module, axes: int, **further: torch.Tensor) -> int:
    """How many of the times reach the network's embedding of the time as different ones."""
    seen: set[float] = set()
    embedding = net.time_text_embed if axes == 3 else net.time_guidance_embed
    hook = embedding.register_forward_pre_hook(lambda module, args: seen.add(float(args[0])))
    places = {"img_ids": torch.zeros(16, axes), "txt_ids": torch.zeros(5, axes)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for time in times:
            net(hidden_states=z, encoder_hidden_states=words, timestep=time[None], **places, **further)
    hook.remove()
    return len(seen)


pooled = torch.randn(1, 16)
first, second = told_apart(flux, 3, pooled_projections=pooled), told_apart(flux2, 4)
flux.x_embedder.register_forward_hook(lambda module, args, out: out.float())
cured = told_apart(flux, 3, pooled_projections=pooled)
print("of 200 times Flux sees", first, "Flux.2", second, "Flux with float32 tokens", cured)
assert first < 50 and second == 200 and cured == 200, "the behaviour has changed"
PY
