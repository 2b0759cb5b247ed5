"""`wb data`: prepare, list and inspect corpora."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from workbench.cli.options import (
    DEFAULT,
    Commands,
    Json,
    Set,
    Workspace,
    app,
    console_for,
    print_json,
)
from workbench.errors import UserError
from workbench.workspace import Workspace as Folders

data = typer.Typer(cls=Commands, no_args_is_help=True, help="Prepare, list and inspect image-text corpora.")
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
            "or images, each with a .txt file next to it.",
        ),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder with the images, if they are not next to the captions; may be given several times."
        ),
    ] = None,
    side: Annotated[
        int, typer.Option(help="Stored image side in pixels; a little larger than the model's.", min=16, max=1024)
    ] = 256,
    fit: Annotated[
        Literal["crop", "squash", "pad"], typer.Option(help="Crop the centre, squash, or pad with white.")
    ] = "crop",
    regions: Annotated[
        Literal["whole", "crop"], typer.Option(help="Visual Genome: whole images, or a crop of each region.")
    ] = "whole",
    store: Annotated[
        Literal["raw", "jpeg"],
        typer.Option(help="Store raw pixels, or JPEGs of the stored side: about a sixth of the space."),
    ] = "raw",
    quality: Annotated[int, typer.Option(help="JPEG quality.", min=1, max=100)] = 95,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Store no pixels: decode images in place, for example from mounted tars too large to copy.",
        ),
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.", min=1)] = None,
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
) -> None:
    """Decode and resize a corpus once, for fast reading. After a stop, run the same command again to continue."""
    from workbench.cores import allowed_cores
    from workbench.data.prepare import prepare_source
    from workbench.data.report import describe
    from workbench.data.sources.detect import read_source
    from workbench.progress import counted

    if "/" in name or name.startswith("."):
        raise UserError(f"{name}: a name has no slash and does not start with a dot.")
    if in_place and store == "jpeg":
        raise UserError(
            "--in-place: it stores no pixels, so `--store jpeg` has no effect; remove one of the two options."
        )
    console = console_for(as_json)
    reading = read_source(source, images or (), regions)
    with counted(console, "images") as show:
        corpus = prepare_source(
            reading,
            Folders(workspace).data / name,
            side,
            fit,
            workers or allowed_cores(),
            show,
            in_place,
            store,
            quality,
        )
    description = describe(corpus)
    if as_json:
        print_json(description.facts)
    else:
        typer.echo(description.text)


@data.command("list", epilog="Examples: `wb data list`; `wb data list --verify`")
def data_list(
    workspace: Workspace = DEFAULT,
    verify: Annotated[bool, typer.Option("--verify", help="Read all data and compare checksums.")] = False,
    as_json: Json = False,
) -> None:
    """List the prepared corpora of a workspace."""
    from workbench.data.store import FACTS, open_store

    stores = [open_store(path.parent) for path in sorted(Folders(workspace).data.glob(f"*/{FACTS}"))]
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
        for store in stores
    ]
    if as_json:
        print_json(rows)
    elif not rows:
        typer.echo(f"No corpus is prepared in {workspace / 'data'}; start with `wb data prepare NAME --from PATH`.")
    for row in [] if as_json else rows:
        damage = f"  DAMAGED: {', '.join(row['damaged'])}" if row.get("damaged") else ""
        typer.echo(
            f"{row['name']:<16} {row['form']:<14} {row['pictures']:>9,} images  {row['side']} px {row['fit']:<6} "
            f"{'' if row['store'] == 'raw' else row['store'] + ' '}"
            f"{row['broken']:,} left out{damage}"
        )
    if any(row.get("damaged") for row in rows):
        raise typer.Exit(1)


@data.command("features", epilog="Examples: `wb data features`; `wb data features --verify`")
def data_features(
    workspace: Workspace = DEFAULT,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read all data, compare checksums, and remove damaged files so that they are computed again.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the stored features of frozen image encoders in a workspace."""
    from workbench.data.features import check_stores

    stores = check_stores(Folders(workspace).cache, verify)
    if as_json:
        print_json([store.facts for store in stores])
    elif not stores:
        typer.echo(
            f"No features are stored in {Folders(workspace).cache}; a sweep with a frozen image encoder stores them."
        )
    for store in [] if as_json else stores:
        typer.echo(str(store))
    if any(store.damaged for store in stores):
        raise typer.Exit(1)


@data.command("inspect", epilog="Examples: `wb data inspect coco`; `wb data inspect experiments/ablation_itm.yaml`")
def data_inspect(
    what: Annotated[str, typer.Argument(help="A prepared corpus, or an experiment's YAML file.", metavar="NAME|FILE")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("sheet.png"),
    count: Annotated[int, typer.Option(help="Number of images.", min=1, max=64)] = 12,
    workspace: Workspace = DEFAULT,
    set_: Set = None,
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
