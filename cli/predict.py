"""`mmfeat predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import (
    DECISION,
    called,
    decision_reads,
    open_project,
    overwrite_option,
    project_runs,
    setting_options,
)
from mmfeat.cli.printing import echo, echo_next
from mmfeat.cli.strict import PROJECT, Command, Modes

from mmfeat.common.text import counted

if TYPE_CHECKING:
    from mmfeat.project.project import Project
    from mmfeat.workflows.predict import NewPredictions, PredictResult

SHOWN_ERRORS = 5
TEXTS = {
    "rows": "rows of the project",
    "table": "a TABLE",
    "pictures": "several pictures without --captions",
    "captioned": "several pictures",
    "one": "one picture or caption, whose prediction is shown on the terminal",
}


def _samples(ctx: click.Context) -> list[str]:
    """The words that are a table or pictures, not a run's name."""
    from mmfeat.data.sample_kinds import kind_of_sample

    runs = project_runs(ctx.obj)
    return [text for text in ctx.params["what"] if kind_of_sample(text, runs)]


def _kind(ctx: click.Context) -> str:
    """The kind of samples to predict, a key of TEXTS."""
    from mmfeat.data.sample_kinds import PICTURES, TABLE, kind_of_sample

    samples, params = _samples(ctx), ctx.params
    kinds = {kind_of_sample(text) for text in samples}
    if len(params["what"]) - len(samples) > 1 or (TABLE in kinds and len(samples) > 1):
        quoted = ' Put a pattern of --images in quotes: --images "photos/*.zip"' if params["images"] else ""
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
        "format": FILES,
        "out": FILES,
        "overwrite": FILES,
    },
)
BY = Modes(
    of=lambda ctx: "model" if ctx.params["model"] else "project",
    texts={"model": "--model, which has its own settings and needs no project", "project": "a project"},
    acts=dict.fromkeys(("sets", "set_metric", "set_predict__empty", "set_predict__calibration", PROJECT), ("project",)),
)
CHOICE = Modes(
    of=lambda ctx: "top" if ctx.params["top_k"] and _kind(ctx) != "one" else "labels",
    texts={"top": "--top-k, which writes the most probable classes at any threshold", "labels": "labels"},
    acts=dict.fromkeys(("set_predict__threshold", "set_predict__empty"), ("labels",)),
)


@click.command(
    "predict",
    cls=Command,
    modes=(WHAT, BY, CHOICE),
    short_help="Predict labels of the unlabelled rows, of a new table, or of pictures.",
)
@click.argument("what", nargs=-1, metavar="[RUN] [TABLE | PICTURE...]")
@click.option("--caption", default="", metavar="TEXT", help="One caption, with one picture or alone.")
@click.option(
    "--captions",
    default="",
    metavar="FILE",
    help="Captions of several pictures: a table that names them. [default: none]",
)
@click.option("--images", multiple=True, metavar="PATH", help="Folder, zip or tar file of TABLE's images. Repeatable.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=NAME",
    help="A column of TABLE or of --captions, such as caption=Title. Roles are id, image, caption. Repeatable.",
)
@click.option("--model", default="", metavar="DIR", help="Predict with an exported model, without a project.")
@click.option(
    "--split",
    default="unlabelled",
    type=click.Choice(["unlabelled", "val", "test", "train", "all"]),
    help="The rows of the project.",
)
@click.option("--top-k", type=click.IntRange(min=1), metavar="K", help="Write the K most probable classes.")
@click.option(
    "--format",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    help="[default: by the suffix of --out, else csv]",
)
@click.option("--out", default="", metavar="FILE", help="The file to write. [default: TABLE-predictions.csv]")
@setting_options(*DECISION, top=("metric", "engine", "device"))
@overwrite_option
@click.pass_context
def predict_command(context: click.Context, what: tuple[str, ...], **options: Any) -> None:
    """Predict with RUN, a run or an encoder. Without RUN: the best run on val.

    Without TABLE or PICTURE: the project's unlabelled rows, to submission.csv or predictions.csv, and probabilities to
    predictions.parquet. With TABLE (new.csv): its rows; their features are cached in the project's store. With a folder,
    an archive or a pattern of pictures: each picture. With one picture or --caption: a table on the terminal.
    """
    from mmfeat.report.prediction_files import format_of

    options["format"] = format_of(options["out"], options["format"])
    samples = _samples(context)
    run = next((text for text in what if text not in samples), None)
    if options["model"] and run:
        raise click.UsageError(f"--model is used without a run: leave out {run!r} or --model")
    if _kind(context) == "rows":
        _predict_rows(context, run, options)
    else:
        _predict_new(context, samples, run, options)


