"""Networks of the field that are not taken in, told by the names of their weights, so that a refusal names them.

Some share most of their names with a DiT, and would give numbers that mean nothing if they were taken for one.
"""

import re
from collections.abc import Mapping
from typing import Any

MARKS = (
    (r"(^|\.)x_embedder\.proj1\.", "pMF's network (arXiv 2601.22158), whose output is an image and no velocity"),
    (r"(^|\.)s_projector\.|(^|\.)dec_feat_rope\.", "RAE's DiTDH, an encoder and a decoder of two widths"),
    (r"(^|\.)guidance_embedder\.", "TVM's network (arXiv 2511.19797), which is told a guidance scale"),
    (r"(^|\.)logvar_linear\.", "DMF's network, whose later blocks see r in place of t"),
    (
        r"(^|\.)feat_rope\.|\.mlp\.w12\.|blocks\.\d+\.attn\.q_norm\.",
        "LightningDiT's network or its kin (FACM's among them): rotary positions, SwiGLU or normed queries",
    ),
    (r"(^|\.)(enc|dec)\.\d+x\d+_", "a U-Net of EDM's kind (EDM, ECT, CMT, py-meanflow)"),
    (r"(^|\.)input_blocks\.\d+\.", "a U-Net of ADM's kind (guided-diffusion, Latent Diffusion)"),
    (r"(^|\.)(single_)?transformer_blocks\.\d+\.", "a transformer of diffusers"),
)
"""Names that only these networks have, and what they are."""
_DMF = ("args.dmf_depth", "config.dmf_depth", "cfg.dmf_depth")
_MODEL = ("args.model", "config.model", "cfg.model")


def stranger(flat: Mapping[str, Any]) -> str:
    """Return what to say of a checkpoint that holds one of these networks; "" of any other.

    flat: the leaves of the checkpoint by their dotted names.
    """
    if any(flat.get(name) for name in _DMF) or any(str(flat.get(name)).startswith("DMFT") for name in _MODEL):
        return _said("DMF's network, whose later blocks see r in place of t")
    for pattern, what in MARKS:
        mark = re.compile(pattern)
        if any(mark.search(name) for name in flat):
            return _said(what)
    return ""


def _said(what: str) -> str:
    return (
        f"it holds {what}: no network here computes that; build it by its own code, and wrap it in a module "
        "net(z, r, t, y), which every objective and sampler takes"
    )
