"""Published suites, retrieval and downstream tasks at the end of a trial."""

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.courses import run
from workbench.config.load import load_experiment
from workbench.config.schema import Settings
from workbench.config.settings import apply, telling
from workbench.data.images import decode
from workbench.errors import UserError
from workbench.evaluation.compositional import Reader, Suite, decoding, told_apart
from workbench.evaluation.contract import evaluate
from workbench.stop import Stopped
from workbench.training import suites
from workbench.training.loop import Hooks
from workbench.training.prepare import prepare
from workbench.training.pretrain import starting_model, train
from workbench.training.suites import check_suites, read_items

KINDS = ("add_att", "swap_obj")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """SugarCrepe in small: 6 images, 12 items."""
    rng = np.random.default_rng(0)
    (tmp_path / "val2017").mkdir()
    for k in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "val2017" / f"{k}.png")
    for kind in KINDS:
        items = {
            str(k): {
                "filename": f"{k}.png",
                "caption": "a red circle",
                "negative_caption": f"a blue {kind[0]} star {k}",
            }
            for k in range(6)
        }
        (tmp_path / f"{kind}.json").write_text(json.dumps(items))
    return tmp_path


def with_suites(settings: Settings, **asked: Any) -> Settings:
    return apply(settings, {"evaluation.suites": asked, "evaluation.robustness_pairs": 0, "optimisation.steps": 3})


def given(files: Path) -> dict[str, Any]:
    return {"annotations": str(files), "images": str(files)}


TASK = {"epochs": 1, "batch_size": 16, "limit": 32}
EXPECTED = {f"{of}/sugarcrepe/{kind}" for of in ("compositional", "blank_image") for kind in KINDS}
EXPECTED |= {"retrieval-first-20/text_r1", "retrieval-first-20/image_r5", "downstream/vqa-first-32/accuracy"}


def test_a_trial_measures_its_suites_and_goes_on_within_them(
    files: Path, settings: Settings, tmp_path: Path, cache_dir: Path
) -> None:
    changed = with_suites(
        settings, sugarcrepe=given(files), retrieval={"shortlist": 10, "limit": 20}, vqa=TASK, nlvr2=TASK
    )
    check_suites(changed)
    prepared = prepare(changed, cache_dir, lambda *_: None)
    whole, logged = run(changed, prepared, tmp_path / "whole.pt")
    assert set(whole) >= EXPECTED
    assert whole["suite_items/sugarcrepe/add_att"] == 6
    assert logged["compositional/sugarcrepe/add_att", 3] == whole["compositional/sugarcrepe/add_att"]
    plain, _ = run(with_suites(settings), prepared, tmp_path / "plain.pt")
    assert plain == {name: value for name, value in whole.items() if name in plain}
    # Stopped between the parts of the end, in the middle of fine-tuning, it ends with the same numbers.
    for asked in (14, 22):
        calls = itertools.count(1)
        hooks = Hooks(lambda *_: None, lambda *_: None, partial(_is_call, calls, asked))
        with pytest.raises(Stopped):
            train(changed, 0, prepared, tmp_path / f"cut{asked}.pt", hooks)
        assert train(changed, 0, prepared, tmp_path / f"cut{asked}.pt", hooks) == whole
        assert not list(tmp_path.glob("cut*.vqa*"))


def _is_call(calls: Iterator[int], asked: int) -> bool:
    return next(calls) == asked


