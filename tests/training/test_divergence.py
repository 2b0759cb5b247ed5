"""Numbers that are not finite end a trial as diverged, wherever they appear first."""

from pathlib import Path

import pytest
import torch

from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.objectives.negatives import choose, drawable
from workbench.training.loop import Diverged, Hooks
from workbench.training.prepare import Prepared
from workbench.training.pretrain import train

WRITTEN = {"objectives.itm.hard_ratio": 0.5}
IN_BATCH = {"objectives.itm.negatives": "in_batch_hard", "objectives.itc.weight": 1.0}


@pytest.mark.parametrize(
    ("changes", "step", "said"),
    [
        (WRITTEN | {"objectives.itm.sampling_temperature": 1e-40}, 1, "loss or gradient"),
        (WRITTEN | IN_BATCH | {"objectives.itm.similarity_temperature": 1e-44}, 1, "loss or gradient"),
        (WRITTEN | {"optimisation.learning_rate": 1e30, "optimisation.warmup": 0.0}, 2, "loss or gradient"),
        ({"optimisation.learning_rate": 1e30, "optimisation.warmup": 0.0, "evaluation.every": 1}, 1, "was measured"),
        ({"optimisation.learning_rate": 1e30, "optimisation.warmup": 0.0, "optimisation.steps": 1}, 1, "was measured"),
    ],
)
def test_what_is_not_finite_is_divergence(
    settings: Settings, prepared: Prepared, tmp_path: Path, changes: dict[str, object], step: int, said: str
) -> None:
    hooks = Hooks(log=lambda *_: None, progress=lambda *_: None)
    with pytest.raises(Diverged, match=said) as ended:
        train(apply(settings, changes), 0, prepared, tmp_path / "c.pt", hooks)
    assert ended.value.step == step


def test_a_row_without_a_distribution_gives_an_index_all_the_same() -> None:
    chances = torch.tensor([[torch.nan] * 3, [0.2, 0.3, 0.5], [0.0, torch.nan, 1.0]])
    chosen = choose(chances, torch.tensor([0.5, 0.4, 0.9]))
    assert chosen.max() < 3
    assert chosen[1] == 1


@pytest.mark.parametrize(
    ("logits", "temperature", "wanted"),
    [
        ([[1.0, -torch.inf], [0.0, 2.0]], 1.0, True),  # a word that may not be written
        ([[1.0, torch.nan], [0.0, 2.0]], 1.0, False),
        ([[1.0, torch.inf], [0.0, 2.0]], 1.0, False),
        ([[1.0, 2.0], [-5.0, -9.0]], 1e-38, False),
    ],
)
def test_rows_that_can_be_drawn_from(logits: list[list[float]], temperature: float, wanted: bool) -> None:
    assert bool(drawable(torch.tensor(logits), temperature)) is wanted
