"""`mmfeat store`: verify, clean up, export and import features."""

from __future__ import annotations

import click
from mmfeat.cli.options import open_project
from mmfeat.cli.printing import echo, echo_next
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted

SHOWN = 10


@click.group("store", short_help="Verify, clean up or export the feature store; import embeddings.")
def store_command() -> None:
    """Verify, clean up or export the feature store of the project, or import embeddings of another program."""


@store_command.command("verify", cls=Command, short_help="Read every file and compare it with its checksum.")
@click.pass_context
def verify_command(context: click.Context) -> None:
    """Read every file of the store and compare it with its checksum; exit 1 if one is damaged."""
    from mmfeat.common.errors import StoreError
    from mmfeat.common.progress import clock
    from mmfeat.common.text import shown
    from mmfeat.report.table_layout import count, number, outside, table
    from mmfeat.workflows.store import verify_store

    project = open_project(context, {})
    result = verify_store(project)
    rows = [
        [outside(name), count(one.n_files), count(one.n_rows), number(one.n_bytes / 1e6, 1), count(len(one.problems))]
        for name, one in result.found.items()
    ]
    if rows:
        echo(table(("encoder", "files", "rows", "MB", "damaged"), rows, title="files"))
    for problem in result.problems[:SHOWN]:
        echo(shown(problem, 300))
    if len(result.problems) > SHOWN:
        echo(f"... and {len(result.problems) - SHOWN:,} more")
    uncommitted = sum(len(one.uncommitted) for one in result.found.values())
    if uncommitted:
        echo(f"{counted(uncommitted, 'file')} without a commit, which are not read; to remove: mmfeat store gc")
    if result.problems:
        raise StoreError(
            f"{counted(len(result.problems), 'damaged file')} in {project.config.store.path}/; they are not read. "
            f"Run: mmfeat extract (imported ones: mmfeat store import)"
        )
    n_files = sum(one.n_files for one in result.found.values())
    echo_next(f"{counted(n_files, 'file')} read, none damaged ({clock(result.seconds)}).", "mmfeat status")


@store_command.command("gc", cls=Command)
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option("--forget", multiple=True, metavar="DIR", help="A project that no longer needs its features.")
@click.pass_context
def gc_command(context: click.Context, yes: bool, forget: tuple[str, ...]) -> None:
    """Remove features that no project uses.

    Features are kept if an encoder, a checkpoint or a run refers to them, in this project or another on the same store.
    """
    from mmfeat.common.text import shown
    from mmfeat.report.table_layout import number, outside, table
    from mmfeat.store.thumbnail_store import THUMBNAILS_KEY
    from mmfeat.workflows.store import find_unreferenced, remove_unreferenced

    project = open_project(context, {})
    result = find_unreferenced(project, forget)
    for other in result.others:
        gone = f"; its folder is gone. To remove them: --forget {shown(other.project, 200)}" if other.gone else ""
        encoders = counted(len(other.encoders.keys() - {THUMBNAILS_KEY}), "encoder")
        more = " and thumbnails" if THUMBNAILS_KEY in other.encoders else ""
        echo(f"Kept for {shown(other.project, 200)}: the features of {encoders}{more}{gone}")
    for name in result.settled.waiting:
        echo(f"Kept, although mmfeat.toml does not name it yet: the import {shown(name, 80)}")
    if not result.garbage:
        echo_next("There is nothing to remove.", "mmfeat status")
        return
    rows = [[outside(one.name, 80), number(one.n_bytes / 1e6, 1), one.why] for one in result.garbage]
    echo(table(("unused features", "MB"), rows, title="unused features"))
    if not yes:
        click.confirm(f"Remove them, {result.n_bytes / 1e6:,.1f} MB?", abort=True, err=True)
    freed = remove_unreferenced(project, result)
    echo_next(f"Removed {counted(len(result.garbage), 'item')}, {freed / 1e6:,.1f} MB.", "mmfeat status --store")


@store_command.command(
    "export", cls=Command, short_help="Write embeddings, logits and tokens as arrays, with ids and labels."
)
@click.argument("destination")
@click.argument("names", nargs=-1, metavar="[ENCODER]...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["h5", "npy", "parquet", "safetensors"]),
    help="[default: by the destination's suffix, else npy]",
)
@click.option(
    "--split",
    default="all",
    type=click.Choice(["all", "train", "val", "test", "unlabelled"]),
    help="The rows to export: labelled rows of a split, rows without labels, or all.",
)
@click.pass_context
def export_command(
    context: click.Context, destination: str, names: tuple[str, ...], form: str | None, split: str
) -> None:
    """Write embeddings, logits and tokens as arrays aligned with ids, labels and splits.

    The split of a row without labels is "unlabelled". DESTINATION is a file or, for npy, a folder. Without ENCODER: all encoders.
    """
    from mmfeat.common.text import counted, shown
    from mmfeat.report.table_layout import Cell, table
    from mmfeat.store.table_exports import arrays_of
    from mmfeat.workflows.store import export_features, form_of_export

    project = open_project(context, {})
    form = form_of_export(destination, form)
    result = export_features(project, destination, form, list(names) or None, split=split)
    arrays = arrays_of(result.table).items()
    rows = [
        [name, Cell(" x ".join(f"{n:,}" for n in values.shape), list(values.shape)), str(values.dtype)]
        for name, values in arrays
    ]
    echo(table(("array", "shape", "type"), rows, title="arrays"))
    what = "Made" if result.made else "Already made from the same:"
    echo_next(f"{what} {shown(destination, 200)} ({counted(result.table.n_samples, 'row')}).", "mmfeat status")


@store_command.command("import", cls=Command, short_help="Import embeddings of another program as an encoder.")
@click.argument("name")
@click.argument("file", metavar="FILE")
@click.option(
    "--ids",
    metavar="FILE",
    help="The ids in the order of the rows: .csv (a column id, or one column), .txt, .npy, .json.",
)
@click.option("--array", default="", metavar="NAME", help="The data set, column or tensor of FILE. [default: detected]")
@click.pass_context
def import_command(context: click.Context, name: str, file: str, ids: str | None, array: str) -> None:
    """Import embeddings of another program as the encoder NAME.

    FILE is .npy, .parquet, .h5 or .safetensors. Its rows are matched with the manifest by id. Then paste the printed table
    into mmfeat.toml.
    """
    from mmfeat.workflows.store_import import import_embeddings

    project = open_project(context, {})
    made = import_embeddings(project, name, file, ids, array=array)
    embeddings = f"{counted(made.n_rows, 'embedding')} of {counted(made.width, 'dimension')} ({made.dtype})"
    without = made.n_manifest - made.n_matched
    rest = f", {without:,} without" if without else ""
    echo(
        f"{name}: {embeddings}; {made.n_matched:,} of {counted(made.n_manifest, 'row')} of the manifest with an embedding{rest}"
    )
    if made.n_left_out:
        echo(f"{name}: {counted(made.n_left_out, 'row')} left out that the file marks as missing")
    if made.n_zeros:
        echo(f"{name}: {counted(made.n_zeros, 'embedding')} of zeros only. If these rows are missing, leave them out")
    if not made.in_use:
        echo(f"\n{made.table}\n")
    place = f"{project.config.store.path}/{made.folder} ({made.size_mb:,.1f} MB)"
    text = f"Made {place}." if made.n_written else f"Already imported: {place}."
    echo_next(text, "mmfeat status" if made.in_use else "paste these three lines into mmfeat.toml, then: mmfeat status")
