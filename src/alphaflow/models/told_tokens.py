"""Conditions as an adapted network takes them: tokens, a pooled vector, and which tokens there are."""

from typing import TypeAlias

import torch
from torch import Tensor, nn

from alphaflow.models.embeddings import classes_alone
from alphaflow.models.worded import WordsEncoder

COUNT = 4
"""Tokens of a class."""
TEXT_WIDTH, TEXT_DEPTH = 64, 2
"""Features of a word in the encoder, and its blocks."""

Tokens: TypeAlias = tuple[Tensor, Tensor | None, Tensor]
"""Tokens (B, L, width), a pooled vector (B, pooled) or None, and which tokens there are, bool (B, L)."""


class ClassTokens(nn.Module):
    """A trainable table of a few tokens and a pooled vector for each class, and for none: the last row.

    Args:
        num_classes: how many there are. width, pooled: features of a token and of the pooled vector (0: none).
    """

    def __init__(self, num_classes: int, width: int, pooled: int) -> None:
        super().__init__()
        self.num_classes, self.width = num_classes, width
        self.tokens = nn.Embedding(num_classes + 1, COUNT * width)
        self.pooled = nn.Embedding(num_classes + 1, pooled) if pooled else None

    def forward(self, y: Tensor | None, z: Tensor) -> Tokens:
        """Return what stands for classes int64 (B,); None: for no class, as many times as z has rows."""
        classes_alone(y)
        if y is None:
            y = torch.full(z.shape[:1], self.num_classes, device=z.device)
        tokens = self.tokens(y).view(len(y), COUNT, self.width)
        there = torch.ones(len(y), COUNT, dtype=torch.bool, device=z.device)
        return tokens, None if self.pooled is None else self.pooled(y), there


class WordTokens(nn.Module):
    """A small trainable encoder of words, and layers that give its tokens the network's width.

    Args:
        vocabulary: how many numbers a word may have. length: the most words of a prompt.
        width, pooled: features of a token and of the pooled vector (0: none).
    """

    def __init__(self, vocabulary: int, length: int, width: int, pooled: int) -> None:
        super().__init__()
        self.length = length
        self.encoder = WordsEncoder(vocabulary, length, TEXT_WIDTH, TEXT_DEPTH)
        for embedding in (self.encoder.words, self.encoder.places):
            nn.init.normal_(embedding.weight, std=0.5)
        self.tokens = nn.Linear(TEXT_WIDTH, width)
        self.pooled = nn.Linear(TEXT_WIDTH, pooled) if pooled else None

    def forward(self, y: Tensor | None, z: Tensor) -> Tokens:
        """Return what stands for prompts int64 (B, length), with 0 behind the last word; None: for no words.

        Raises:
            ValueError: prompts of another shape or kind.
        """
        if y is None:
            y = torch.zeros(len(z), self.length, dtype=torch.int64, device=z.device)
        if y.shape != (len(z), self.length) or y.is_floating_point():
            raise ValueError(
                f"y is {y.dtype} of shape {tuple(y.shape)}: this network takes prompts, int64 "
                f"({len(z)}, {self.length}) as a vocabulary encodes them"
            )
        words, there = self.encoder(y)
        if self.pooled is None:
            return self.tokens(words), None, there
        share = there.to(words.dtype)
        mean = (words * share.unsqueeze(2)).sum(1) / share.sum(1, keepdim=True)
        return self.tokens(words), self.pooled(mean), there
