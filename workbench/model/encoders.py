"""The vision encoder, a timm model; and a check that both encoders of given settings can be built."""

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from workbench.config.schema import Settings, Vision
from workbench.data.text import PAD, pretrained_tokeniser
from workbench.errors import UserError, first_line
from workbench.model.language import read_text, text_encoder
from workbench.model.weights import vision_weights


class VisionEncoder(nn.Module):
    """Maps uint8 images [B, 3, H, W] to features [B, N, channels] of a timm model; `grid`: rows and columns of the N
    places."""

    grid: tuple[int, int]
    mean: Tensor
    std: Tensor

    def __init__(self, config: Vision, image_size: int) -> None:
        super().__init__()
        self.final = config.tokens == "final"
        # A transformer needs the side of its images, since position embeddings are interpolated to it.
        options = config.options | ({"img_size": image_size} if self.final else {})
        cut = {"num_classes": 0} if self.final else {"features_only": True, "out_indices": (config.stage,)}
        try:
            weights = vision_weights(config.name, options, config.weights) if config.weights else {}
            self.backbone = cast(
                Any,
                timm.create_model(
                    config.name,
                    pretrained=config.pretrained or bool(weights),
                    pretrained_cfg_overlay={"state_dict": weights} if weights else None,
                    **cut,
                    **options,
                ),
            )
            if self.final:
                self.backbone.prune_intermediate_layers([config.stage], prune_norm=False, prune_head=True)
        except OSError as error:
            if error.errno is not None or not config.pretrained:  # such as a full disk
                raise
            source = timm.models.get_pretrained_cfg(config.name)
            command = f": hf download {source.hf_hub_id}" if source and source.hf_hub_id else ""
            raise UserError(
                f"`model.vision.pretrained`: the weights of `{config.name}` are not on this machine and cannot be"
                f" fetched ({first_line(error)}); set `model.vision.weights` to a file, or fetch them where the hub"
                f" can be reached{command}"
            ) from error
        except (RuntimeError, TypeError, AssertionError, ValueError, IndexError) as error:
            raise UserError(f"`model.vision`: timm cannot build `{config.name}` ({error}).") from error
        if config.pretrained or weights or self.final:
            mean, std = (self.backbone.pretrained_cfg[name] for name in ("mean", "std"))
        else:
            mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        try:
            with torch.no_grad():
                probe: Tensor = self.eval()._map(torch.zeros(1, 3, image_size, image_size))
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"`data.image_size`: `{config.name}` cannot read images of {image_size} px ({first_line(error)})."
            ) from error
        self.prefix_tokens = int(getattr(self.backbone, "num_prefix_tokens", 0))
        if not self.final:
            self.grid = (probe.shape[2], probe.shape[3])
        _, self.tokens, self.channels = self._flatten(probe).shape
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        scaled = (images.to(dtype=torch.float32) / 255 - self.mean) / self.std
        return self._flatten(self._map(scaled))

    def _map(self, images: Tensor) -> Tensor:
        if self.final:
            return self.backbone.forward_features(images)
        return self.backbone(images.contiguous(memory_format=torch.channels_last))[-1]

    def _flatten(self, features: Tensor) -> Tensor:
        # Some transformers keep their tokens in rows and columns, channels last; a grid has channels first.
        return features.flatten(1, -2) if self.final else features.flatten(2).transpose(1, 2)


def feature_shape(config: Vision, image_size: int) -> tuple[int, int]:
    """The number of tokens and of channels of an encoder's features, computed without weights. Raises UserError as the
    encoder itself does."""
    bare = config.model_copy(update={"pretrained": False, "weights": None})
    with torch.device("meta"):
        encoder = VisionEncoder(bare, image_size)
    return encoder.tokens, encoder.channels


def check_encoders(settings: Settings) -> None:
    """Builds both encoders and discards them. Raises UserError if weights are missing, damaged, or do not fit."""
    model, data = settings.model, settings.data
    with torch.random.fork_rng(devices=[]):
        vision = VisionEncoder(model.vision, data.image_size)
        if model.image_pool == "first" and vision.prefix_tokens == 0:
            raise UserError(
                f"`model.image_pool: first` needs a class token, and `{model.vision.name}` has none; set"
                " `model.image_pool: mean`."
            )
        # Whether text weights fit depends on the tokeniser, which may yet have to be trained on the captions.
        if model.text.weights and not data.tokeniser:
            read_text(model.text)
            return
        vocabulary, pad = data.vocabulary, PAD
        if data.tokeniser:
            tokeniser = pretrained_tokeniser(data.tokeniser, data.max_length)
            vocabulary, pad = tokeniser.size, tokeniser.pad
        try:
            language = text_encoder(model.text, model.width, vocabulary, data.max_length, pad)
        except ValueError as error:  # heads that do not divide the width
            raise UserError(f"`model.text`: transformers cannot build it ({first_line(error)}).") from error
        if model.mlm_head == "language" and language.config.hidden_size != model.width:
            raise UserError(
                "`model.mlm_head: language` needs a model as wide as its language encoder; set `model.width` to "
                f"{language.config.hidden_size}."
            )
