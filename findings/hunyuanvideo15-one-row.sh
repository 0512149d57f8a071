#!/usr/bin/env bash
# diffusers' AutoencoderKLHunyuanVideo15 takes one video at a time: with two rows, encode and decode both end in a
# RuntimeError about shapes. The mask of its attention has the shape (rows, n, n), which beside queries of
# (rows, 1, n, c) broadcasts to (rows, rows, n, n); with one row the two are the same (diffusers 0.42.1, torch 2.13.0,
# CPU). With enable_slicing(), which feeds it row by row, the same batch goes through and equals single calls: loops
# over a data set have to switch that on.
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "torch==2.13.0" "diffusers==0.42.1" numpy
"$here/venv/bin/python" - <<'PY'
import diffusers
import torch

print("torch", torch.__version__, "diffusers", diffusers.__version__)
torch.manual_seed(0)
vae = diffusers.AutoencoderKLHunyuanVideo15(
    block_out_channels=(16, 16, 32, 32),
    latent_channels=4,
    layers_per_block=1,
    spatial_compression_ratio=8,
    temporal_compression_ratio=4,
)
vae.eval().requires_grad_(False)
videos, latents = torch.randn(2, 3, 1, 32, 32), torch.randn(2, 4, 1, 4, 4)
ways = {
    "encode": (lambda x: vae.encode(x).latent_dist.mean, videos),
    "decode": (lambda x: vae.decode(x).sample, latents),
}
for name, (call, x) in ways.items():
    try:
        call(x)
    except RuntimeError as error:
        print(name, "of two rows:", error)
    else:
        raise SystemExit("the behaviour has changed")
vae.enable_slicing()
for name, (call, x) in ways.items():
    single = torch.cat([call(x[:1]), call(x[1:])])
    print(name, "sliced, off by", (call(x) - single).abs().max().item())
    assert torch.equal(call(x), single), "the behaviour has changed"
PY
