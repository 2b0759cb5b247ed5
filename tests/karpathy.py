"""Miniatures of Flickr30K and COCO as Karpathy published their splits, with photographs of noise."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WHO = ("rider", "player", "boy", "girl", "dog", "horse")
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
THINGS = ("shirt", "hat", "bench", "car", "ball", "boat")
PLACES = ("on", "near", "behind", "under")
NUMBERS = ("two", "three", "four")


def write_karpathy(home: Path, dataset: str, train: int, held_out: int) -> Path:
    """`dataset_<name>.json` and its images below `home`; gives the JSON's path. COCO's images lie in a folder for each
    of its own splits."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(train + 2 * held_out):
        split = "train" if number < train else "val" if number < train + held_out else "test"
        folder = {"coco": "train2014" if split == "train" else "val2014"}.get(dataset, "")
        name = f"{number:06d}.jpg"
        path = home / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize((80, 60)).save(path)
        texts = [_caption(rng) for _ in range(5)]
        images.append(
            {
                "filename": name,
                "split": split,
                "imgid": number,
                "sentids": list(range(5 * number, 5 * number + 5)),
                "sentences": [
                    {"raw": text, "tokens": text.split(), "imgid": number, "sentid": 5 * number + place}
                    for place, text in enumerate(texts)
                ],
            }
            | ({"filepath": folder, "cocoid": number} if folder else {})
        )
    file = home / f"dataset_{dataset}.json"
    file.write_text(json.dumps({"dataset": dataset, "images": images}))
    return file


def _caption(rng: np.random.Generator) -> str:
    who, other, colour, thing, place, number = (
        str(rng.choice(words)) for words in (WHO, WHO, COLOURS, THINGS, PLACES, NUMBERS)
    )
    shade = str(rng.choice(COLOURS))
    return f"A {who} with a {colour} {thing} stands {place} {number} {shade} {other}s."