def _predict_rows(context: click.Context, run: str | None, options: dict[str, Any]) -> None:
    from mmfeat.inference.next_commands import RUNS, with_options
    from mmfeat.workflows.predict import predict

    project = open_project(context, options, decision_reads(bool(run)))
    names = ("split", "format", "top_k", "overwrite")
    result = predict(project, run, out=options["out"] or None, **{name: options[name] for name in names})
    _echo_rule(called(result.run, project), result, options)
    if result.n_unknown:
        echo(_unknown(result.n_unknown))
    table, *parquet = [str(file) if options["out"] else file.name for file in result.files]
    also = f" and {parquet[0]} (probabilities)" if parquet else ""
    echo_next(
        f"Made {table} ({counted(result.n_rows, 'row')} in the source's order){also}.",
        with_options(project.config, RUNS),
    )


def _predict_new(context: click.Context, samples: list[str], run: str | None, options: dict[str, Any]) -> None:
    from pathlib import Path

    from mmfeat.report.prediction_files import default_out
    from mmfeat.workflows.predict import predict_new

    columns, shown_here = _columns(context, options["columns"]), _kind(context) == "one"
    path = None if shown_here else Path(options["out"] or default_out(samples, options["format"])).expanduser()
    if options["model"]:
        by = {
            "model": options["model"],
            "engine": options["set_engine"],
            "device": options["set_device"],
            "threshold": options["set_predict__threshold"],
        }
    else:
        by = {"project": open_project(context, options, decision_reads(bool(run), new=True)), "run": run}
    names = ("caption", "captions", "images", "format", "top_k", "overwrite")
    result = predict_new(samples, columns=columns, out=path, **{name: options[name] for name in names}, **by)
    if shown_here:
        _echo_one(result, options, by.get("project"))
        return
    _echo_rule(called(result.model, by.get("project")), result, options)
    _echo_errors(result)
    echo_next(f"Made {path} ({counted(len(result.rows.ids), 'row')}).", _after(result, options, by.get("project")))


def _columns(context: click.Context, texts: tuple[str, ...]) -> dict[str, str]:
    """The columns of `--column ROLE=NAME` by role."""
    from mmfeat.common.errors import ConfigError

    columns = dict(text.partition("=")[::2] for text in texts)
    if not all(columns.values()):
        raise ConfigError(f"--column {texts[0]}: write ROLE=NAME, as in caption=Title")
    if len(columns) < len(texts):
        raise click.UsageError("--column gives one role twice. Give it once", context)
    return columns


def _echo_rule(model: str, result: PredictResult | NewPredictions, options: dict[str, Any]) -> None:
    """The run, how it was selected, and the decision rule."""
    from mmfeat.report.text_tables import about_decision

    n, chosen = result.n_empty, f", {result.chosen}" if result.chosen else ""
    if options["top_k"]:
        echo(f"{model}{chosen}; the {counted(options['top_k'], 'most probable class', 'most probable classes')}")
        return
    given = "was given its top class" if n == 1 else "were given their top class"
    given = given if result.decision.empty == "most-probable" else "got no label"
    by = about_decision(result.decision, result.fitted)
    echo(f"{model}{chosen}; {by}; {counted(n, 'row')} had no class above the threshold and {given}")


def _echo_errors(result: NewPredictions) -> None:
    """Images that could not be read, and rows without any feature."""
    from mmfeat.common.text import shown

    for sample, reason in list(result.errors.items())[:SHOWN_ERRORS]:
        echo(f"{shown(sample)}: image: {shown(reason, 100)}")
    if len(result.errors) > SHOWN_ERRORS:
        echo(f"... and {counted(len(result.errors) - SHOWN_ERRORS, 'more image')} that could not be read")
    unknown = int((~result.predictions.known).sum())
    if unknown:
        echo(_unknown(unknown))


def _echo_one(result: NewPredictions, options: dict[str, Any], project: Project | None) -> None:
    """The prediction of one sample."""
    from mmfeat.report.prediction_files import one_item

    found = result.predictions
    _echo_errors(result)
    unimodal = {name: probs[0] for name, probs in found.unimodal.items()}
    echo(
        one_item(
            found.probs[0],
            found.predicted[0],
            unimodal=unimodal,
            classes=found.classes,
            top_k=options["top_k"] or 0,
        )
    )
    echo_next(f"By {result.model}.", _after(result, options, project))


def _after(result: NewPredictions, options: dict[str, Any], project: Project | None) -> str:
    from mmfeat.inference.next_commands import with_options

    if project is None:
        return f"mmfeat serve {options['model']}"
    return with_options(project.config, f"mmfeat export {result.model} DIR")


def _unknown(n: int) -> str:
    verb, they = ("has", "it gets") if n == 1 else ("have", "they get")
    return f"{counted(n, 'row')} {verb} no image or caption that the model reads: {they} the most frequent labels"
