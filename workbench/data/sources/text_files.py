"""Images with a .txt next to each, as in hand-made folders and in img2dataset's format `files`."""

from collections.abc import Sequence
from pathlib import Path

from workbench.data.images import SUFFIXES
from workbench.data.reading import Place, Reading
from workbench.data.sources.downloads import facts_of, failed, reason
from workbench.files import encoding_of


def read_text_files(folder: Path, files: Sequence[Path]) -> Reading:
    """Reads the first line of each .txt as the caption of its image. `files`: all files below the folder, sorted."""
    reading = Reading("folder")
    existing = {*files}
    for image in files:
        text = image.with_suffix(".txt")
        if image.suffix.lower() in SUFFIXES and text in existing:
            id = str(image.relative_to(folder))
            try:
                data = text.read_bytes()
            except OSError as error:
                reading.broken.append((id, f"its caption cannot be read ({error.strerror})"))
                continue
            lines = data.decode(encoding_of(data), errors="replace").splitlines()
            reading.add(id, lines[:1], "train", Place(image))
    if reading.found or reading.broken:
        reading.broken += _lost(folder, files)
    return reading


def _lost(folder: Path, files: Sequence[Path]) -> list[tuple[str, str]]:
    """(image, reason) of missing images, according to img2dataset's records."""
    images = {file.with_suffix("") for file in files if file.suffix.lower() in SUFFIXES}
    lost: dict[Path, str] = {}
    for file in files:
        if file.suffix == ".json" and file.with_suffix("") not in images:
            lost |= _unless_downloaded(file)
        elif file.suffix == ".parquet":
            lost |= {file.with_suffix("") / key: why for key, why in failed(file)}
    return [(str(image.relative_to(folder)), why) for image, why in lost.items() if image not in images]


def _unless_downloaded(file: Path) -> dict[Path, str]:
    try:
        facts = facts_of(file.read_bytes())
    except OSError:
        return {}
    is_record = isinstance(facts.get("status"), str) and facts["status"] != "success"
    return {file.with_suffix(""): reason(facts)} if is_record else {}
