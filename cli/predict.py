"""`mmfeat predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import (
    DECISION,
    deciding,
    echo_next,
    open_project,
    overwrite_option,
    project_runs,
    setting_options,
)
from mmfeat.cli.strict import PROJECT, Command, Modes

from mmfeat.common.text import counted

if TYPE_CHECKING:
    from mmfeat.workflows.predict import NewPredictions

SHOWN_ERRORS = 5
TEXTS = {
    "rows": "rows of the project",
    "table": "a TABLE",
    "pictures": "several pictures without --captions",
    "captioned": "several pictures",
    "one": "one picture or caption, which is shown here",
}


def _samples(ctx: click.Context) -> list[str]:
    """Those of the words that are a table or pictures, rather than a run's name."""
    from mmfeat.data.sample_kinds import kind_of_sample

    runs = project_runs(ctx.obj)
    return [text for text in ctx.params["what"] if kind_of_sample(text, runs)]


def _kind(ctx: click.Context) -> str:
    """What is predicted."""
    from mmfeat.data.sample_kinds import PICTURES, TABLE, kind_of_sample

    samples, params = _samples(ctx), ctx.params
    kinds = {kind_of_sample(text) for text in samples}
    if len(params["what"]) - len(samples) > 1 or (TABLE in kinds and len(samples) > 1):
        quoted = ' A pattern of --images stands in quotes: --images "photos/*.zip"' if params["images"] else ""
        raise click.UsageError(
            f"one run, and one table or pictures: mmfeat predict [RUN] [TABLE | PICTURE...].{quoted}"
        )
    if TABLE in kinds:
        return "table"
    if PICTURES in kinds or len(samples) > 1:
        return "captioned" if params["captions"] else "pictures"
    if samples or params["caption"]:
        return "one"
    if params["model"]:
        raise click.UsageError("what to predict? mmfeat predict new.csv --model DIR, or pictures, or --caption TEXT")
    return "rows"


FILES = ("rows", "table", "pictures", "captioned")
WHAT = Modes(
    of=_kind,
    texts=TEXTS,
    acts={
        "caption": ("one",),
        "captions": ("captioned",),
        "images": ("table",),
        "columns": ("table", "captioned"),
        "model": ("table", "pictures", "captioned", "one"),
        "split": ("rows",),
        "form": FILES,
        "out": FILES,
        "overwrite": FILES,
    },
)
BY = Modes(
    of=lambda ctx: "model" if ctx.params["model"] else "project",
    texts={"model": "--model, which keeps its own settings and needs no project", "project": "a project"},
    acts=dict.fromkeys(("sets", "set_metric", "set_predict__empty", "set_predict__calibration", PROJECT), ("project",)),
)
CHOICE = Modes(
    of=lambda ctx: "top" if ctx.params["top_k"] and _kind(ctx) != "one" else "labels",
    texts={"top": "--top-k, which gives the most probable classes whatever the threshold", "labels": "labels"},
    acts=dict.fromkeys(("set_predict__threshold", "set_predict__empty"), ("labels",)),
)


@click.command(
    "predict",
    cls=Command,
    modes=(WHAT, BY, CHOICE),
    short_help="Labels of the unlabelled rows, of a new table, or of pictures.",
)
@click.argument("what", nargs=-1, metavar="[RUN] [TABLE | PICTURE...]")
@click.option("--caption", default="", metavar="TEXT", help="One caption, beside one picture or alone.")
@click.option(
    "--captions",
    default="",
    metavar="FILE",
    help="Captions of several pictures: a table with their names. [default: none]",
)
@click.option("--images", multiple=True, metavar="PATH", help="Folder, zip or tar file of TABLE's images. Repeatable.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=NAME",
    help="A column of TABLE or of --captions, as caption=Title; roles are id, image, caption. Repeatable.",
)
@click.option("--model", default="", metavar="DIR", help="By a model that mmfeat export made, without a project.")
@click.option(
    "--split",
    default="unlabelled",
    type=click.Choice(["unlabelled", "val", "test", "train", "all"]),
    help="Which rows of the project.",
)
@click.option(
    "--top-k", type=click.IntRange(min=1), metavar="K", help="The K most probable classes, whatever the threshold."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    help="[default: by the suffix of --out, else csv]",
)
@click.option("--out", default="", metavar="FILE", help="Where predictions go. [default: TABLE-predictions.csv]")
@setting_options(*DECISION, top=("metric", "device"))
@overwrite_option
@click.pass_context
def predict_command(context: click.Context, what: tuple[str, ...], split: str, **options: Any) -> None:
    """Predict with RUN, the best on val when none is named.

    Without TABLE or PICTURE the project's unlabelled rows: submission.csv or predictions.csv, and probabilities. With
    TABLE (new.csv) its rows, whose features go into the project's store; with a folder, an archive or a pattern of pictures
    each of them; or one PICTURE and one --caption, shown here.
    """
    from mmfeat.workflows.predict import format_of

    options["form"] = format_of(options["out"], options["form"])
    options["top_k"] = options["top_k"] or 0
    samples = _samples(context)
    run = next((text for text in what if text not in samples), None)
    if options["model"] and run:
        raise click.UsageError(f"--model is a model of its own, so that run {run!r} has no part in it")
    if _kind(context) == "rows":
        _predict_rows(context, run, split, options)
    else:
        _predict_new(context, samples, run, options)


