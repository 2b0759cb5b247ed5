"""The disk space of a sweep's stored features."""

from pathlib import Path

from workbench.config.schema import Experiment, Settings
from workbench.training.features import Room, features_name, room_of
from workbench.trial.cell import make_cell
from workbench.trial.inputs import Inputs
from workbench.workspace import Workspace


def rooms(experiment: Experiment, workspace: Path) -> list[Room]:
    """Returns the disk space of the stored features of all arms, each store once. Raises UserError like `room_of`."""
    cache_dir = Workspace(workspace).cache
    inputs, stores = Inputs(cache_dir), dict[str, Settings]()
    for arm in experiment.arms:
        settings = make_cell(experiment, arm, 0).settings
        if settings.model.vision.frozen:
            stores.setdefault(features_name(settings, *inputs.read(settings)), settings)
    return [room_of(settings, cache_dir / name) for name, settings in stores.items()]
