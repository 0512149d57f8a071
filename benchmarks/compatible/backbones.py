"""Backbones of transformers, tiny, as networks of tokens or pictures."""

from typing import Any

import torch
from torch import Tensor, nn

from .entry import Entry

WIDTH = 16
TOKENS, IMAGE = (8, 4), (3, 16, 16)
DEEP: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 32,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
}
LLAMA = {**DEEP, "num_key_value_heads": 1, "head_dim": 8}
VISION: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}


class Tokens(nn.Module):
    """Tokens (B, L, C) to a model of language and back; both times are added to each."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.into, self.out = body, nn.Linear(TOKENS[1], WIDTH), nn.Linear(WIDTH, TOKENS[1])
        self.times = nn.Sequential(nn.Linear(2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.into(z) + self.times(torch.stack([r, t], 1))[:, None]
        return self.out(self.body(inputs_embeds=h).last_hidden_state)


class Pictures(nn.Module):
    """Pictures to a model of vision, whose features make a picture; both times move the channels that go in."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        with torch.no_grad():
            features = body(pixel_values=torch.zeros(1, *IMAGE)).last_hidden_state.flatten(1).shape[1]
        self.body, self.out = body, nn.Linear(features, 3 * 16 * 16)
        self.times = nn.Sequential(nn.Linear(2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 3))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        moved = z + self.times(torch.stack([r, t], 1))[:, :, None, None]
        return self.out(self.body(pixel_values=moved).last_hidden_state.flatten(1)).reshape(z.shape)


def backbone(model: str, config: str, around: type[nn.Module], **settings: Any) -> Entry:
    """A backbone by its class, its config's class and settings."""

    def make() -> nn.Module:
        import transformers

        return around(getattr(transformers, model)(getattr(transformers, config)(**settings)))

    return Entry(make, TOKENS if around is Tokens else IMAGE)


def words(name: str, model: str = "", **settings: Any) -> Entry:
    return backbone(model or f"{name}Model", f"{name}Config", Tokens, **settings)


def vision(name: str, model: str = "", **settings: Any) -> Entry:
    return backbone(model or f"{name}Model", f"{name}Config", Pictures, **settings)


BACKBONES: dict[str, Entry] = {
    "BERT": words("Bert", **DEEP),
    "RoBERTa": words("Roberta", **DEEP),
    "DistilBERT": words("DistilBert", vocab_size=32, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=32),
    "ELECTRA": words("Electra", **DEEP, embedding_size=WIDTH),
    "ModernBERT": words("ModernBert", **DEEP),
    "T5 (encoder)": words(
        "T5", "T5EncoderModel", vocab_size=32, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    ),
    "GPT-2": words("GPT2", vocab_size=32, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64),
    "GPT-NeoX": words("GPTNeoX", **DEEP),
    "OPT": words(
        "OPT",
        vocab_size=32,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        ffn_dim=32,
        num_attention_heads=2,
        word_embed_proj_dim=WIDTH,
    ),
    "Llama": words("Llama", **LLAMA),
    "Mistral": words("Mistral", **LLAMA),
    "Gemma 2": words("Gemma2", **LLAMA),
    "Gemma 3": words("Gemma3Text", "Gemma3TextModel", **LLAMA),
    "Qwen2": words("Qwen2", **LLAMA),
    "Qwen3": words("Qwen3", **LLAMA),
    "Phi-3": words("Phi3", **LLAMA),
    "OLMo 2": words("Olmo2", **LLAMA),
    "Falcon": words("Falcon", vocab_size=32, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2),
    "Mixtral": words("Mixtral", **LLAMA, **MOE),
    "Qwen3-MoE": words("Qwen3Moe", **LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "Mamba": words("Mamba", vocab_size=32, hidden_size=WIDTH, num_hidden_layers=2, state_size=4),
    "Mamba-2": words(
        "Mamba2",
        vocab_size=32,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        state_size=4,
        num_heads=4,
        head_dim=8,
        n_groups=1,
        chunk_size=4,
    ),
    "RWKV": words("Rwkv", vocab_size=32, hidden_size=WIDTH, num_hidden_layers=2, attention_hidden_size=WIDTH),
    "ViT": vision("ViT", **VISION),
    "DINOv2": vision("Dinov2", **{k: v for k, v in VISION.items() if k != "intermediate_size"}, mlp_ratio=2),
    "CLIP (vision)": vision("CLIPVision", "CLIPVisionModel", **VISION),
    "SigLIP (vision)": vision("SiglipVision", "SiglipVisionModel", **VISION),
    "Swin": vision(
        "Swin", image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4
    ),
    "SegFormer": vision(
        "Segformer",
        sr_ratios=[2, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        depths=[1] * 4,
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
    ),
    "ConvNeXt": vision("ConvNext", patch_size=2, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4),
}
