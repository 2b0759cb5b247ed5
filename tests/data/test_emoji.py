import shutil
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.emoji_package import ROLES, entries, pack, write_package
from workbench.config.schema import Data
from workbench.data.corpus import load_corpus
from workbench.data.prepare import prepare_source
from workbench.data.reading import Found, Reading
from workbench.data.report import describe
from workbench.data.sources.detect import read_source
from workbench.data.sources.emoji_captions import Corpus, tell
from workbench.data.store import Store, open_store
from workbench.errors import UserError
from workbench.training.batches import FoilTable


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("packages")
    write_package(home, "round")
    write_package(home, "square", without=("potter.png", "red_circle.png"))
    return home


@pytest.fixture(scope="module")
def reading(packages: Path) -> Reading:
    return read_source(packages)


@pytest.fixture(scope="module")
def store(reading: Reading, tmp_path_factory: pytest.TempPathFactory) -> Store:
    home = tmp_path_factory.mktemp("workspace") / "data" / "emoji"
    return prepare_source(reading, home, 24, "pad", 1, lambda *_: None)


def by_id(reading: Reading) -> dict[str, Found]:
    return {pair.id: pair for pair in reading.found}


def test_names_and_variations_become_english(reading: Reading) -> None:
    pairs = by_id(reading)
    told = {
        "potter.png": "potter with yellow skin",
        "woman-potter-1f3ff.png": "woman potter with dark skin",
        "man-striding-1f3fc.png": "man striding with light skin, facing left",
        "man-striding-facing-right.png": "man striding with yellow skin, facing right",
        "woman-kiss-man-1f3fb-1f3fe.png": "woman with pale skin left of man with brown skin, kissing",
        "clock-two-oclock.png": "clock face showing two o'clock",
        "clock-two-thirty.png": "clock face showing two thirty",
        "red_heart.png": "red heart",
        "teapot.png": "teapot with lid",
    }
    assert {image: pairs[f"round/{image}"].captions[0] for image in told} == told


def test_what_cannot_show_its_caption_is_left_out_with_its_reason(reading: Reading) -> None:
    pairs, broken = by_id(reading), dict(reading.broken)
    assert broken["round/old-mug.png"] == "another emoji has taken its place"
    assert broken["round/spare.png"] == "it is a part of other emoji"
    assert {id for id, why in broken.items() if why == "the same image stands for several captions"} == {
        f"{style}/{image}" for style in ("round", "square") for image in ("twin.png", "other-twin.png")
    }
    assert not {*broken} & {*pairs}
    # What a style does not have is neither found nor broken.
    assert "square/potter.png" not in {*broken, *pairs}
    assert "round/potter.png" in pairs


def test_a_packed_and_an_unpacked_package_are_the_same(packages: Path, tmp_path: Path) -> None:
    unpacked = read_source(packages / "emoji-datasource-round")
    tgz = pack(packages / "emoji-datasource-round", tmp_path / "emoji-datasource-round-1.0.0.tgz")
    for source in (tgz, tmp_path, packages / "emoji-datasource-round" / "emoji.json"):
        packed = read_source(source)
        assert {id: (pair.captions, pair.split, pair.foils) for id, pair in by_id(packed).items()} == {
            id: (pair.captions, pair.split, pair.foils) for id, pair in by_id(unpacked).items()
        }
    with tarfile.open(tgz) as archive:
        archive.extractall(tmp_path / "out")  # without `filter`, which Python 3.11.2 does not know
    assert len(read_source(tmp_path / "out" / "package").found) == len(unpacked.found)
    store = prepare_source(read_source(tgz), tmp_path / "store", 8, "pad", 1, lambda *_: None)
    plain = prepare_source(unpacked, tmp_path / "plain", 8, "pad", 1, lambda *_: None)
    assert (np.load(store.home / "pictures-00000.npy") == np.load(plain.home / "pictures-00000.npy")).all()


def test_held_out_captions_are_new_and_made_of_known_words(reading: Reading) -> None:
    captions = {
        split: {each.captions[0] for each in reading.found if each.split == split} for split in ("train", "val", "test")
    }
    assert min(map(len, captions.values())) > 10
    known = {word for text in captions["train"] for word in text.replace(",", "").split()}
    for split in ("val", "test"):
        assert not captions[split] & captions["train"]
        assert {word for text in captions[split] for word in text.replace(",", "").split()} <= known
    assert not captions["val"] & captions["test"]
    # A caption is in one split in every style.
    splits: dict[str, set[str]] = {}
    for each in reading.found:
        splits.setdefault(each.captions[0], set()).add(each.split)
    assert {len(each) for each in splits.values()} == {1}


def test_a_style_alone_has_the_same_splits_and_foils(reading: Reading, packages: Path) -> None:
    together = by_id(reading)
    alone = read_source(packages / "emoji-datasource-square").found
    assert alone
    assert all(together[pair.id] == pair for pair in alone)


