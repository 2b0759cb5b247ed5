"""Converts METER's published checkpoints (Dou et al. 2022; github.com/zdou0830/METER) to this model's names."""

import pickle
import re
from pathlib import Path
from typing import Any, Final

import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from workbench.config.schema import Settings
from workbench.data.text import PAD, Vocabulary
from workbench.errors import UserError
from workbench.model.vilta import ViLTA

# METER's names -> ours, in order of application. Both streams follow the same naming.
RENAMES: Final = (
    (r"^cross_modal_text_transform\.", "text_projection."),
    (r"^cross_modal_image_transform\.", "image_adapter.0."),
    (r"^cross_modal_(text|image)_layers\.(\d+)\.", r"fusion.\1_layers.\2."),
    (r"\.attention\.self\.", ".self_attention."),
    (r"\.attention\.output\.dense\.", ".self_attention.output."),
    (r"\.attention\.output\.LayerNorm\.", ".norms.0."),
    (r"\.crossattention\.self\.", ".cross_attention."),
    (r"\.crossattention\.output\.dense\.", ".cross_attention.output."),
    (r"\.crossattention\.output\.LayerNorm\.", ".norms.1."),
    (r"\.intermediate\.dense\.", ".mlp.0."),
    (r"\.output\.dense\.", ".mlp.2."),
    (r"\.output\.LayerNorm\.", ".norms.2."),
    (r"^cross_modal_(text|image)_pooler\.dense\.", r"\1_pooler.0."),
    (r"^itm_score\.fc\.", "itm_head."),
    (r"^mlm_score\.transform\.dense\.", "mlm_head.0."),
    (r"^mlm_score\.transform\.LayerNorm\.", "mlm_head.2."),
    (r"^mlm_score\.decoder\.", "mlm_decoder."),
    (r"^mlm_score\.bias$", "mlm_decoder.bias"),
)
# Heads of fine-tuned checkpoints, and tensors that METER stores but never uses.
UNUSED: Final = re.compile(
    r"(vqa|nlvr2|snli)_classifier\.|rank_output\.|text_transformer\.(pooler\.|embeddings\.position_ids)"
    r"|vit_model\.(?!visual\.)|.*_(accuracy|loss|vqa_score|scalar)\."
)


def from_meter(checkpoint: dict[str, Tensor], model: ViLTA) -> dict[str, Tensor]:
    """Converts METER's state dict (CLIP vision encoder) to one for `model`, which has the same sizes.

    Raises UserError if a tensor of the fusion, the heads or the vision encoder is missing or has another shape, or if
    the checkpoint contains one that the model lacks. The language encoder's own head is not part of METER and stays
    unchanged.
    """
    renamed: dict[str, Tensor] = {}
    vision: dict[str, Tensor] = {}
    for name, tensor in checkpoint.items():
        if name.startswith("vit_model.visual."):
            vision[name.removeprefix("vit_model.")] = tensor
        elif name == "token_type_embeddings.weight":
            renamed["text_type"], renamed["image_type"] = tensor[0], tensor[1]
        elif not UNUSED.match(name):
            renamed[_ours(name)] = tensor
    if vision:
        converted = checkpoint_filter_fn(vision, model.vision.backbone)
        renamed |= {
            f"vision.backbone.{name}": tensor for name, tensor in converted.items() if not name.startswith("head.")
        }
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items() if not _stays(name)}
    missing = sorted(wanted.keys() - renamed.keys())
    surplus = sorted(renamed.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & renamed.keys() if wanted[name] != renamed[name].shape)
    for what, names in (
        ("lacks", missing),
        ("contains, but the model lacks,", surplus),
        ("has with another shape", other),
    ):
        if names:
            raise UserError(f"This METER checkpoint {what} `{names[0]}` ({len(names)} such tensors in all).")
    return {name: tensor.detach().to(torch.float32).clone() for name, tensor in renamed.items()}


def _ours(name: str) -> str:
    if name.startswith("text_transformer."):
        return name.replace("text_transformer.", "language.roberta.")
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _stays(name: str) -> bool:
    return name.startswith("language.lm_head.") or name in ("row_positions", "column_positions")


def read_meter(path: Path) -> dict[str, Tensor]:
    """The state dict of a METER checkpoint, as written by PyTorch Lightning or bare. Nothing in the file is
    executed."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint: it is damaged, or it contains more than tensors and plain values."
        ) from error
    state = saved.get("state_dict", saved) if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not any(name.startswith("cross_modal_text_layers.") for name in state):
        raise UserError(f"{path} is not a METER checkpoint: it has no `cross_modal_text_layers`.")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def sized_like(checkpoint: dict[str, Tensor], preset: Settings) -> ViLTA:
    """A model of `preset` with the checkpoint's image size, vocabulary and text length, and random weights."""
    try:
        words, positions = (
            len(checkpoint[f"text_transformer.embeddings.{name}_embeddings.weight"]) for name in ("word", "position")
        )
        patch = checkpoint["vit_model.visual.conv1.weight"].shape[-1]
        places = len(checkpoint["vit_model.visual.positional_embedding"]) - 1
    except KeyError as error:
        raise UserError(
            f"The METER checkpoint lacks {error}: only those with RoBERTa and a CLIP vision encoder can be read."
        ) from error
    bare: dict[str, Any] = {"vision": preset.model.vision.model_copy(update={"pretrained": False, "weights": None})}
    bare["text"] = preset.model.text.model_copy(update={"weights": None})
    return ViLTA(
        preset.model.model_copy(update=bare), round(places**0.5) * patch, Vocabulary.plain(words), positions - PAD - 1
    )