def _predict_rows(context: click.Context, run: str | None, split: str, options: dict[str, Any]) -> None:
    from mmfeat.workflows.predict import predict

    project = open_project(context, options, deciding(bool(run)))
    result = predict(
        project, run, split, options["form"], options["top_k"], options["out"] or None, options["overwrite"]
    )
    _echo_rule(result.run, result, options)
    if result.n_unknown:
        click.echo(_unknown(result.n_unknown))
    table, *parquet = [str(file) if options["out"] else file.name for file in result.files]
    also = f" and {parquet[0]} (probabilities)" if parquet else ""
    echo_next(f"Made {table} ({counted(result.n_rows, 'row')} in the source's order){also}.", "mmfeat runs")


def _predict_new(context: click.Context, whats: list[str], run: str | None, options: dict[str, Any]) -> None:
    from pathlib import Path

    from mmfeat.common.errors import ConfigError
    from mmfeat.workflows.predict import default_out, predict_new

    columns = dict(text.partition("=")[::2] for text in options["columns"])
    if not all(columns.values()):
        raise ConfigError(f"--column {options['columns'][0]}: write ROLE=NAME, as in caption=Title")
    if len(columns) < len(options["columns"]):
        raise click.UsageError("--column gives one role twice: only one could act", context)
    shown_here, path = _kind(context) == "one", None
    if not shown_here:
        path = Path(options["out"] or default_out(whats, options["form"])).expanduser()
    where = {"model": options["model"], "device": options["set_device"], "threshold": options["set_predict__threshold"]}
    if not options["model"]:
        where = {"project": open_project(context, options, deciding(bool(run))), "run": run}
    result = predict_new(
        whats,
        caption=options["caption"],
        captions=options["captions"],
        images=options["images"],
        columns=columns,
        out=path,
        overwrite=options["overwrite"],
        **where,
    )
    if shown_here:
        _echo_one(result, options)
        return
    result.write(path, options["form"], options["top_k"])
    _echo_rule(result.model, result, options)
    _echo_errors(result)
    echo_next(f"Made {path} ({counted(len(result.rows.ids), 'row')}).", _after(result, options))


def _echo_rule(model: str, result: Any, options: dict[str, Any]) -> None:
    from mmfeat.report.text_tables import about_decision

    n, chosen = result.n_empty, f", {result.chosen}" if result.chosen else ""
    if options["top_k"]:
        click.echo(
            f"run {model}{chosen}; the {counted(options['top_k'], 'most probable class', 'most probable classes')}"
        )
        return
    given = "was given its most probable class" if n == 1 else "were given their most probable class"
    given = given if result.decision.empty == "most-probable" else "got no label"
    by = about_decision(result.decision, result.decided)
    click.echo(f"run {model}{chosen}; {by}; {counted(n, 'row')} had no class above it and {given}")


def _echo_errors(result: NewPredictions) -> None:
    from mmfeat.common.text import shown

    for sample, reason in list(result.errors.items())[:SHOWN_ERRORS]:
        click.echo(f"{shown(sample)}: image: {shown(reason, 100)}")
    if len(result.errors) > SHOWN_ERRORS:
        click.echo(f"... and {counted(len(result.errors) - SHOWN_ERRORS, 'more image')} that could not be read")
    unknown = int((~result.predictions.known).sum())
    if unknown:
        click.echo(_unknown(unknown))


def _echo_one(result: NewPredictions, options: dict[str, Any]) -> None:
    from mmfeat.report.prediction_files import one_item

    found = result.predictions
    _echo_errors(result)
    opinions = {name: probs[0] for name, probs in found.unimodal.items()}
    click.echo(one_item(found.probs[0], found.predicted[0], opinions, found.classes, options["top_k"]))
    echo_next(f"By {result.model}.", _after(result, options))


def _after(result: NewPredictions, options: dict[str, Any]) -> str:
    return f"mmfeat serve {options['model']}" if options["model"] else f"mmfeat export {result.model} DIR"


def _unknown(n: int) -> str:

    verb, theirs = ("has", "its") if n == 1 else ("have", "theirs")
    return f"{counted(n, 'row')} {verb} nothing that the model reads: {theirs} is the commonest answer"
