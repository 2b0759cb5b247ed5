"""`wb data`: prepare, list and look at corpora."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from workbench.cli.options import (
    DEFAULT,
    Debug,
    Json,
    Set,
    Workspace,
    app,
    console_for,
    print_json,
)
from workbench.errors import UserError
from workbench.workspace import Workspace as Folders

data = typer.Typer(no_args_is_help=True, help="Prepare, list and look at image-text corpora.")
app.add_typer(data, name="data")
Name = Annotated[str, typer.Argument(help="A name for the prepared corpus, for `data.mix`.")]


@data.command(
    "prepare",
    epilog=(
        "Examples: `wb data prepare coco --from annotations/captions_train2017.json --images train2017`; `wb data"
        " prepare cc3m --from cc3m/ --side 256` (a folder of tars); `npm pack emoji-datasource-google@16.0.0`, then `wb"
        " data prepare emoji --from . --side 128`"
    ),
)
def data_prepare(
    name: Name,
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            help="COCO's, Karpathy's or Visual Genome's JSON, a list of {image, caption}, Flickr's .token, a .csv / "
            ".jsonl / .parquet, a tar or folder of tars, npm's emoji-datasource-*, or a folder that holds one of"
            " these, "
            "or images with a .txt beside each.",
        ),
    ],
    images: Annotated[
        list[Path] | None, typer.Option(help="A folder in which the images lie, if not beside; may be given again.")
    ] = None,
    side: Annotated[
        int, typer.Option(help="Stored side in pixels; a little more than the model's.", min=16, max=1024)
    ] = 256,
    fit: Annotated[
        Literal["crop", "squash", "pad"], typer.Option(help="Keep the middle, squash, or pad on white.")
    ] = "crop",
    regions: Annotated[
        Literal["whole", "crop"], typer.Option(help="Visual Genome: whole images, or each region cut out.")
    ] = "whole",
    store: Annotated[
        Literal["raw", "jpeg"],
        typer.Option(help="Keep pixels, or JPEGs of the stored side: about a sixth of the room."),
    ] = "raw",
    quality: Annotated[int, typer.Option(help="Of JPEGs.", min=1, max=100)] = 95,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Store no pixels: decode images where they lie, as from mounted tars too large to copy.",
        ),
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default one a core.", min=1)] = None,
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Decode and resize a corpus once, for fast reading. Stopped at any point, the same command goes on."""
    from workbench.data.prepare import prepare_source
    from workbench.data.report import describe
    from workbench.data.sources.detect import read_source
    from workbench.progress import counted

    if "/" in name or name.startswith("."):
        raise UserError(f"{name}: a name has no slash and does not start with a dot.")
    if in_place and store == "jpeg":
        raise UserError(
            "--in-place: stores no pixels, so that there is nothing for `--store jpeg`; leave one of them away."
        )
    console = console_for(as_json)
    reading = read_source(source, images or (), regions)
    with counted(console, "pictures") as show:
        made = prepare_source(
            reading,
            Folders(workspace).data / name,
            side,
            fit,
            workers or os.cpu_count() or 1,
            show,
            in_place,
            store,
            quality,
        )
    told = describe(made)
    if as_json:
        print_json(told.facts)
    else:
        typer.echo(told.text)


@data.command("list", epilog="Examples: `wb data list`; `wb data list --verify`")
def data_list(
    workspace: Workspace = DEFAULT,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything and compare checksums.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the prepared corpora of a workspace."""
    from workbench.data.store import FACTS, open_store

    found = [open_store(path.parent) for path in sorted(Folders(workspace).data.glob(f"*/{FACTS}"))]
    rows = [
        {"name": store.name, "form": store.facts["form"], "pictures": store.facts["pictures"]}
        | {
            "side": store.side,
            "fit": store.facts["fit"],
            "in_place": store.facts["in_place"],
            "store": store.stored,
            "broken": store.facts["broken"],
        }
        | ({"damaged": store.damaged()} if verify else {})
        for store in found
    ]
    if as_json:
        print_json(rows)
    elif not rows:
        typer.echo(f"Nothing is prepared in {workspace / 'data'}; start with `wb data prepare NAME --from PATH`.")
    for row in [] if as_json else rows:
        harm = f"  DAMAGED: {', '.join(row['damaged'])}" if row.get("damaged") else ""
        typer.echo(
            f"{row['name']:<16} {row['form']:<14} {row['pictures']:>9,} images  {row['side']} px {row['fit']:<6} "
            f"{'' if row['store'] == 'raw' else row['store'] + ' '}"
            f"{row['broken']:,} left out{harm}"
        )
    if any(row.get("damaged") for row in rows):
        raise typer.Exit(1)


@data.command("features", epilog="Examples: `wb data features`; `wb data features --verify`")
def data_features(
    workspace: Workspace = DEFAULT,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read everything, compare checksums, and remove what is damaged, to be made anew."
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the stored features of frozen image encoders in a workspace."""
    from workbench.data.features import check_stores

    found = check_stores(Folders(workspace).cache, verify)
    if as_json:
        print_json([store.facts for store in found])
    elif not found:
        typer.echo(
            f"No features are stored in {Folders(workspace).cache}; a sweep with a frozen image encoder stores them."
        )
    for store in [] if as_json else found:
        typer.echo(str(store))
    if any(store.damaged for store in found):
        raise typer.Exit(1)


@data.command("inspect", epilog="Examples: `wb data inspect coco`; `wb data inspect experiments/ablation_itm.yaml`")
def data_inspect(
    what: Annotated[str, typer.Argument(help="A prepared corpus, or an experiment's YAML.", metavar="NAME|FILE")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("sheet.png"),
    count: Annotated[int, typer.Option(help="Images.", min=1, max=64)] = 12,
    workspace: Workspace = DEFAULT,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Write a contact sheet: a corpus with its captions, or what the model sees of an experiment's pairs."""
    from workbench.data.sheet import write_sheet

    if not what.endswith((".yaml", ".yml")):
        from workbench.data.report import sample

        images, lines, title = sample(Folders(workspace).data / what if "/" not in what else Path(what), count)
    else:
        import numpy as np

        from workbench.config.load import load_experiment
        from workbench.training.preview import first_views

        experiment = load_experiment(Path(what), set_ or ())
        views = first_views(
            experiment.settings, experiment.seeds.first, Folders(workspace).cache, count, lambda *_: None
        )
        images, lines = np.stack([view.image for view in views]), [view.lines for view in views]
        title = f"{experiment.name}, seed {experiment.seeds.first}: the first pairs of the first step"
    write_sheet(images, lines, title, out)
    typer.echo(f"contact sheet: {out}")