def test_a_foil_says_one_thing_otherwise(reading: Reading) -> None:
    pairs = by_id(reading)
    foils = {image: dict(pairs[f"round/{image}"].foils) for image in ("woman-potter-1f3ff.png", "red_heart.png")}
    potter = foils["woman-potter-1f3ff.png"]
    assert {*potter} == {"gender", "role", "skin_tone"}
    assert potter["gender"] == "man potter with dark skin"
    assert potter["role"] in {f"woman {role.lower()} with dark skin" for role in ROLES[1:]}
    assert potter["skin_tone"].startswith("woman potter with ")
    assert potter["skin_tone"] != "woman potter with dark skin"
    assert {*foils["red_heart.png"]} == {"colour", "object"}
    stride = dict(pairs["round/man-striding.png"].foils)
    assert stride["direction"] == "man striding with yellow skin, facing right"
    clock = dict(pairs["round/clock-two-thirty.png"].foils)
    assert clock["number"].startswith("clock face showing ")
    couple = dict(pairs["round/woman-kiss-man-1f3fb-1f3fe.png"].foils)
    assert couple["swap"] == "woman with brown skin left of man with pale skin, kissing"
    assert "swap" not in dict(pairs["round/woman-kiss-man-1f3fb-1f3fb.png"].foils)
    # No man of the trade is told apart from the trade itself.
    assert "gender" not in dict(pairs["round/potter.png"].foils)


def test_every_foil_is_the_caption_of_another_image(reading: Reading) -> None:
    """So the words of a foil give nothing away, and no image has a foil as its own caption."""
    captions = {pair.captions[0] for pair in reading.found}
    foils = [(pair, text) for pair in reading.found for _, text in pair.foils]
    assert len(foils) > 500
    assert all(text in captions and text != pair.captions[0] for pair, text in foils)
    split_of = {pair.captions[0]: pair.split for pair in reading.found}
    held = [(pair.split, split_of[text]) for pair, text in foils if pair.split != "train"]
    assert np.mean([own == other for own, other in held]) > 0.7


def test_what_may_be_true_together_is_no_foil() -> None:
    names = ("MAN SWIMMING", "MAN PLAYING WATER POLO", "MAN: RED HAIR", "MAN: CURLY HAIR", "MAN: WHITE HAIR")
    kinds = ("person-sport", "person-sport", "person", "person", "person")
    made = [
        {"name": name, "short_name": name.lower(), "image": f"{name}.png", "subcategory": kind}
        for name, kind in zip(names, kinds, strict=True)
    ]
    corpus = Corpus(each.caption for each in tell(made) if each.caption is not None)
    foils = {text: corpus.foils(caption) for text, caption in corpus.captions.items()}
    assert foils["man swimming"] == foils["man playing water polo"] == foils["man with curly hair"] == {}
    assert foils["man with red hair"] == {"hair": "man with white hair"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("cut", "download the package again"),
        ("json", "not readable as JSON"),
        ("entry", "is missing or wrong"),
        ("styles", "img/STYLE/64"),
    ],
)
def test_a_damaged_package_is_refused_in_one_sentence(packages: Path, tmp_path: Path, damage: str, said: str) -> None:
    source = tmp_path / "emoji-datasource-round"
    shutil.copytree(packages / "emoji-datasource-round", source)
    if damage == "cut":
        source = pack(source, tmp_path / "emoji-datasource-round.tgz")
        source.write_bytes(source.read_bytes()[:-3000])
    elif damage == "json":
        (source / "emoji.json").write_text('[{"name": "MAN')
    elif damage == "entry":
        (source / "emoji.json").write_text('[{"title": "MAN"}]')
    else:
        shutil.copytree(source / "img" / "round", source / "img" / "square")
    with pytest.raises(UserError, match=said) as refused:
        read_source(source)
    assert str(source) in str(refused.value)


def test_foils_are_kept_and_come_with_the_captions_of_a_mix(store: Store, tmp_path: Path) -> None:
    data = Data.model_validate({"source": "prepared", "mix": {str(store.home): 1.0}, "image_size": 24})
    corpus = load_corpus(data, tmp_path / "cache")
    told = dict(zip(store.pairs["captions"].list.first(), store.foils.iter_rows(named=True), strict=True))
    for pairs in (corpus.train, corpus.val, corpus.test):
        kinds = [name for name in pairs.captions.columns if name != "caption"]
        assert {"gender", "role", "skin_tone", "swap"} <= {*kinds}
        for row in pairs.captions.iter_rows(named=True):
            assert told[row["caption"]] == {kind: row[kind] for kind in kinds}
        rows, ids = pairs.variants["gender"]
        assert len(rows) == pairs.captions["gender"].count() > 0
        decoded = pairs.tokeniser.decode([token for token in ids[0] if token > 4])
        assert decoded == pairs.captions["gender"][int(rows[0])]
    table = FoilTable(corpus.train)
    assert table.present.sum() == sum(len(rows) for rows, _ in corpus.train.variants.values())
    assert describe(store).facts["foils"]["gender"] == store.foils["gender"].count()
    assert "foils: " in describe(store).text


def test_stores_with_and_without_foils_mix(store: Store, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for number in range(40):
        Image.new("RGB", (9, 9), (6 * number, 90, 0)).save(plain / f"{number}.png")
        (plain / f"{number}.txt").write_text(f"thing number {number}\n")
    other = prepare_source(read_source(plain), tmp_path / "data" / "plain", 24, "pad", 1, lambda *_: None)
    assert open_store(other.home).foils.shape == (40, 0)
    mix = {str(store.home): 1.0, str(other.home): 1.0}
    corpus = load_corpus(Data.model_validate({"source": "prepared", "mix": mix, "image_size": 24}), tmp_path / "cache")
    things = corpus.train.captions.filter(pl.col("caption").str.starts_with("thing"))
    assert len(things) == 40
    assert things["gender"].null_count() == 40
    assert corpus.train.captions["gender"].count() > 100


def test_the_miniature_has_the_form_of_the_packages() -> None:
    assert {*entries()[0]} >= {"name", "short_name", "image", "subcategory", "skin_variations"}
