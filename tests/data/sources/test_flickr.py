"""Flickr8k and Flickr30k, in each form in which their captions are passed on."""

from pathlib import Path

import pytest

from tests.data.published import found_at, jpeg
from workbench.data.sources.detect import read_source

FLICKR = {
    "results_20130124.token": "".join(f"{k}.jpg#{n}\tNumber {n}, of {k}\n" for k in (1, 2) for n in range(5)),
    "Flickr8k.token.txt": "".join(f"{k}.jpg#{n}\tNumber {n}, of {k}\n" for k in (1, 2) for n in range(5)),
    "captions.txt": "image,caption\n" + "".join(f"{k}.jpg,Number {n}, of {k}\n" for k in (1, 2) for n in range(5)),
    "results.csv": "image_name| comment_number| comment\n"
    + "".join(f"{k}.jpg| {n}| Number {n}, of {k}\n" for k in (1, 2) for n in range(5)),
}
FLICKR_QUOTED = "image,caption\n" + "".join(f'{k}.jpg,"Number {n}, of {k}"\n' for k in (1, 2) for n in range(5))


@pytest.mark.parametrize(("name", "text"), [*FLICKR.items(), ("captions.txt", FLICKR_QUOTED)])
@pytest.mark.parametrize("images", [".", "Images", "flickr30k-images", "Flicker8k_Dataset", "some/where"])
def test_flickr_has_five_captions_an_image(tmp_path: Path, name: str, text: str, images: str) -> None:
    there = [jpeg(tmp_path / images / f"{k}.jpg") for k in (1, 2)]
    (tmp_path / name).write_text(text)
    (tmp_path / "Flickr8k.lemma.token.txt").write_text("1.jpg#0\tnumber be\n")  # the same captions, their words reduced
    for path in (tmp_path, tmp_path / name):
        pairs = read_source(path).found
        assert [pair.id for pair in pairs] == ["1.jpg", "2.jpg"]
        assert [pair.captions for pair in pairs] == [tuple(f"Number {n}, of {k}" for n in range(5)) for k in (1, 2)]
        assert [pair.place.path for pair in pairs] == there


def test_flickrs_row_without_a_separator_is_read(tmp_path: Path) -> None:
    jpeg(tmp_path / "1.jpg")
    rows = FLICKR["results.csv"].replace("1.jpg| 4| Number 4, of 1", "1.jpg| 4   A horse trots over the sand .")
    (tmp_path / "results.csv").write_text(rows + '3.jpg| 0| 4 dogs "at" play | run\n4.jpg\n')
    reading = read_source(tmp_path)
    assert reading.found[0].captions[4] == "A horse trots over the sand ."
    assert reading.found[2].captions == ('4 dogs "at" play | run',)
    assert [what for what, _ in reading.broken] == ["results.csv, line 13"]


def test_captions_with_quotes_of_their_own_in_flickrs_text(tmp_path: Path) -> None:
    jpeg(tmp_path / "1.jpg")
    rows = ['"Stop", says the sign', '"a dog, a ""cat"""', 'a 6" pipe, wet', "plain"]
    (tmp_path / "captions.txt").write_text("image,caption\n" + "".join(f"1.jpg,{row}\n" for row in rows))
    (pair,) = read_source(tmp_path).found
    assert pair.captions == ('"Stop", says the sign', 'a dog, a "cat"', 'a 6" pipe, wet', "plain")


def test_a_text_that_only_has_a_name_of_flickrs_is_the_caption_of_an_image(tmp_path: Path) -> None:
    for name in ("captions", "b"):
        jpeg(tmp_path / f"{name}.jpg").with_suffix(".txt").write_text(f"of {name}")
    (tmp_path / "results.csv").write_text("step,loss\n1,2\n")
    assert list(found_at(tmp_path)) == ["b.jpg", "captions.jpg"]
