"""Published suites, retrieval and downstream tasks at the end of each trial. Their texts and images are prepared once
for all trials."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Settings, SuiteFiles, TaskFiles
from workbench.data import cache
from workbench.data.corpus import Corpus
from workbench.data.image_check import broken_images
from workbench.data.image_files import ImageFolders
from workbench.data.images import BrokenImage, Fit, decode
from workbench.data.mixture import stores_of
from workbench.data.store import Store
from workbench.data.text import Tokeniser
from workbench.errors import UserError
from workbench.evaluation.compositional import ImageKey, Reader, Suite, count_items, told_apart
from workbench.evaluation.contract import Evaluation, Part, PartResult
from workbench.evaluation.coverage import logged_name, not_whole, suite_notes
from workbench.evaluation.downstream.tasks import TaskSplit, of_scenes, published, refuse_part
from workbench.evaluation.suites import Protocol, SuiteItems, read_suite
from workbench.randomness import key

VERSION = 1  # increment whenever a change alters the cached files
BATCH = 256  # images
IMAGES, BROKEN = "images.npy", "broken.json"
Show = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True)
class PreparedSuite:
    """A compositional suite that is logged as `name`.

    `images`: uint8 [N, 3, S, S], or features float16 [N, T, C] of a frozen vision encoder. `row_of`: the row of each
    readable image. `unread`: why each of the others cannot be read.
    """

    name: str
    items: SuiteItems
    images: np.ndarray
    row_of: dict[ImageKey, int]
    unread: dict[ImageKey, str]

    def look(self, model: torch.nn.Module, images: Sequence[ImageKey]) -> tuple[Tensor, dict[ImageKey, str]]:
        """The features of images, as in `evaluation.compositional.Look`."""
        device = next(model.parameters()).device
        rows = [self.row_of[image] for image in images if image in self.row_of]
        read = torch.from_numpy(np.array(self.images[rows])).to(device)
        unread = {image: self.unread[image] for image in images if image not in self.row_of}
        return (read if read.is_floating_point() else model.image_features(read)).float(), unread  # type: ignore[operator]


def protocol_of(files: SuiteFiles) -> Protocol:
    return Protocol(files.tagger, files.max_num, files.limit)


def fit_of(stores: Sequence[Store]) -> Fit:
    """How images are made square, as in the corpus."""
    fit: Fit = stores[0].facts["fit"] if stores else "pad"
    return fit


def read_items(name: str, files: SuiteFiles) -> SuiteItems:
    """The items of a suite. Raises UserError, naming the setting, if files are missing or not as published."""
    try:
        images = ImageFolders.of([Path(folder) for folder in files.images])
        return read_suite(name, Path(files.annotations), images, protocol_of(files))
    except UserError as error:
        raise _about(name, str(error)) from error


def check_suites(settings: Settings) -> None:
    """Reads the files of these settings' suites, and looks for each of their images.

    Raises UserError if too many are missing for the scores to be valid for the whole suite.
    """
    suites = settings.evaluation.suites
    if suites is None:
        return
    for name, files in suites.compositional().items():
        items = read_items(name, files)
        missing = {e.id: f"{e.image} is missing" for e in items.examples if not e.image.exists()}
        _refuse_part(name, items, missing)
    for name, task in suites.tasks().items():
        if task.annotations is None:
            if settings.data.source != "scenes":
                raise UserError(f"`evaluation.suites.{name}` without `annotations` needs `data.source: scenes`.")
            continue
        for split, read in _published(name, task, settings.data.image_size, "pad", _missing).items():
            _whole_split(name, split, read)


def _missing(paths: Iterator[Path]) -> dict[Path, str]:
    return {path: f"{path} is missing" for path in paths if not path.exists()}


def _about(name: str, message: str) -> UserError:
    """An error about the options of `wb eval` and `wb finetune`, rephrased for the setting of the same name."""
    return UserError(f"`evaluation.suites.{name}`: " + re.sub(r"--(annotations|images)", r"`\1`", message))


def _refuse_part(name: str, items: SuiteItems, missing: Mapping[str, str]) -> None:
    counts = count_items(items, {e.id for e in items.examples} - set(missing))
    if partial_score := not_whole(items, counts, missing):
        raise _about(name, partial_score.replace("was measured", "can be measured") + ".")


def prepare_suite(
    name: str,
    files: SuiteFiles,
    tokeniser: Tokeniser,
    side: int,
    fit: Fit,
    cache_dir: Path,
    show: Show,
    features: tuple[str, Callable[[np.ndarray], np.ndarray]] | None,
) -> PreparedSuite:
    """The suite's items for this tokeniser, and its images, decoded once to `side` px.

    `features`: the name of a frozen vision encoder, and the encoder as a function from images uint8 [n, 3, S, S] to
    features. Raises UserError like `check_suites`.
    """
    read = read_items(name, files)
    items = told_apart(read, tokeniser)
    images = list(dict.fromkeys((e.image, e.box) for e in items.examples))
    digest = key("suite", VERSION, side, fit, *map(_version, images))
    home = cache.entry(
        cache_dir / f"suite-{digest:016x}", lambda target: _decode_all(images, side, fit, target, partial(show, name))
    )
    unread = {images[int(row)]: why for row, why in json.loads((home / BROKEN).read_text(encoding="utf-8")).items()}
    row_of = {image: row for row, image in enumerate(images) if image not in unread}
    missing = {e.id: unread[e.image, e.box] for e in items.examples if (e.image, e.box) in unread}
    _refuse_part(name, items, missing)
    for note in suite_notes(read, items, missing, protocol_of(files)):
        cache.tell(note)
    stored: np.ndarray = np.load(home / IMAGES, mmap_mode="r")
    if features is not None:
        encoder, encode = features
        pixels, home = stored, cache_dir / f"suite-{digest:016x}-{key(encoder):016x}"
        home = cache.entry(home, lambda target: _encode_all(pixels, encode, target, partial(show, f"{name} features")))
        stored = np.load(home / IMAGES, mmap_mode="r")
    return PreparedSuite(logged_name(name, protocol_of(files)), items, stored, row_of, unread)


def _version(image: ImageKey) -> str:
    path, box = image
    facts = path.stat() if path.exists() else None
    return f"{path} {box} {facts and (facts.st_size, facts.st_mtime_ns)}"


def _decode_all(
    images: Sequence[ImageKey], side: int, fit: Fit, target: Path, show: Callable[[int, int, dict[str, float]], None]
) -> None:
    """Writes pixels [N, 3, S, S] to `target`, and why some images cannot be read; these are black."""
    stored = cache.new_array(target / IMAGES, (len(images), 3, side, side))
    broken: dict[int, str] = {}

    def read(row: int) -> str:
        path, box = images[row]
        try:
            stored[row] = decode(path, side, fit, box)
        except BrokenImage as error:
            return f"{path}: {error}"
        return ""

    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(images), BATCH):
            rows = range(start, min(start + BATCH, len(images)))
            broken |= {row: why for row, why in zip(rows, pool.map(read, rows), strict=True) if why}
            show(rows.stop, len(images), {})
    stored.flush()
    (target / BROKEN).write_text(json.dumps(broken), encoding="utf-8")


def _encode_all(
    pixels: np.ndarray,
    encode: Callable[[np.ndarray], np.ndarray],
    target: Path,
    show: Callable[[int, int, dict[str, float]], None],
) -> None:
    stored: np.ndarray | None = None
    for start in range(0, len(pixels), BATCH):
        features = encode(pixels[start : start + BATCH])
        if stored is None:
            stored = cache.new_array(target / IMAGES, (len(pixels), *features.shape[1:]), "float16")
        stored[start : start + len(features)] = features
        show(start + len(features), len(pixels), {})


def prepare_suites(
    settings: Settings,
    corpus: Corpus,
    cache_dir: Path,
    show: Show,
    features: tuple[str, Callable[[np.ndarray], np.ndarray]] | None,
) -> dict[str, PreparedSuite]:
    """The compositional suites of these settings, by their names in the settings."""
    suites = settings.evaluation.suites
    if suites is None:
        return {}
    fit = fit_of(stores_of(settings.data.mix, cache_dir.parent / "data"))
    side = settings.data.image_size
    return {
        name: prepare_suite(name, files, corpus.tokeniser, side, fit, cache_dir, show, features)
        for name, files in suites.compositional().items()
    }


def compositional(suite: PreparedSuite, model: torch.nn.Module, tokeniser: Tokeniser, batch_size: int) -> Evaluation:
    return Suite(Reader(model, tokeniser, batch_size, partial(suite.look, model)), suite.name, suite.items)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Renamed:
    """An evaluation with renamed metrics."""

    inner: Evaluation
    rename: Callable[[str], str]

    def parts(self) -> Sequence[Part]:
        return self.inner.parts()

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        return ((self.rename(name), value) for name, value in self.inner.metrics(results))


def task_splits(
    name: str, task: TaskFiles, settings: Settings, corpus: Corpus, features: Mapping[str, Any], cache_dir: Path
) -> dict[str, TaskSplit]:
    """The train and val splits of a downstream task, and its test split if it has one.

    Raises UserError like `check_suites`.
    """
    if task.annotations is None:
        return {
            split: of_scenes(name, pairs, features[split] if features else pairs.images, task.limit)
            for split in ("train", "val")
            for pairs in [getattr(corpus, split)]
        }
    fit = fit_of(stores_of(settings.data.mix, cache_dir.parent / "data"))
    splits = _published(name, task, settings.data.image_size, fit, partial(broken_images, cache=cache_dir))
    for split, read in splits.items():
        _whole_split(name, split, read)
    return splits


def _published(
    name: str, task: TaskFiles, side: int, fit: Fit, check: Callable[..., dict[Path, str]]
) -> dict[str, TaskSplit]:
    try:
        folders = [Path(folder) for folder in task.images]
        return published(name, Path(str(task.annotations)), folders, side, fit, task.limit, check)
    except UserError as error:
        raise _about(name, str(error)) from error


def _whole_split(name: str, split: str, read: TaskSplit) -> None:
    if split != "train":
        refuse_part(f"`evaluation.suites.{name}`: its {split} split", read)
