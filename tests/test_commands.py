"""What every command has in common."""

import pytest
import typer
from click import Command, Group
from typer.testing import CliRunner

from workbench import __version__
from workbench.cli import app


def commands() -> dict[str, Command]:
    """All by their names, those of families as `data prepare`."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if isinstance(command, Group) or hasattr(command, "commands"):
            found |= {f"{name} {each}": made for each, made in command.commands.items()}
        else:
            found[name] = command
    return found


@pytest.mark.parametrize("name", commands())
def test_help_shows_an_example(name: str) -> None:
    told = CliRunner().invoke(app, [*name.split(), "-h"], env={"COLUMNS": "200"})
    assert told.exit_code == 0
    assert "Example" in told.stdout
    assert f"wb {name}" in told.stdout.replace("Usage: root", "wb")


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"workbench {__version__}\n"
