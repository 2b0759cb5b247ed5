"""The encoders in the package: a safetensors file, which also contains their tokeniser, and a card that describes
them.

They can only be loaded for the model, vocabulary and scenes that they were trained for; anything else is refused in one
sentence.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from workbench.config.schema import Settings, flattened
from workbench.data import lexicon, scenes
from workbench.data.text import Tokeniser, read_tokeniser
from workbench.errors import UserError
from workbench.files import write_whole
from workbench.model.weights import file_digest
from workbench.randomness import key

FOLDER: Final = Path(str(resources.files("workbench.model") / "pretrained"))
NAME: Final = "tiny"
MOST_BYTES: Final = 2_000_000
TOKENISER: Final = "tokeniser"
# Settings that encoders do not depend on: the choice and number of scenes, and their use in training.
FREE: Final = {
    "train_pairs",
    "eval_pairs",
    "seed",
    "augment",
    "workers",
    "caption_noise",
    "path",
    "mix",
    "exclude",
    "foils",
}
ENCODERS: Final = {"width", "image_norm", "vision", "text"}
OF_ENCODERS: Final = ("vision.", "language.", "image_adapter.", "text_projection.")
INSTEAD: Final = "set `warm_start.source: train`"


@dataclass(frozen=True)
class Shipped:
    """`weights`: those of both encoders and of the projections that align them, and of the fusion if trials start from
    it. `digest`: the SHA-256 of their file."""

    weights: dict[str, Tensor]
    tokeniser: Tokeniser
    digest: str
    card: dict[str, Any]


def made_for(settings: Settings) -> dict[str, Any]:
    """What the encoders are trained for, as plain JSON by dotted key; `world` identifies the look of scenes and the
    words of captions."""
    model = settings.model.model_dump(mode="json", include=ENCODERS)
    # The origin of the initial weights, and whether they are trained further, does not define the encoders.
    model["vision"] = {name: value for name, value in model["vision"].items() if name not in ("frozen", "pretrained")}
    world = key("world", scenes.VERSION, *(repr(words) for words in _words()))
    tree = {"model": model, "data": settings.data.model_dump(mode="json", exclude=FREE)}
    return flattened(tree) | {"world": f"{world:016x}"}


def fusion_made_for(settings: Settings) -> dict[str, Any]:
    """What the fusion of a fused start is trained for, as plain JSON by dotted key."""
    fusion = settings.model.fusion.model_dump(mode="json", exclude={"dropout", "initialisation"})
    return flattened({"model": {"fusion": fusion, "image_positions": settings.model.image_positions}})


def _words() -> list[Any]:
    return [lexicon.KINDS, lexicon.COLOURS, lexicon.SIZES, lexicon.TEXTURES, lexicon.RELATIONS, lexicon.ARTICLES]


def stored(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as stored in the file: float16, which halves the size."""
    return {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in weights.items()
    }


def packed(weights: dict[str, Tensor], tokeniser: Tokeniser) -> bytes:
    """The content of the file. Raises UserError if it would be too large for the package."""
    content = save(stored(weights), metadata={TOKENISER: tokeniser.inner.to_str()})
    if len(content) > MOST_BYTES:
        raise UserError(
            f"the encoders take {len(content) / 1e6:.1f} MB, and the package carries at most {MOST_BYTES / 1e6:.0f} MB;"
            " make them smaller."
        )
    return content


def loaded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the file as a model needs them."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def write(folder: Path, weights: dict[str, Tensor], tokeniser: Tokeniser, card: dict[str, Any], text: str) -> str:
    """Writes the file (the same bytes for the same weights), and the card as JSON and as `text` for people. Returns the
    file's SHA-256. Raises UserError as `packed`."""
    content = packed(weights, tokeniser)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{NAME}.safetensors"
    write_whole(file, content)
    digest = file_digest(file)
    about = card | {"sha256": digest, "bytes": len(content)}
    write_whole(folder / f"{NAME}.json", (json.dumps(about, indent=2) + "\n").encode())
    write_whole(folder / f"{NAME}.md", text.replace("{sha256}", digest).encode())
    return digest


def read(settings: Settings, folder: Path = FOLDER) -> Shipped:
    """Reads the encoders of the package. Raises UserError if there are none, or if they are damaged or were trained for
    something else."""
    file, about = folder / f"{NAME}.safetensors", folder / f"{NAME}.json"
    option = "`warm_start.source: package`"
    if settings.data.source != "scenes" or settings.data.tokeniser:
        raise UserError(f"{option}: the package only has encoders for rendered scenes and their vocabulary; {INSTEAD}.")
    if not file.is_file() or not about.is_file():
        raise UserError(f"{option}: there are no encoders in {folder}; {INSTEAD}.")
    try:
        card = json.loads(about.read_text(encoding="utf-8"))
        known, trained_for = str(card["sha256"]), dict(card["made_for"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{option}: {about} is damaged; reinstall the package, or {INSTEAD}.") from error
    name, there, here = _first_difference(trained_for, made_for(settings))
    if name:
        what = "scenes of another version" if name == "world" else f"`{name}` {there} and not {here}"
        raise UserError(f"{option}: the encoders of the package were trained for {what}; {INSTEAD}.")
    fused = settings.warm_start.fused and bool(card.get("phases"))
    if fused:
        name, there, here = _first_difference(card.get("fusion", {}), fusion_made_for(settings))
        if name:
            raise UserError(
                f"{option}: the fusion of the package was trained for `{name}` {there} and not {here}; set"
                " `warm_start.fused: false` to start from its encoders alone."
            )
    digest = file_digest(file)
    if digest != known:
        raise UserError(f"{option}: {file} is damaged, its SHA-256 differs from that of its card; {INSTEAD}.")
    try:
        with safe_open(file, framework="pt") as opened:
            tokeniser = read_tokeniser(opened.metadata()[TOKENISER], settings.data.max_length)
            names = [name for name in opened.keys() if fused or name.startswith(OF_ENCODERS)]  # noqa: SIM118
            weights = loaded({name: opened.get_tensor(name) for name in names})
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{option}: {file} cannot be read ({error}); {INSTEAD}.") from error
    return Shipped(weights, tokeniser, digest, card)


def _first_difference(there: dict[str, Any], here: dict[str, Any]) -> tuple[str, Any, Any]:
    """The first key, by name, whose values differ, and both values; an empty key if there is none."""
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            return name, there.get(name), here.get(name)
    return "", None, None
