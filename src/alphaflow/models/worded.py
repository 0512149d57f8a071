"""The DiT that reads words: a small encoder of its own, whose outputs every block attends to beside the picture.

A block's queries are the picture's tokens alone; its keys and values are those and the words', under one softmax.
Of the words only keys and values are made in each block. They depend on neither z nor t, so the fused derivative
carries no tangent of them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphaflow.models.dit import Attention, DiT, position_table

HEAD = 32
"""Features of a head of the encoder's attention."""


class WordsBlock(nn.Module):
    """A transformer block over words (B, L, width), pre-norm; mask (B, 1, 1, L) says which of them there are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        B, L, D = x.shape
        q, k, v = (
            part.view(B, L, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(seen.transpose(1, 2).reshape(B, L, D))
        return x + self.mlp(self.norm2(x))


class WordsEncoder(nn.Module):
    """Numbers of words, int64 (B, L) with 0 behind the last, to tokens (B, L, width).

    Args:
        vocabulary: how many numbers there are. length: L. width: features of a word; depth: blocks.
    """

    def __init__(self, vocabulary: int, length: int, width: int, depth: int) -> None:
        super().__init__()
        if width < HEAD or width % HEAD:
            raise ValueError(f"text_width={width} is no multiple of {HEAD}: give one")
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(WordsBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, L, width), and which of them there are, bool (B, L): of no words, the first blank."""
        there = y != 0
        there = torch.cat([torch.ones_like(there[:, :1]), there[:, 1:]], dim=1)
        x = self.words(y) + self.places.weight
        mask = there[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), there


class WordedAttention(Attention):
    """Multi-head attention of (B, N, width) to itself and to words (B, L, text_width) together."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__(width, heads)
        self.words = nn.Linear(text_width, 2 * width)

    def forward(self, x: Tensor, *seen: Tensor) -> Tensor:
        """seen: the words, and bool (B, 1, 1, N + L), False where there is none."""
        (words, mask), (B, N, D) = seen, x.shape
        q, k, v = (part.view(B, N, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        told = (
            part.view(B, -1, self.heads, D // self.heads).transpose(1, 2)
            for part in self.words(words).chunk(2, -1)
        )
        k, v = (torch.cat([own, other], dim=2) for own, other in zip((k, v), told))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).reshape(B, N, D))


class WordedDiT(DiT):
    """A DiT whose condition is a prompt: y int64 (B, length), the numbers of its words, with 0 behind the last.

    A row of zeros, or y None for all rows, is unconditional. The words' mean also joins the times' embedding. See
    `DiT`; there are no classes.

    Args:
        vocabulary: how many numbers a word may have, 0 included. length: the most words of a prompt.
        text_width: features of a word, a multiple of 32; text_depth: the encoder's blocks.
        position_step: how far apart the positions of neighbouring tokens are, 1 in a DiT. Of few tokens these are
            hardly told apart.

    Raises:
        ValueError: as `DiT`; in `forward`, prompts of another shape or kind.
    """

    position_step = 1.0  # while the DiT's own constructor runs

    def __init__(
        self,
        input_size: int | Sequence[int],
        patch: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        vocabulary: int,
        length: int,
        text_width: int = 64,
        text_depth: int = 2,
        mlp_ratio: float = 4.0,
        activation: str = "gelu-tanh",
        position_step: float = 1.0,
    ) -> None:
        super().__init__(input_size, patch, channels, width, depth, heads, 0, mlp_ratio, activation)
        del self.config["num_classes"], self.config["guided"]
        self.config |= {
            "vocabulary": vocabulary,
            "length": length,
            "text_width": text_width,
            "text_depth": text_depth,
            "position_step": position_step,
        }
        self.length, self.position_step = length, position_step
        self.encoder = WordsEncoder(vocabulary, length, text_width, text_depth)
        self.pooled = nn.Linear(text_width, width)
        for block in self.blocks:
            block.attn = WordedAttention(width, heads, text_width)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise as a DiT; embeddings of words so that they are told apart beside what blocks add to them."""
        super().init_weights()
        if hasattr(self, "encoder"):  # not while the DiT's own constructor runs
            for embedding in (self.encoder.words, self.encoder.places):
                nn.init.normal_(embedding.weight, std=0.5)

    def _positions(self, width: int) -> Tensor:
        return position_table(*self.grid, width, step=self.position_step)

    def conditions(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
        c = self.condition(z, r, t, None)
        if y is None:
            y = torch.zeros(z.shape[0], self.length, dtype=torch.int64, device=z.device)
        if y.shape != (z.shape[0], self.length) or y.is_floating_point():
            raise ValueError(
                f"y is {y.dtype} of shape {tuple(y.shape)}: this network takes prompts, int64 "
                f"({z.shape[0]}, {self.length}) as a vocabulary encodes them"
            )
        words, there = self.encoder(y)
        share = there.to(words.dtype)
        mean = (words * share.unsqueeze(2)).sum(1) / share.sum(1, keepdim=True)
        picture = torch.ones(z.shape[0], self.pos_embed.shape[0], dtype=torch.bool, device=z.device)
        return c + self.pooled(mean), words, torch.cat([picture, there], dim=1)[:, None, None]
