"""What every command has in common."""

import logging
import os
from pathlib import Path

import pytest
import typer
from click import Command, Group
from typer.testing import CliRunner

from workbench import __version__
from workbench.cli import options
from workbench.cli.options import app


def commands() -> dict[str, Command]:
    """All by their names, those of families as `data prepare`."""
    by_name: dict[str, Command] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if isinstance(command, Group) or hasattr(command, "commands"):
            by_name |= {f"{name} {member}": nested for member, nested in command.commands.items()}
        else:
            by_name[name] = command
    return by_name


@pytest.mark.parametrize("name", commands())
def test_help_shows_an_example(name: str) -> None:
    told = CliRunner().invoke(app, [*name.split(), "-h"], env={"COLUMNS": "200"})
    assert told.exit_code == 0
    assert "Example" in told.stdout
    assert f"wb {name}" in told.stdout.replace("Usage: root", "wb")


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"workbench {__version__}\n"


@pytest.mark.parametrize("line", [["-q", "-v", "runs"], ["runs", "-q", "-v"], ["-q", "runs", "--verbose"]])
def test_quiet_and_verbose_are_known_to_all_processes_of_a_command(
    line: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a copy, as commands change it
    levels: list[object] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **kwargs: levels.append(kwargs["level"]))
    monkeypatch.setattr("optuna.logging.set_verbosity", levels.append)

    def run(*arguments: str) -> None:
        answer = CliRunner().invoke(app, [*arguments, "--workspace", str(tmp_path / "none")])
        assert "No such option" not in answer.output

    run("runs")
    assert not options.console_for(as_json=False).quiet
    assert levels == [logging.ERROR]
    run(*line)
    assert options.console_for(as_json=False).quiet
    assert levels[1:] == [logging.INFO, logging.INFO]


@pytest.mark.parametrize("name", commands())
def test_every_command_has_the_shared_options_once(name: str) -> None:
    given = [option for parameter in commands()[name].params for option in parameter.opts]
    for option in ("--debug", "--quiet", "-q", "--verbose", "-v"):
        assert given.count(option) == 1, option
