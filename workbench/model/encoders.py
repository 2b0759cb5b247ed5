"""The two unimodal encoders: timm for pictures, transformers (RoBERTa form) for captions."""

import os
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForMaskedLM

from workbench.config.schema import Settings, Text, Vision
from workbench.data.text import END, MASK, PAD, START, padding_mask, pretrained_tokeniser
from workbench.errors import UserError, first_line
from workbench.model.weights import vision_weights


class VisionEncoder(nn.Module):
    """uint8 pictures [B, 3, H, W] -> features [B, N, channels] of one timm model; `grid` is the rows and columns of the N."""

    grid: tuple[int, int]
    mean: Tensor
    std: Tensor

    def __init__(self, config: Vision, image_size: int) -> None:
        super().__init__()
        self.final = config.tokens == "final"
        # A transformer must know the side of its pictures: its position embeddings are interpolated to it.
        options = config.options | ({"img_size": image_size} if self.final else {})
        cut = {"num_classes": 0} if self.final else {"features_only": True, "out_indices": (config.stage,)}
        try:
            given = vision_weights(config.name, options, config.weights) if config.weights else {}
            self.backbone = cast(
                Any,
                timm.create_model(
                    config.name,
                    pretrained=config.pretrained or bool(given),
                    pretrained_cfg_overlay={"state_dict": given} if given else None,
                    **cut,
                    **options,
                ),
            )
            if self.final:
                self.backbone.prune_intermediate_layers([config.stage], prune_norm=False, prune_head=True)
        except OSError as error:
            if error.errno is not None or not config.pretrained:  # a full disk, say
                raise
            raise UserError(
                f"`model.vision.pretrained`: the weights of `{config.name}` are not on this machine and cannot be fetched "
                f"({first_line(error)}); fetch them where the hub can be reached, or give a file as `model.vision.weights`."
            ) from error
        except (RuntimeError, TypeError, AssertionError, ValueError, IndexError) as error:
            raise UserError(f"`model.vision`: timm cannot build `{config.name}` ({error}).") from error
        if config.pretrained or given or self.final:
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
                f"`data.image_size`: `{config.name}` cannot read pictures of {image_size} px ({first_line(error)})."
            ) from error
        self.prefix_tokens = int(getattr(self.backbone, "num_prefix_tokens", 0))
        if not self.final:
            self.grid = (probe.shape[2], probe.shape[3])
        _, self.tokens, self.channels = self._flatten(probe).shape
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        scaled = (images.to(dtype=torch.float32) / 255 - self.mean) / self.std
        return self._flatten(self._map(scaled))

    def _map(self, pictures: Tensor) -> Tensor:
        if self.final:
            return self.backbone.forward_features(pictures)
        return self.backbone(pictures.contiguous(memory_format=torch.channels_last))[-1]

    def _flatten(self, made: Tensor) -> Tensor:
        # Some transformers keep their tokens in rows and columns, channels last; a grid has them first.
        return made.flatten(1, -2) if self.final else made.flatten(2).transpose(1, 2)


def text_states(language: RobertaForMaskedLM, token_ids: Tensor) -> Tensor:
    """Hidden states [B, L, D] of a language encoder for padded captions int64 [B, L]."""
    states: Tensor = language.roberta(token_ids, attention_mask=padding_mask(token_ids)).last_hidden_state
    return states


def text_encoder(config: Text, width: int, vocabulary: int, max_length: int) -> RobertaForMaskedLM:
    """A RoBERTa-form language encoder with its language-model head, pre-trained or newly initialised."""
    if config.weights:
        return _pretrained_text(config, width, vocabulary)
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * width,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=max_length + PAD + 1,
            type_vocab_size=1,
            bos_token_id=START,
            pad_token_id=PAD,
            eos_token_id=END,
            tie_word_embeddings=True,
        )
    )


def _read_text(config: Text) -> RobertaForMaskedLM:
    try:
        return RobertaForMaskedLM.from_pretrained(
            os.path.expanduser(str(config.weights)),
            num_hidden_layers=config.layers,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"`model.text.weights`: no RoBERTa can be read from `{config.weights}` ({first_line(error)}); give a folder that holds one, or a "
            "name on a hub that can be reached."
        ) from error


def _pretrained_text(config: Text, width: int, vocabulary: int) -> RobertaForMaskedLM:
    language = _read_text(config)
    for name, given, wanted in (
        ("hidden_size", language.config.hidden_size, width),
        ("vocab_size", language.config.vocab_size, vocabulary),
    ):
        if given != wanted:
            raise UserError(
                f"`model.text.weights`: `{config.weights}` has {name} {given}, the model and its tokeniser have {wanted}; "
                "set `model.width` and `data.tokeniser` to its own."
            )
    swap_mask_row(language.roberta.embeddings.word_embeddings.weight)
    swap_mask_row(language.lm_head.bias)
    return language


@torch.no_grad()
def swap_mask_row(rows: Tensor) -> None:
    """RoBERTa's <mask> is its last token, ours is the fifth: the two rows of [V, ...] change places."""
    rows[[MASK, -1]] = rows[[-1, MASK]].clone()


def check_encoders(settings: Settings) -> None:
    """Builds both encoders and lets them go. Raises UserError where weights are missing, damaged, or do not fit."""
    model, data = settings.model, settings.data
    with torch.random.fork_rng(devices=[]):
        VisionEncoder(model.vision, data.image_size)
        # Whether text weights fit, only a tokeniser tells, which may be trained on the captions yet.
        if model.text.weights and not data.tokeniser:
            _read_text(model.text)
            return
        vocabulary = data.vocabulary
        if data.tokeniser:
            vocabulary = pretrained_tokeniser(data.tokeniser, data.max_length).vocabulary
        try:
            text_encoder(model.text, model.width, vocabulary, data.max_length)
        except ValueError as error:  # heads that do not divide the width
            raise UserError(f"`model.text`: transformers cannot build it ({first_line(error)}).") from error