@pytest.mark.parametrize("frozen", [True, False])
def test_scores_are_those_of_the_files_and_images_are_decoded_once(
    frozen: bool, files: Path, settings: Settings, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = apply(with_suites(settings, sugarcrepe=given(files)), {"model.vision.frozen": frozen})
    decoded: list[Path] = []

    def decoding_once(path: Path, *rest: Any) -> np.ndarray:
        decoded.append(path)
        return decode(path, *rest)

    monkeypatch.setattr(suites, "decode", decoding_once)
    for _ in range(2):
        prepared = prepare(changed, cache_dir, lambda *_: None)
    assert len(decoded) == 6
    suite = prepared.suites["sugarcrepe"]
    assert suite.images.dtype == (np.float16 if frozen else np.uint8)
    model, tokeniser = starting_model(changed, 0, prepared).eval(), prepared.corpus.tokeniser
    scores = evaluate(suites.compositional(suite, model, tokeniser, 8))
    assert changed.evaluation.suites is not None
    assert changed.evaluation.suites.sugarcrepe is not None
    items = told_apart(read_items("sugarcrepe", changed.evaluation.suites.sugarcrepe), tokeniser)
    look = decoding(model, settings.data.image_size, "pad")
    assert scores == evaluate(Suite(Reader(model, tokeniser, 8, look), "sugarcrepe", items))
    # A changed image is another one.
    Image.new("RGB", (30, 30)).save(files / "val2017" / "0.png")
    prepare(changed, cache_dir, lambda *_: None)
    assert len(decoded) == 12


def test_what_is_missing_is_named_before_the_first_trial(files: Path, settings: Settings, cache_dir: Path) -> None:
    changed = with_suites(settings, sugarcrepe=given(files))
    (files / "val2017" / "3.png").unlink()
    with pytest.raises(UserError, match=r"`evaluation\.suites\.sugarcrepe`: only a part .*add_att 5 of 6"):
        check_suites(changed)
    (files / "val2017" / "3.png").write_bytes(b"broken")
    check_suites(changed)
    with pytest.raises(UserError, match=r"add_att 5 of 6.*3\.png: the image cannot be read"):
        prepare(changed, cache_dir, lambda *_: None)
    with pytest.raises(UserError, match=r"`evaluation\.suites\.valse`.*holds no file of valse"):
        check_suites(with_suites(settings, valse=given(files)))
    with pytest.raises(UserError, match=r"`evaluation\.suites\.vqa`: .*nowhere"):
        check_suites(with_suites(settings, vqa={"annotations": str(files / "nowhere"), "images": str(files)}))
    with pytest.raises(UserError, match="`annotations` and `images` go together"):
        with_suites(settings, vqa={"annotations": str(files)})


HEAD = (
    "question: q?\npreset: tiny\nfactors: {objectives.itm.hard_ratio: [0.0, 0.5]}\nbaseline:"
    " {objectives.itm.hard_ratio: 0.0}\n"
)
SUITES = (
    "fixed: {evaluation.suites: {sugarcrepe: {annotations: a, images: b}, retrieval: {limit: 100}, vqa: {epochs: 2}}}\n"
)


@pytest.mark.parametrize(
    ("primary", "more", "said"),
    [
        ("compositional/sugarcrepe/swap_obj", "", ""),
        ("retrieval-first-100/text_r1", "", ""),
        ("downstream/vqa/accuracy", "", ""),
        ("compositional/sugarcrepe/swap_objects", "", "unknown metric"),
        ("compositional/valse/existence", "", "unknown metric"),
        (
            "downstream/vqa/accuracy",
            "search: {settings: {objectives.mlm.alpha: [0.1, 0.2]}}\n",
            "`search` tunes on the",
        ),
    ],
)
def test_a_score_of_a_suite_may_be_the_question(tmp_path: Path, primary: str, more: str, said: str) -> None:
    (tmp_path / "e.yaml").write_text(f"{HEAD}{SUITES}primary: {primary}\n{more}")
    if said:
        with pytest.raises(UserError, match=said):
            load_experiment(tmp_path / "e.yaml")
        return
    experiment = load_experiment(tmp_path / "e.yaml")
    assert experiment.primary == primary
    assert experiment.settings.evaluation.suites is not None
    assert experiment.settings.evaluation.suites.sugarcrepe is not None
    assert experiment.settings.evaluation.suites.sugarcrepe.images == (str(Path("b").absolute()),)


def test_trials_of_earlier_versions_keep_their_names(settings: Settings) -> None:
    assert "suites" not in telling(settings)
    assert "suites" in telling(with_suites(settings, retrieval={}))
