"""`wb pretrain`: trains the encoders that come with the package."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import DEFAULT, File, Json, Set, Workspace, app, console_for, current, print_json
from workbench.stop import SENTENCE
from workbench.workspace import Workspace as Folders

if TYPE_CHECKING:
    from rich.console import Console

TRAINED = ("encoders", "fused start")
EVERY = 60.0  # seconds between two lines of progress where there is no terminal for a bar


@app.command(epilog="Example: `wb pretrain workbench/model/pretrained/tiny.yaml --out workbench/model/pretrained`")
def pretrain(
    file: File,
    out: Annotated[Path, typer.Option(help="Output folder for the encoders and their model card.")] = Path(
        "pretrained"
    ),
    workspace: Workspace = DEFAULT,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Train the encoders that every trial starts from, and report their scores. After a stop, run the same command
    again to continue."""
    import torch

    from workbench.config.load import load_experiment
    from workbench.cores import usable_cores
    from workbench.progress import counted
    from workbench.training.ship import make_encoders

    experiment = load_experiment(file, set_ or ())
    torch.set_num_threads(usable_cores())
    torch.set_flush_denormal(True)
    console, stop = console_for(as_json), current.get()
    stop.sentence = SENTENCE
    with counted(console, "steps") as bar, stop.asking():
        show = _progress(console, bar)
        encoders = make_encoders(experiment, file, Folders(workspace).cache, out, show, stop, set_ or ())
    if as_json:
        print_json({"out": str(encoders.folder)} | encoders.card)
        return
    scores = encoders.card["knows"]
    typer.echo(encoders.table)
    typer.echo(
        f"masked words: perplexity {scores['perplexity']:.2f}, {scores['words_right']:.3f} right; alignment AUC"
        f" {scores['alignment_auc']:.3f}\n{encoders.folder}: SHA-256 {encoders.card['sha256']}"
    )


def _progress(console: "Console", bar: Callable[[int, int], None]) -> Callable[[str, int, int, dict[str, float]], None]:
    """Returns a callback that shows progress with rate and time left: a bar on a terminal, elsewhere a line per
    minute."""
    began: dict[str, tuple[float, int]] = {}
    last_line = [0.0]

    def show(what: str, done: int, total: int, figures: dict[str, float]) -> None:
        if what not in TRAINED:
            console.print(f"preparing: {what}", highlight=False)
            return
        bar(done, total)
        now = time.monotonic()
        began.setdefault(what, (now, done))
        if console.is_terminal or now - last_line[0] < EVERY:
            return
        last_line[0] = now
        seconds, before = now - began[what][0], began[what][1]
        rate = (done - before) / seconds if seconds else 0.0
        left = f", {rate:.0f} steps/s, {(total - done) / rate / 60:.0f} min left" if rate else ""
        losses = "".join(f", {name} {value:.3f}" for name, value in figures.items())
        console.print(f"{what}: step {done:,} of {total:,}{left}{losses}", highlight=False, soft_wrap=True)

    return show
