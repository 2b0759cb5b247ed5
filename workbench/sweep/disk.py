"""The disk that the stored features of a sweep take."""

from pathlib import Path

from workbench.config.schema import Experiment, Settings
from workbench.training.features import Room, features_name, room_of
from workbench.trial.cell import make_cell
from workbench.trial.inputs import Inputs
from workbench.workspace import Workspace


def rooms(experiment: Experiment, workspace: Path) -> list[Room]:
    """What the stored features of all arms take, each store once. Raises UserError as `room_of`."""
    cache_dir = Workspace(workspace).cache
    inputs, found = Inputs(cache_dir), dict[str, Settings]()
    for arm in experiment.arms:
        settings = make_cell(experiment, arm, 0).settings
        if settings.model.vision.frozen:
            found.setdefault(features_name(settings, *inputs.read(settings)), settings)
    return [room_of(settings, cache_dir / name) for name, settings in found.items()]
