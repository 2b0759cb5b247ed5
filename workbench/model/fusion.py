"""Fusion with METER's post-norm layers: co-attention of two streams, or one merged stream."""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.config.schema import Fusion

Rows = slice | Tensor  # of a batch
ALL, NONE = slice(None), slice(0)


class Attention(nn.Module):
    """Multi-head attention of `queries` [B, Q, D] over `states` [B, K, D]; `mask` bool [B, K] marks the states that may
    be read."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        allowed = None if mask is None else mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(
            split(self.query(queries)),
            split(self.key(states)),
            split(self.value(states)),
            attn_mask=allowed,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        return self.dropout(self.output(attended.transpose(1, 2).flatten(2)))


class CrossLayer(nn.Module):
    """Self-attention, cross-attention to the other stream and MLP, each with a residual and a post-norm."""

    def __init__(self, width: int, config: Fusion) -> None:
        super().__init__()
        self.self_attention = Attention(width, config.heads, config.dropout)
        self.cross_attention = Attention(width, config.heads, config.dropout)
        if config.initialisation == "similarity":
            _attend_by_similarity(self.cross_attention)
        self.mlp = _mlp(width, config)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=config.norm_epsilon) for _ in range(3))

    def forward(
        self, x: Tensor, other: Tensor, mask: Tensor | None, other_mask: Tensor | None, first_only: bool = False
    ) -> Tensor:
        """Maps tokens [B, N, D] to [B, N, D]; with `first_only`, to the output of the first token alone, [B, 1, D]."""
        queries = x[:, :1] if first_only else x
        x = self.norms[0](queries + self.self_attention(queries, x, mask))
        x = self.norms[1](x + self.cross_attention(x, other, other_mask))
        return self.norms[2](x + self.mlp(x))


class MergedLayer(nn.Module):
    """Self-attention and MLP over one stream, each with a residual and a post-norm."""

    def __init__(self, width: int, config: Fusion) -> None:
        super().__init__()
        self.self_attention = Attention(width, config.heads, config.dropout)
        if config.initialisation == "similarity":
            _attend_by_similarity(self.self_attention)
        self.mlp = _mlp(width, config)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=config.norm_epsilon) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norms[0](x + self.self_attention(x, x, mask))
        return self.norms[1](x + self.mlp(x))


def _mlp(width: int, config: Fusion) -> nn.Sequential:
    hidden = int(width * config.mlp_ratio)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(config.dropout))


def _attend_by_similarity(attention: Attention, gain: float = 2.0) -> None:
    """Makes query and key equal, and scales them up: tokens that the warm start has aligned attend to each other from
    the first step."""
    with torch.no_grad():
        attention.query.weight.mul_(gain)
        attention.key.weight.copy_(attention.query.weight)


class CoAttention(nn.Module):
    """Fuses text [B, L, D] and image [B, N, D] tokens: returns text [B, L, D] of all pairs, and image [P, N, D] of the
    `paired` rows. With `first_only`, the image output is its first token alone, [P, 1, D]. The last image layer then
    computes nothing else, since no text layer reads it."""

    def __init__(self, width: int, config: Fusion) -> None:
        super().__init__()
        self.text_layers = nn.ModuleList(CrossLayer(width, config) for _ in range(config.layers))
        self.image_layers = nn.ModuleList(CrossLayer(width, config) for _ in range(config.layers))

    @property
    def layers(self) -> list[nn.Module]:
        return [*self.text_layers, *self.image_layers]

    def forward(
        self, text: Tensor, image: Tensor, text_mask: Tensor | None, paired: Rows = ALL, first_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        *before, (last_of_text, last_of_image) = zip(self.text_layers, self.image_layers, strict=True)
        for text_layer, image_layer in before:
            text, image = text_layer(text, image, text_mask, None), image_layer(image, text, None, text_mask)
        mask = None if text_mask is None else text_mask[paired]
        fused = last_of_text(text, image, text_mask, None)
        return fused, last_of_image(image[paired], text[paired], None, mask, first_only)


class Merged(nn.Module):
    """Fuses text [B, L, D] and image [B, N, D] tokens as one stream, with the same output as `CoAttention`."""

    def __init__(self, width: int, config: Fusion) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MergedLayer(width, config) for _ in range(config.layers))

    def forward(
        self, text: Tensor, image: Tensor, text_mask: Tensor | None, paired: Rows = ALL, first_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        x = torch.cat([text, image], dim=1)
        mask = None
        if text_mask is not None:
            mask = torch.cat([text_mask, text_mask.new_ones(image.shape[:2])], dim=1)
        for layer in self.layers:
            x = layer(x, mask)
        length = text.shape[1]
        return x[:, :length], x[paired, length : length + 1 if first_only else None]


FUSIONS: Final = {"co_attention": CoAttention, "merged": Merged}
