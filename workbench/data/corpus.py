"""From a data source to the three splits that a trial reads: train, val and test."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import polars as pl

from workbench.config.schema import Data
from workbench.cores import allowed_cores
from workbench.data import cache, folder, lexicon, mixture, scene_captions, scenes
from workbench.data.loader import Shares
from workbench.data.noise import CaptionNoise
from workbench.data.parallel import in_processes
from workbench.data.store import Images, Store
from workbench.data.text import Tokeniser, load_tokeniser, pretrained_tokeniser, save_tokeniser, train_tokeniser
from workbench.data.word_classes import ContentWords, closed_class
from workbench.errors import UserError
from workbench.randomness import RowRandom, key

SPLITS = ("train", "val", "test")
CHUNK = 256  # scenes per task of a process
FEW = 32  # chunks that are not worth starting processes for, which takes seconds


@dataclass(frozen=True)
class Pairs:
    """One split. `images` uint8 [N, 3, H, W]: a memory-mapped array, or `Images` of prepared stores. `token_ids` int64
    [N, L] padded: each image's first caption. Where images have several captions, those of image i are `caption_ids`
    int32 [M, L] from `starts[i]` to `starts[i + 1]`. `shares`: the pairs of each source and how often an epoch shows
    them.

    `captions` is a frame with one row per pair: `caption`, for scenes `paraphrase`, and one nullable column per kind of
    foil, where the source provides foils or `with_foils` has added them. `scene` returns the facts of a pair, where
    they are known. `noise` disturbs the captions that training reads; `token_ids`, `caption_ids` and `captions` are
    without it. `texts_of` returns all captions of the images at some rows, where images have several.
    """

    images: np.ndarray | Images
    token_ids: np.ndarray
    captions: pl.DataFrame
    tokeniser: Tokeniser
    scene: Callable[[int], scenes.Scene] | None = None
    caption_ids: np.ndarray | None = None
    starts: np.ndarray | None = None
    mixed: Shares = ()
    noise: CaptionNoise | None = None
    texts_of: Callable[[np.ndarray], list[list[str]]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shares(self) -> Shares:
        return self.mixed or ((len(self), 1.0),)

    @property
    def count(self) -> int:
        """Number of captions."""
        return len(self) if self.caption_ids is None else len(self.caption_ids)

    def texts(self, rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """int64 [B, L]: one caption per image of `rows`; of several, one is drawn, keyed by (seed, epoch, image)."""
        return self.captions_at(self.draw(rows, seed, epoch))

    def draw(self, rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """int64 [B]: the number of the caption that each image of `rows` has in this epoch."""
        if self.starts is None:
            return rows
        first, last = self.starts[rows], self.starts[rows + 1]
        place = RowRandom(rows, "captions", seed, epoch).random((len(rows),))
        return first + (place * (last - first)).astype(np.int64)

    def captions_at(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [B, L]: captions by their number among all captions; with one per image, that is the image's number."""
        captions = (self.token_ids if self.caption_ids is None else self.caption_ids)[numbers].astype(np.int64)
        return captions if self.noise is None else self.noise.disturb(captions, numbers)[0]

    def firsts(self) -> np.ndarray:
        """int [N, L]: the first caption of each image, as training reads it."""
        if self.noise is None:
            return self.token_ids
        return self.captions_at(np.arange(len(self)) if self.starts is None else self.starts[:-1])

    def every_caption(self, rows: np.ndarray) -> list[list[str]]:
        """All captions of each image at rows int64 [B], in their order."""
        if self.texts_of is not None:
            return self.texts_of(rows)
        return [[caption] for caption in self.captions["caption"].gather(rows).to_list()]

    def with_foils(self, foils: pl.DataFrame) -> "Pairs":
        """These pairs with a nullable column of foils for each kind."""
        return replace(self, captions=self.captions.hstack(foils))

    @property
    def foil_kinds(self) -> list[str]:
        return [kind for kind in self.captions.columns if kind not in ("caption", "paraphrase")]

    @cached_property
    def variants(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Foil kind (or `paraphrase`) -> (pair indices int64 [M], token ids int64 [M, L])."""
        by_kind = {}
        for kind in self.captions.columns:
            if kind != "caption":
                texts = self.captions[kind]
                rows = np.flatnonzero(texts.is_not_null().to_numpy())
                by_kind[kind] = (rows, self.tokeniser.encode(texts.drop_nulls().to_list()))
        return by_kind


@dataclass(frozen=True)
class Corpus:
    """All three splits with their tokeniser. `synonyms` int64 [vocabulary, K]: tokens of the same meaning, the token
    itself first. `fingerprint` identifies the content."""

    train: Pairs
    val: Pairs
    test: Pairs
    tokeniser: Tokeniser
    synonyms: np.ndarray
    fingerprint: str

    @cached_property
    def content(self) -> ContentWords:
        """Which tokens belong to content words."""
        return ContentWords.of(self.tokeniser, closed_class(self.train.captions["caption"]))


def load_corpus(data: Data, cache_dir: Path, override: Tokeniser | None = None) -> Corpus:
    """Returns the corpus, which is prepared on first use and memory-mapped from the cache afterwards. Caption noise is
    not part of it (see `with_noise`). Scenes may be read with another tokeniser, `override`.

    Raises UserError if the source cannot be read.
    """
    data = _without_noise(data)
    if data.source == "prepared":
        return _mixed(data, cache_dir)
    if data.source == "scenes":
        fingerprint = _of_scenes(data)
        home = cache.entry(cache_dir / fingerprint, lambda target: _prepare_scenes(data, target))
    else:
        files = _folder_splits(data)
        fingerprint = _of_folder(data, files)
        home = cache.entry(cache_dir / fingerprint, lambda target: _prepare_folder(data, files, target))
    tokeniser, fingerprint = override or _tokeniser(data, home), fingerprint + _read_by(override)
    splits = {split: _open(home, split, tokeniser, _facts(data, split)) for split in SPLITS}
    return Corpus(
        **splits, tokeniser=tokeniser, synonyms=tokeniser.synonyms(lexicon.synonym_sets()), fingerprint=fingerprint
    )


def with_noise(corpus: Corpus, rate: float) -> Corpus:
    """The corpus with noise in the captions that training reads; the fingerprint stays the same."""
    if rate == 0:
        return corpus
    noise = CaptionNoise.of(rate, corpus.content, corpus.train.token_ids, "training")
    return replace(corpus, train=replace(corpus.train, noise=noise))


def fingerprint_of(data: Data, cache_dir: Path, override: Tokeniser | None = None) -> str:
    """The fingerprint of the corpus that `load_corpus` would return now; prepares nothing. Raises UserError as
    `load_corpus` does."""
    data = _without_noise(data)
    if data.source == "scenes":
        return _of_scenes(data) + _read_by(override)
    if data.source == "folder":
        return _of_folder(data, _folder_splits(data))
    return _of_mix(data, _stores(data, cache_dir))


def split_sizes(data: Data, cache_dir: Path) -> dict[str, int]:
    """The number of pairs in each split that `load_corpus` would return, unreadable images of a folder included;
    prepares nothing. Raises UserError as `load_corpus` does."""
    if data.source == "scenes":
        return {split: data.train_pairs if split == "train" else data.eval_pairs for split in SPLITS}
    if data.source == "folder":
        return {split: len(pairs) for split, pairs in _folder_splits(data).items()}
    chosen = mixture.choose_splits(_stores(data, cache_dir), data)
    return {split: sum(map(len, chosen[split].rows)) for split in SPLITS}


def _without_noise(data: Data) -> Data:
    return data.model_copy(update={"caption_noise": 0.0})


def _read_by(override: Tokeniser | None) -> str:
    """The suffix of the fingerprint for a tokeniser that is not the corpus's own."""
    return "" if override is None else f"-{key('tokeniser', override.inner.to_str()):016x}"


def _of_scenes(data: Data) -> str:
    about = data.model_dump_json(exclude={"augment", "workers", "foils"})
    return f"scenes-{key(scenes.VERSION, about):016x}{own_ids(data)}"


def _of_folder(data: Data, files: dict[str, list[folder.CaptionedFile]]) -> str:
    about = data.model_dump_json(exclude={"augment", "workers", "foils"})
    return f"folder-{key(about, *map(_content, files.values())):016x}{own_ids(data)}"


def _of_mix(data: Data, stores: list[Store]) -> str:
    about = data.model_dump_json(exclude={"augment", "workers", "mix", "image_size", "foils"})
    return f"mixed-{key(mixture.VERSION, about, *(store.fingerprint for store in stores)):016x}{own_ids(data)}"


def own_ids(data: Data) -> str:
    """The suffix of the fingerprint for a pre-trained tokeniser, which distinguishes a corpus from those of earlier
    versions, where `<mask>` had another id."""
    return "-own-ids" if data.tokeniser else ""


def _stores(data: Data, cache_dir: Path) -> list[Store]:
    return mixture.stores_of(data.mix, cache_dir.parent / "data")


def _mixed(data: Data, cache_dir: Path) -> Corpus:
    stores = _stores(data, cache_dir)
    fingerprint = _of_mix(data, stores)

    def make(target: Path) -> None:
        chosen = mixture.choose_splits(stores, data)
        texts = chosen["train"].captions(stores).explode()
        different = texts.str.to_lowercase().unique().head(2).to_list()
        _refuse_equal_captions("data.mix", " and ".join(store.name for store in stores), different, len(texts))
        for split, part in chosen.items():
            part.save(target / f"{split}.npz")
        if not data.tokeniser:
            mixture.train_on(stores, chosen["train"], data, target)
        mixture.write_texts(stores, chosen["train"], _tokeniser(data, target), target)

    home = cache.entry(cache_dir / fingerprint, make)
    tokeniser = _tokeniser(data, home)
    captions = np.load(home / "captions.npy", mmap_mode="r")
    starts = np.load(home / "starts.npy")
    splits = {}
    for split in SPLITS:
        part = mixture.Chosen.load(home / f"{split}.npz")
        frame = pl.DataFrame({"caption": part.captions(stores).list.first()}).hstack(part.foils(stores).get_columns())
        is_train = split == "train"
        firsts = np.load(home / "firsts.npy", mmap_mode="r") if is_train else None
        ids = _encoded(tokeniser, frame) if firsts is None else firsts
        # A random view is cropped from the stored image; everything else reads images of the model's size.
        side = stores[0].side if is_train and data.augment != "none" else data.image_size
        splits[split] = Pairs(
            Images(stores, part.rows, side), ids, frame, tokeniser, texts_of=partial(_texts_of, part, stores)
        )
        if is_train:
            shares = tuple((len(rows), often) for rows, often in zip(part.rows, data.mix.values(), strict=True))
            splits[split] = replace(splits[split], caption_ids=captions, starts=starts, mixed=shares)
    return Corpus(
        **splits, tokeniser=tokeniser, synonyms=tokeniser.synonyms(lexicon.synonym_sets()), fingerprint=fingerprint
    )


def _texts_of(part: mixture.Chosen, stores: list[Store], rows: np.ndarray) -> list[list[str]]:
    return part.captions(stores).gather(rows).to_list()


def _tokeniser(data: Data, home: Path) -> Tokeniser:
    if data.tokeniser:
        return pretrained_tokeniser(data.tokeniser, data.max_length)
    return load_tokeniser(home / "tokeniser.json", data.max_length)


def _facts(data: Data, split: str) -> Callable[[int], scenes.Scene] | None:
    if data.source != "scenes":
        return None
    # Every validation requests the same few hundred scenes.
    return lru_cache(maxsize=4096)(lambda index: scenes.sample_scene(data.seed, split, index, data.most_things))


def _open(home: Path, split: str, tokeniser: Tokeniser, scene: Callable[[int], scenes.Scene] | None) -> Pairs:
    captions = pl.read_parquet(home / f"{split}.parquet", glob=False)
    images = np.load(home / f"{split}.npy", mmap_mode="r")
    return Pairs(images, _encoded(tokeniser, captions), captions, tokeniser, scene)


def _encoded(tokeniser: Tokeniser, captions: pl.DataFrame) -> np.ndarray:
    return tokeniser.vocabulary.trim(tokeniser.encode(captions["caption"].to_list()))


def _prepare_scenes(data: Data, target: Path) -> None:
    train_captions: list[str] = []
    for split in SPLITS:
        count = data.train_pairs if split == "train" else data.eval_pairs
        images = cache.new_array(target / f"{split}.npy", (count, 3, data.image_size, data.image_size))
        rows: list[dict[str, str | None]] = []
        chunks = [range(count)[start : start + CHUNK] for start in range(0, count, CHUNK)]
        workers = allowed_cores() if len(chunks) > FEW else 1  # others wait for them
        for chunk_images, chunk_rows in in_processes(partial(_render_scenes, data, split), chunks, workers):
            images[len(rows) : len(rows) + len(chunk_rows)] = chunk_images
            rows += chunk_rows
        images.flush()
        schema = dict.fromkeys(["caption", "paraphrase", *scene_captions.FOILS], pl.String)
        frame = pl.DataFrame(rows, schema=schema)
        frame.write_parquet(target / f"{split}.parquet")
        if split == "train":
            train_captions = frame["caption"].to_list() + frame["paraphrase"].to_list()
    save_tokeniser(train_tokeniser(train_captions, data.vocabulary, data.max_length), target / "tokeniser.json")


def _render_scenes(data: Data, split: str, indices: range) -> tuple[np.ndarray, list[dict[str, str | None]]]:
    """Images uint8 [n, 3, S, S] of a split's scenes at these indices, and their texts."""
    images: list[np.ndarray] = []
    rows: list[dict[str, str | None]] = []
    for index in indices:
        scene = scenes.sample_scene(data.seed, split, index, data.most_things)
        images.append(scenes.render(scene, data.image_size))
        description = scene_captions.describe(scene)
        rows.append(
            {
                "caption": str(description),
                "paraphrase": scene_captions.paraphrase(scene, description),
                **dict.fromkeys(scene_captions.FOILS),
                **scene_captions.foils(scene, description),
            }
        )
    return np.stack(images), rows


def _folder_splits(data: Data) -> dict[str, list[folder.CaptionedFile]]:
    """Splits a folder by caption: equal captions fall into one split. About 15 % each go to val and test."""
    assert data.path is not None
    splits: dict[str, list[folder.CaptionedFile]] = {split: [] for split in SPLITS}
    all_pairs = folder.find_pairs(Path(data.path), data.exclude)
    _refuse_equal_captions("data.path", data.path, {pair.caption.lower() for pair in all_pairs}, len(all_pairs))
    for pair in all_pairs:
        bucket = key("split", data.seed, pair.caption.lower()) % 20
        splits["val" if bucket < 3 else "test" if bucket < 6 else "train"].append(pair)
    limits = {"train": data.train_pairs, "val": data.eval_pairs, "test": data.eval_pairs}
    chosen = {split: pairs[: limits[split]] for split, pairs in splits.items()}
    for split, pairs in chosen.items():
        _refuse_few(data.path, split, pairs, len(all_pairs))
    return chosen


def _refuse_few(
    path: str, split: str, pairs: list[folder.CaptionedFile], total: int, broken: Sequence[str] = ()
) -> None:
    different = len({pair.caption.lower() for pair in pairs})
    if different >= 2:
        return
    unread = f" Left out are {folder.listed(broken)}." if broken else ""
    raise UserError(
        f"`data.path`: {path} holds too few different captions; the {split} split needs at least 2, and of {total:,}"
        f" pairs it has {len(pairs):,} with {different}.{unread}"
    )


def _refuse_equal_captions(option: str, name: str, captions: Collection[str], pairs: int) -> None:
    """Raises UserError if all captions are equal: every mismatched pair would be a true one, a false negative."""
    if pairs > 1 and len(captions) == 1:
        raise UserError(
            f"`{option}`: all {pairs:,} captions of {name} are equal, so every pair would match and every negative"
            " would be a false negative; use captions that differ."
        )


def _content(pairs: list[folder.CaptionedFile]) -> str:
    """Names, captions, sizes and times: enough to detect a changed file without reading it."""
    stats = [pair.image.stat() if os.path.exists(pair.image) else None for pair in pairs]
    return repr(
        [(str(p.image), p.caption, s and (s.st_size, s.st_mtime_ns)) for p, s in zip(pairs, stats, strict=True)]
    )


def _prepare_folder(data: Data, files: dict[str, list[folder.CaptionedFile]], target: Path) -> None:
    """Prepares the splits of a folder. Unreadable images are left out, reported, and listed in `broken.parquet`."""
    assert data.path is not None
    reasons: list[str] = []
    kept: dict[str, list[str]] = {}
    for split, pairs in files.items():
        file, shape = target / f"{split}.npy", (3, data.image_size, data.image_size)
        images = cache.new_array(file, (len(pairs), *shape))
        broken = folder.read_images((pair.image for pair in pairs), images)
        reasons += broken.values()
        whole = [pair for place, pair in enumerate(pairs) if place not in broken]
        _refuse_few(data.path, split, whole, len(pairs), list(broken.values()))
        images.flush()
        if broken:
            part = target / "part.npy"
            np.save(part, images[: len(whole)])
            os.replace(part, file)
        kept[split] = [pair.caption for pair in whole]
        pl.DataFrame({"caption": kept[split]}).write_parquet(target / f"{split}.parquet")
    pl.DataFrame({"why": reasons}, schema={"why": pl.String}).write_parquet(target / "broken.parquet")
    if reasons:
        of = sum(map(len, files.values()))
        cache.tell(f"`data.path`: {len(reasons):,} of {of:,} images are unreadable, left out: {folder.listed(reasons)}")
    save_tokeniser(train_tokeniser(kept["train"], data.vocabulary, data.max_length), target / "tokeniser.json")
