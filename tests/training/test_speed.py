"""What only saves time or memory leaves the numbers as they are, and does happen."""

from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.model.fusion import CrossLayer
from workbench.model.vilta import ViLTA
from workbench.training.loop import Hooks
from workbench.training.prepare import Prepared
from workbench.training.pretrain import train

Shapes = list[tuple[int, int]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Shapes]:
    """The shapes [rows, tokens] of what the encoder and the fusion's layers have read with gradients on."""
    read: dict[str, Shapes] = {"captions": [], "fused": []}
    encode, fuse = ViLTA.encode_text, CrossLayer.forward

    def encoded(self: ViLTA, token_ids: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            read["captions"].append((token_ids.shape[0], token_ids.shape[1]))
        return encode(self, token_ids)

    def fused(self: CrossLayer, x: torch.Tensor, *others: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            read["fused"].append((x.shape[0], x.shape[1]))
        return fuse(self, x, *others)

    monkeypatch.setattr(ViLTA, "encode_text", encoded)
    monkeypatch.setattr(CrossLayer, "forward", fused)
    return read


def losses_of(settings: Settings, prepared: Prepared, path: Path, dropout: float = 0.0, **changes: Any) -> list[float]:
    small = {"evaluation.every": 4, "evaluation.robustness_pairs": 0, "optimisation.steps": 4}
    settings = apply(settings, small | {"model.fusion.dropout": dropout})
    curve: list[float] = []
    hooks = Hooks(lambda *_: None, lambda _, figures: curve.append(figures["loss"]))
    train(apply(settings, {f"optimisation.{k}": v for k, v in changes.items()}), 0, prepared, path, hooks)
    return curve


def test_recomputed_layers_give_the_same_bits(
    settings: Settings, prepared: Prepared, tmp_path: Path, seen: dict[str, Shapes]
) -> None:
    plain = losses_of(settings, prepared, tmp_path / "a", dropout=0.1)
    once = len(seen["fused"])
    saving = losses_of(settings, prepared, tmp_path / "b", dropout=0.1, activation_checkpointing=True)
    assert saving == plain
    assert len(seen["fused"]) == 3 * once  # forward, then forward and again in the backward pass


def test_captions_of_like_length_are_read_together(
    settings: Settings, prepared: Prepared, tmp_path: Path, seen: dict[str, Shapes]
) -> None:
    losses_of(settings, prepared, tmp_path / "a")
    whole = list(seen["captions"])
    seen["captions"].clear()
    losses_of(settings, prepared, tmp_path / "b", length_buckets=3)
    assert len(seen["captions"]) == 3 * len(whole)
    assert sum(rows for rows, _ in seen["captions"]) == sum(rows for rows, _ in whole)
    padded = sum(rows * tokens for rows, tokens in seen["captions"])
    assert padded < 0.9 * sum(rows * tokens for rows, tokens in whole)


def test_micro_batches_read_part_by_part(
    settings: Settings, prepared: Prepared, tmp_path: Path, seen: dict[str, Shapes]
) -> None:
    losses_of(settings, prepared, tmp_path / "b", micro_batches=2)
    assert [rows for rows, _ in seen["captions"]] == [16] * 8


@pytest.mark.parametrize(
    "change", [{"length_buckets": 3}, {"micro_batches": 2}, pytest.param({"compile": True}, marks=pytest.mark.long)]
)
def test_the_numbers_stay_but_for_rounding(
    settings: Settings,
    prepared: Prepared,
    tmp_path: Path,
    change: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The tracing is what can break; generating code would only take half a minute.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    compiled = torch._dynamo.utils.counters["frames"]["ok"]
    plain, changed = (
        losses_of(settings, prepared, tmp_path / name, **options) for name, options in (("a", {}), ("b", change))
    )
    assert changed == pytest.approx(plain, rel=2e-5)
    assert (torch._dynamo.utils.counters["frames"]["ok"] > compiled) == ("compile" in change)


def test_deterministic_kernels_are_those_of_the_trial_that_asks_for_them(
    settings: Settings, prepared: Prepared, tmp_path: Path
) -> None:
    try:
        losses_of(settings, prepared, tmp_path / "a", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        losses_of(settings, prepared, tmp_path / "b")
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
