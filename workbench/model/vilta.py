"""The assembled model: a vision encoder, a language encoder, fusion, MLM and ITM heads."""

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.config.schema import Itc, Model
from workbench.data.text import Vocabulary, padding_mask
from workbench.model.encoders import VisionEncoder
from workbench.model.fusion import ALL, FUSIONS, CoAttention, Merged, Rows
from workbench.model.language import encoder_layers, head_parts, text_encoder, text_states, word_logits


class ViLTA(nn.Module):
    """The model; all methods work on batches. `token_ids` int64 [B, L] is padded, and masks are derived from it.
    `ordinary` bool [V]: the tokens that are not special."""

    ordinary: Tensor

    def __init__(
        self, config: Model, image_size: int, vocabulary: Vocabulary, max_length: int, itc: Itc | None = None
    ) -> None:
        super().__init__()
        width = config.width
        self.image_side, self.pad = image_size, vocabulary.pad
        self.register_buffer("ordinary", torch.tensor(vocabulary.ordinary), persistent=False)
        self.vision = VisionEncoder(config.vision, image_size)
        self.language = text_encoder(config.text, width, vocabulary.size, max_length, self.pad)
        text_width = self.language.config.hidden_size
        self.image_adapter = nn.Sequential(nn.Linear(self.vision.channels, width))
        if config.image_norm:
            self.image_adapter.append(nn.LayerNorm(width))
        self.image_positions, self.image_pool = config.image_positions, config.image_pool
        self.text_pool = config.text_pool
        rows, columns = self.vision.grid if config.image_positions else (0, 0)
        # Separate row and column parts, because relations such as `above` depend on one of them alone.
        # They start as ramps: the relative position of two things is then a difference, which a linear map can compute.
        # The device is explicit because `linspace` may ignore the default device once transformers has loaded weights.
        by_row, by_column = torch.randn(width), torch.randn(width)
        down = torch.linspace(-1, 1, rows, device=by_row.device)[:, None, None]
        across = torch.linspace(-1, 1, columns, device=by_row.device)[None, :, None]
        self.row_positions = nn.Parameter(down * by_row, requires_grad=config.image_positions)
        self.column_positions = nn.Parameter(across * by_column, requires_grad=config.image_positions)
        self.text_type, self.image_type = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.text_projection = nn.Linear(text_width, width)
        self.fusion = FUSIONS[config.fusion.kind](width, config.fusion)
        self.text_pooler, self.image_pooler = (nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(2))
        self.itm_head = nn.Linear(2 * width, 2)
        norm = nn.LayerNorm(width, eps=config.fusion.norm_epsilon)
        self.mlm_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), norm)
        self.mlm_decoder = nn.Linear(width, vocabulary.size)
        if config.fusion.initialisation == "bert":
            for name, module in self.named_children():
                if name not in ("vision", "language"):
                    module.apply(_initialise_as_bert)

        if itc is not None and itc.weight > 0:
            self.itc_image, self.itc_text = (nn.Linear(size, itc.width) for size in (width, text_width))
            self.itc_temperature = nn.Parameter(
                torch.tensor([itc.temperature])
            )  # a vector, since FSDP2 cannot shard scalars

    def layers(self) -> Iterator[nn.Module]:
        """Yields the repeated layers of encoders and fusion: the units of sharding, recomputation and compilation."""
        for name, module in self.vision.backbone.named_modules():
            if name.rpartition(".")[2] == "blocks":
                yield from module.children()
        yield from encoder_layers(self.language)
        yield from cast(CoAttention | Merged, self.fusion).layers

    def contrast_features(self, image_tokens: Tensor, text_states: Tensor) -> tuple[Tensor, Tensor]:
        """Maps image tokens [B, N, D] and text states [B, L, D] to unit vectors [B, P] of images and captions (ITC)."""
        return F.normalize(self.itc_image(self._pool(image_tokens)), dim=-1), F.normalize(
            self.itc_text(text_states[:, 0]), dim=-1
        )

    @torch.no_grad()
    def copy_language_head(self) -> None:
        """Copies the language encoder's head, which has the same architecture, to the fused MLM head."""
        dense, norm, decoder = head_parts(self.language)
        for ours, theirs in ((self.mlm_head[0], dense), (self.mlm_head[2], norm), (self.mlm_decoder, decoder)):
            ours.load_state_dict({"bias": theirs.weight.new_zeros(len(theirs.weight))} | theirs.state_dict())

    def image_features(self, images: Tensor) -> Tensor:
        """Maps uint8 [B, 3, H, W] to backbone features [B, N, C], before the adapter."""
        return self.vision(images)

    def adapt_image(self, features: Tensor) -> Tensor:
        """Maps backbone features [B, N, C] to image tokens [B, N, D], without positions."""
        return self.image_adapter(features)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """The hidden states [B, L, D] of the language encoder."""
        return text_states(self.language, token_ids)

    def predict_words(self, text_states: Tensor) -> Tensor:
        """Logits [..., V] of the language encoder's own head for states [..., D], without the image."""
        return word_logits(self.language, text_states)

    def fuse(
        self, text_states: Tensor, image_tokens: Tensor, token_ids: Tensor, paired: Rows = ALL
    ) -> tuple[Tensor, Tensor]:
        """Returns fused text states [B, L, D], and for the rows `paired` the pooled states [P, 2 D] (tanh poolers of
        text and image)."""
        if self.image_positions:
            image_tokens = image_tokens + (self.row_positions + self.column_positions).flatten(0, 1)
        mask = padding_mask(token_ids, self.pad)
        text, image = self.fusion(
            self.text_projection(text_states) + self.text_type,
            image_tokens + self.image_type,
            mask,
            paired,
            self.image_pool == "first",
        )
        read = text[paired]
        read = read[:, 0] if self.text_pool == "first" else _mean(read, None if mask is None else mask[paired])
        return text, torch.cat([self.text_pooler(read), self.image_pooler(self._pool(image))], dim=-1)

    def _pool(self, image: Tensor) -> Tensor:
        # A convolutional grid has no class token, so its tokens are averaged.
        return image.mean(dim=1) if self.image_pool == "mean" else image[:, 0]

    def itm_logits(self, pooled: Tensor) -> Tensor:
        """Logits [B, 2]; column 1 means match."""
        return self.itm_head(pooled)

    def mlm_logits(self, fused_text: Tensor) -> Tensor:
        """Logits [..., V] for fused states [..., D]."""
        return self.mlm_decoder(self.mlm_head(fused_text))


def _mean(text: Tensor, mask: Tensor | None) -> Tensor:
    """The mean [B, D] of text states [B, L, D] over the tokens that `mask` bool [B, L] marks."""
    if mask is None:
        return text.mean(dim=1)
    kept = mask[..., None]
    return (text * kept).sum(dim=1) / kept.sum(dim=1)


def _initialise_as_bert(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
