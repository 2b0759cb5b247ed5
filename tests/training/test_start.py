from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workbench.config.schema import Settings
from workbench.config.settings import apply, read_preset
from workbench.errors import UserError
from workbench.training.prepare import Prepared, prepare
from workbench.training.warm_start import new_model, start_weights


def saved(settings: Settings, prepared: Prepared, path: Path) -> dict[str, torch.Tensor]:
    weights = {name: tensor.clone() for name, tensor in new_model(settings, prepared.corpus, 9).state_dict().items()}
    save_file(weights, path)
    return weights


def test_a_trial_starts_from_the_file_that_it_is_given(
    settings: Settings, prepared: Prepared, cache_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "start.safetensors"
    weights = saved(settings, prepared, path)
    started = prepare(apply(settings, {"model.weights": str(path)}), cache_dir, lambda *_: None)
    assert all(torch.equal(started.weights[name], weights[name]) for name in weights)
    assert started.fingerprint != prepared.fingerprint
    # The stored features are those of the new vision encoder.
    assert (started.features["val"][:] != prepared.features["val"][:]).any()


def test_longer_position_embeddings_are_cut(settings: Settings, prepared: Prepared, tmp_path: Path) -> None:
    longer = apply(settings, {"data.max_length": settings.data.max_length + 9})
    path = tmp_path / "start.safetensors"
    weights = saved(longer, prepared, path)
    name = "language.roberta.embeddings.position_embeddings.weight"
    got = start_weights(settings, prepared.corpus, {}, path)[name]
    assert torch.equal(got, weights[name][: len(got)])
    assert len(got) == len(weights[name]) - 9


def test_a_start_that_does_not_fit_is_one_sentence(settings: Settings, prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    saved(settings, prepared, path)
    for change, complaint in (
        ({"model.width": settings.model.width * 2}, "other sizes"),
        ({"model.fusion.layers": 1}, "only one of the two has"),
    ):
        with pytest.raises(UserError, match=complaint):
            start_weights(apply(settings, change), prepared.corpus, {}, path)
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        start_weights(settings, prepared.corpus, {}, path)
    with pytest.raises(UserError, match="cannot be read"):
        start_weights(settings, prepared.corpus, {}, tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("name", ["tiny", "lite0", "meter-base"])
def test_every_preset_is_valid(name: str) -> None:
    assert Settings.model_validate(read_preset(name)).model.fusion.layers > 0
