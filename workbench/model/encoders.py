"""The two unimodal encoders: timm for pictures, transformers (RoBERTa form) for captions."""

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForMaskedLM

from workbench.config.schema import Text, Vision
from workbench.data.text import END, PAD, START
from workbench.errors import UserError


class VisionEncoder(nn.Module):
    """uint8 pictures [B, 3, H, W] -> grid features [B, N, channels] of one timm stage."""

    def __init__(self, config: Vision, image_size: int) -> None:
        super().__init__()
        try:
            self.backbone = cast(
                Any,
                timm.create_model(
                    config.name,
                    pretrained=config.pretrained,
                    features_only=True,
                    out_indices=(config.stage,),
                    **config.options,
                ),
            )
        except (RuntimeError, TypeError, AssertionError, ValueError, IndexError) as error:
            raise UserError(f"`model.vision`: timm cannot build `{config.name}` ({error}).") from error
        self.channels: int = self.backbone.feature_info.channels()[-1]
        with torch.no_grad():
            probe = self.backbone.eval()(torch.zeros(1, 3, image_size, image_size))[-1]
        self.grid: tuple[int, int] = (probe.shape[2], probe.shape[3])
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        scaled = (images.to(dtype=torch.float32) / 255 - 0.5) / 0.25
        grid: Tensor = self.backbone(scaled.contiguous(memory_format=torch.channels_last))[-1]
        return grid.flatten(2).transpose(1, 2)


def text_encoder(config: Text, width: int, vocabulary: int, max_length: int) -> RobertaForMaskedLM:
    """A RoBERTa-form language encoder with its language-model head, newly initialised."""
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
