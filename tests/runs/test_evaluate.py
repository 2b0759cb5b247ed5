from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.model.families import save_family
from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.errors import UserError
from workbench.evaluation.downstream.targets import Targets
from workbench.evaluation.downstream.tasks import TaskSplit, refuse_part
from workbench.model.weights import with_own_ids
from workbench.runs.evaluate import check_data, load_trained
from workbench.training.prepare import corpus_of
from workbench.training.warm_start import new_model
from workbench.trial.checkpoints import weights_of
from workbench.workspace import Workspace


@pytest.mark.parametrize(("then", "told"), [("", 0), ("folder-1", 0), ("folder-2", 1)])
def test_data_that_have_changed_since_a_training_are_told_of(then: str, told: int) -> None:
    said: list[str] = []
    check_data("r", then, "folder-1", False, said.append)
    assert len(said) == told
    assert all("(folder-2 then, folder-1 now)" in sentence for sentence in said)


def test_a_run_with_the_words_of_other_encoders_is_refused() -> None:
    check_data("r", "scenes-1", "scenes-1", True, pytest.fail)
    with pytest.raises(UserError, match="install the earlier version"):
        check_data("r", "scenes-1", "scenes-2", True, pytest.fail)


@pytest.mark.parametrize("earlier", [True, False])
def test_a_run_of_an_earlier_version_has_its_tokens_put_in_their_places(
    earlier: bool, settings: Settings, tmp_path: Path
) -> None:
    home = str(save_family("roberta", tmp_path / "roberta"))
    text = {"data.tokeniser": home, "model.text.weights": home, "model.text.layers": 1, "warm_start.steps": 0}
    changed = apply(settings, text | {"data.train_pairs": 8, "data.eval_pairs": 4, "data.max_length": 20})
    corpus, _ = corpus_of(changed, Workspace(tmp_path).cache)
    model, mask = new_model(changed, corpus, 3), corpus.tokeniser.mask
    assert mask > 300
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = weights_of(tmp_path, "study", "hash")
    file.parent.mkdir(parents=True)
    save_file(with_own_ids(weights, mask) if earlier else weights, file)
    data = corpus.fingerprint.removesuffix("-own-ids") if earlier else corpus.fingerprint
    tags = SimpleNamespace(study="study", config_hash="hash", data=data, seed=0)
    tracker: Any = SimpleNamespace(settings_of=lambda _: (changed.model_dump(mode="json"), tags), say=pytest.fail)
    loaded = load_trained(tracker, "r", tmp_path).model.state_dict()
    words = "language.roberta.embeddings.word_embeddings.weight"
    assert not torch.equal(weights[words][4], weights[words][mask])
    assert all(torch.equal(loaded[name].cpu(), tensor) for name, tensor in weights.items())


def split_of(whole: int, imageless: int) -> TaskSplit:
    ids = [str(k) for k in range(whole)]
    targets = Targets.of(([(0, 1.0)] for _ in ids), 2)
    missing = {f"x{k}": "the image is missing" for k in range(imageless)}
    rows = np.zeros((whole, 1), np.int64)
    return TaskSplit(None, rows, ids, targets, ["a", "b"], [[] for _ in ids], missing, ids, imageless)


@pytest.mark.parametrize(("whole", "imageless", "refused"), [(99, 1, False), (98, 2, True), (0, 5, False)])
def test_a_part_of_a_split_is_refused_before_training(whole: int, imageless: int, refused: bool) -> None:
    """A split without any image is told of, and has no score."""
    if not refused:
        refuse_part("nlvr2's test split", split_of(whole, imageless))
        return
    with pytest.raises(
        UserError, match=r"nlvr2's test split has readable images for 98 of its 100 examples .*--allow-partial"
    ):
        refuse_part("nlvr2's test split", split_of(whole, imageless))
