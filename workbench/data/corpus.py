"""From a data source to the three splits that a trial reads: train, val and test."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from workbench.config.schema import Data
from workbench.data import cache, folder, lexicon, scene_captions, scenes
from workbench.data.text import Tokeniser, load_tokeniser, pretrained_tokeniser, save_tokeniser, train_tokeniser, trim
from workbench.errors import UserError
from workbench.randomness import key

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Pairs:
    """One split. `images` uint8 [N, 3, H, W] (memory-mapped), `token_ids` int64 [N, L] padded.

    `captions` is a frame with a row a pair: `caption`, and for scenes `paraphrase` and one nullable column
    for each kind of foil. `scene` gives the facts of a pair, where they are known.
    """

    images: np.ndarray
    token_ids: np.ndarray
    captions: pl.DataFrame
    tokeniser: Tokeniser
    scene: Callable[[int], scenes.Scene] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def variants(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Foil kind (or `paraphrase`) -> (pair indices int64 [M], token ids int64 [M, L])."""
        made = {}
        for kind in self.captions.columns:
            if kind != "caption":
                texts = self.captions[kind]
                rows = np.flatnonzero(texts.is_not_null().to_numpy())
                made[kind] = (rows, self.tokeniser.encode(texts.drop_nulls().to_list()))
        return made


@dataclass(frozen=True)
class Corpus:
    """`synonyms` is int64 [vocabulary, K]: the tokens that mean the same, itself first; `fingerprint` names the content."""

    train: Pairs
    val: Pairs
    test: Pairs
    tokeniser: Tokeniser
    synonyms: np.ndarray
    fingerprint: str


def load_corpus(data: Data, cache_dir: Path) -> Corpus:
    """The corpus, prepared on first use and memory-mapped from the cache after.

    Raises UserError where the source cannot be read.
    """
    if data.source == "scenes":
        fingerprint = f"scenes-{key(scenes.VERSION, data.model_dump_json()):016x}"
        home = cache.entry(cache_dir / fingerprint, lambda target: _prepare_scenes(data, target))
    else:
        files = _folder_splits(data)
        fingerprint = f"folder-{key(data.model_dump_json(), *map(_content, files.values())):016x}"
        home = cache.entry(cache_dir / fingerprint, lambda target: _prepare_folder(data, files, target))
    if data.tokeniser:
        tokeniser = pretrained_tokeniser(data.tokeniser, data.max_length)
    else:
        tokeniser = load_tokeniser(home / "tokeniser.json", data.max_length)
    splits = {split: _open(home, split, tokeniser, _facts(data, split)) for split in SPLITS}
    return Corpus(
        **splits, tokeniser=tokeniser, synonyms=tokeniser.synonyms(lexicon.synonym_sets()), fingerprint=fingerprint
    )


def _facts(data: Data, split: str) -> Callable[[int], scenes.Scene] | None:
    if data.source != "scenes":
        return None
    return lambda index: scenes.sample_scene(data.seed, split, index, data.most_things)


def _open(home: Path, split: str, tokeniser: Tokeniser, scene: Callable[[int], scenes.Scene] | None) -> Pairs:
    captions = pl.read_parquet(home / f"{split}.parquet")
    ids = tokeniser.encode(captions["caption"].to_list())
    return Pairs(np.load(home / f"{split}.npy", mmap_mode="r"), trim(ids), captions, tokeniser, scene)


def _prepare_scenes(data: Data, target: Path) -> None:
    train_captions: list[str] = []
    for split in SPLITS:
        count = data.train_pairs if split == "train" else data.eval_pairs
        images = cache.new_array(target / f"{split}.npy", (count, 3, data.image_size, data.image_size))
        rows = []
        for index, scene in enumerate(scenes.scenes(data.seed, split, count, data.most_things)):
            images[index] = scenes.render(scene, data.image_size)
            description = scene_captions.describe(scene)
            caption = str(description)
            if split == "train" and data.caption_noise:
                caption = scene_captions.noisy(caption, data.caption_noise, scene.key)
            rows.append(
                {"caption": caption, "paraphrase": scene_captions.paraphrase(scene, description)}
                | dict.fromkeys(scene_captions.FOILS)
                | scene_captions.foils(scene, description)
            )
        images.flush()
        schema = dict.fromkeys(["caption", "paraphrase", *scene_captions.FOILS], pl.String)
        frame = pl.DataFrame(rows, schema=schema)
        frame.write_parquet(target / f"{split}.parquet")
        if split == "train":
            train_captions = frame["caption"].to_list() + frame["paraphrase"].to_list()
    save_tokeniser(train_tokeniser(train_captions, data.vocabulary, data.max_length), target / "tokeniser.json")


def _folder_splits(data: Data) -> dict[str, list[folder.CaptionedFile]]:
    """Whole captions are held out: equal captions fall into one split. About 15 % each for val and test."""
    assert data.path is not None
    splits: dict[str, list[folder.CaptionedFile]] = {split: [] for split in SPLITS}
    for pair in folder.find_pairs(Path(data.path), data.exclude):
        bucket = key("split", data.seed, pair.caption.lower()) % 20
        splits["val" if bucket < 3 else "test" if bucket < 6 else "train"].append(pair)
    limits = {"train": data.train_pairs, "val": data.eval_pairs, "test": data.eval_pairs}
    for split, pairs in splits.items():
        if len(pairs) < 2:
            raise UserError(
                f"`data.path`: {data.path} holds too few different captions; the {split} split needs at least 2 pairs."
            )
    return {split: pairs[: limits[split]] for split, pairs in splits.items()}


def _content(pairs: list[folder.CaptionedFile]) -> str:
    """Names, captions, sizes and times: enough to notice a changed file without reading it."""
    stats = [pair.picture.stat() if pair.picture.exists() else None for pair in pairs]
    return repr(
        [(str(p.picture), p.caption, s and (s.st_size, s.st_mtime_ns)) for p, s in zip(pairs, stats, strict=True)]
    )


def _prepare_folder(data: Data, files: dict[str, list[folder.CaptionedFile]], target: Path) -> None:
    for split, pairs in files.items():
        images = cache.new_array(target / f"{split}.npy", (len(pairs), 3, data.image_size, data.image_size))
        for index, pair in enumerate(pairs):
            images[index] = folder.read_picture(pair.picture, data.image_size)
        images.flush()
        pl.DataFrame({"caption": [pair.caption for pair in pairs]}).write_parquet(target / f"{split}.parquet")
    captions = [pair.caption for pair in files["train"]]
    save_tokeniser(train_tokeniser(captions, data.vocabulary, data.max_length), target / "tokeniser.json")
