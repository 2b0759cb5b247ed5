"""Visual Genome's regions, in the layouts in which others keep the files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.published import RED, captions, found_at, jpeg, prepared, reasons
from workbench.data.store import Images


def test_visual_genome_whole_and_cut_into_regions(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 40), RED)
    image.paste((20, 20, 220), (30, 0, 60, 40))
    (tmp_path / "VG_100K_2").mkdir()
    image.save(tmp_path / "VG_100K_2" / "7.jpg", quality=95)
    regions = [
        {"region_id": 1, "image_id": 7, "phrase": "a red half", "x": 0, "y": 0, "width": 30, "height": 40},
        {"region_id": 2, "image_id": 7, "phrase": "a blue half", "x": 32, "y": 0, "width": 300, "height": 400},
        {"region_id": 3, "image_id": 7, "phrase": "nowhere", "x": 90, "y": 0, "width": 3, "height": 4},
    ]
    (tmp_path / "region_descriptions.json").write_text(json.dumps([{"id": 7, "regions": regions}]))
    whole = prepared(tmp_path, tmp_path / "whole")
    assert captions(whole) == {"7": ("train", ["a red half", "a blue half", "nowhere"])}
    cut = prepared(tmp_path, tmp_path / "cut", regions="crop")
    assert captions(cut) == {"7-1": ("train", ["a red half"]), "7-2": ("train", ["a blue half"])}
    assert reasons(cut) == {"7-3": "the region is outside of the image"}
    red, blue = Images([cut], [np.arange(2)], 32)[np.arange(2)][:, :, 16, 16].astype(int)
    assert np.abs(red - RED).max() < 12
    assert np.abs(blue - (20, 20, 220)).max() < 12


@pytest.mark.parametrize("file", ["region_descriptions.json", "annotations/region_descriptions.json"])
@pytest.mark.parametrize("given", [False, True])
def test_visual_genome_as_meter_lays_it_out(tmp_path: Path, file: str, given: bool) -> None:
    there = [jpeg(tmp_path / "images" / "VG_100K" / "1.jpg"), jpeg(tmp_path / "images" / "VG_100K_2" / "2.jpg")]
    regions = [{"id": id, "regions": [{"region_id": id, "phrase": f"part of {id}"}]} for id in (1, 2)]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(regions))
    paths = found_at(tmp_path / file, images=[tmp_path]) if given else found_at(tmp_path)
    assert paths == {"1": there[0], "2": there[1]}


def test_visual_genomes_two_folders_may_be_given_each(tmp_path: Path) -> None:
    there = [jpeg(tmp_path / "one" / "1.jpg"), jpeg(tmp_path / "two" / "2.jpg")]
    regions = [{"id": id, "regions": [{"region_id": id, "phrase": f"part of {id}"}]} for id in (1, 2)]
    (tmp_path / "region_descriptions.json").write_text(json.dumps(regions))
    paths = found_at(tmp_path / "region_descriptions.json", images=[tmp_path / "one", tmp_path / "two"])
    assert list(paths.values()) == there
