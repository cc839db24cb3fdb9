"""A small GPT (predicts the next byte) and a small BERT (predicts masked bytes).

Both are the pre-norm transformer of Radford et al. 2019; they differ in what a token may look at and in the loss.
Devlin et al. 2019 is followed in the masking: of 15 % chosen tokens 80 % are masked, 10 % replaced, 10 % left.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from trainer.data import mix, uniform
from trainer.workloads.base import Batch, Source
from trainer.workloads.text import LENGTH, VOCABULARY

IGNORED: Final = -100
MASK_TOKEN: Final = VOCABULARY
CHOSEN: Final = 0.15


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.norm_1 = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, features: Tensor) -> Tensor:
        samples, length, width = features.shape
        parts = self.attention_in(self.norm_1(features)).view(samples, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        features = features + self.attention_out(attended.transpose(1, 2).reshape(samples, length, width))
        result: Tensor = features + self.feed_forward(self.norm_2(features))
        return result


class Transformer(nn.Module):
    """Tokens to logits: 3.3 million parameters by default."""

    def __init__(self, *, causal: bool, layers: int = 4, width: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY + 1, width)
        self.positions = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(_Block(width, heads, causal=causal) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY)
        for parameter in (self.tokens.weight, self.positions.weight, self.head.weight):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of shape (samples, length, 256) for tokens of shape (samples, length)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        features = self.blocks(self.tokens(tokens) + self.positions(positions))
        logits: Tensor = self.head(self.norm(features))
        return logits


class TokenSource(Protocol):
    """A dataset of token rows."""

    @property
    def size(self) -> int: ...

    def tokens(self, indices: Tensor) -> Tensor: ...


class NextToken:
    """Inputs and, as targets, the same tokens one position later."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self.size = source.size

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        tokens = self._source.tokens(indices)
        return Batch(tokens[:, :-1], tokens[:, 1:], keys, tokens.shape[0] * LENGTH)


class MaskedTokens:
    """Inputs with masked tokens; the targets are those tokens, and all others do not count."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self.size = source.size

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        tokens = self._source.tokens(indices)[:, :-1]
        places = mix(keys[:, None] + mix(torch.arange(LENGTH)))
        chosen = uniform(places, 1) < CHOSEN
        fate = uniform(places, 2)
        replacement = torch.where(fate < 0.8, MASK_TOKEN, mix(places) & (VOCABULARY - 1))
        inputs = torch.where(chosen & (fate < 0.9), replacement, tokens)
        targets = torch.where(chosen, tokens, IGNORED)
        return Batch(inputs, targets, keys, int(chosen.sum()))


class LanguageWorkload:
    """Cross entropy over the tokens that count; a unit of the loss is such a token."""

    def __init__(self, name: str, model: nn.Module, source: Source, units_per_sample: float) -> None:
        self.name = name
        self.model = model
        self.source = source
        self.units_per_sample = units_per_sample

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.model(batch.inputs).float()
        targets = batch.targets.flatten()
        loss = functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
        correct = (logits.detach().argmax(2) == batch.targets).sum()
        return loss, correct


def language_workload(name: str, source: TokenSource) -> LanguageWorkload:
    """Build ``gpt_small`` or ``bert_small``, with parameters drawn from torch's global generator."""
    if name == "gpt_small":
        return LanguageWorkload(name, Transformer(causal=True), NextToken(source), LENGTH)
    return LanguageWorkload(name, Transformer(causal=False), MaskedTokens(source), LENGTH * CHOSEN)
