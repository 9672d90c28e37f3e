"""`mmfeat predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import DECISION, echo_next, open_project, setting_options

if TYPE_CHECKING:
    from mmfeat.workflows.predict import NewPredictions

SHOWN_ERRORS = 5


@click.command("predict", short_help="Labels of the unlabelled rows, of a new table, or of one picture.")
@click.argument("what", nargs=-1, metavar="[RUN] [TABLE | PICTURE]")
@click.option("--caption", default="", metavar="TEXT", help="One caption, beside one picture or alone.")
@click.option("--images", multiple=True, metavar="PATH", help="Folder, zip or tar file of TABLE's images. Repeatable.")
@click.option("--column", "columns", multiple=True, metavar="ROLE=NAME", help="A column of TABLE, as caption=Title.")
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
@click.option(
    "--out", default="", metavar="FILE", help="Where a table's predictions go. [default: TABLE-predictions.csv]"
)
@setting_options(*DECISION)
@click.pass_context
def predict_command(context: click.Context, what: tuple[str, ...], split: str, **options: Any) -> None:
    """Predict with RUN, the best on val when none is named.

    Without TABLE or PICTURE the project's unlabelled rows: submission.csv or predictions.csv, and probabilities. With
    TABLE (new.csv) its rows, whose features go into the project's store; or one PICTURE and one --caption, shown here.
    """
    from mmfeat.workflows.predict import format_of, is_sample

    options["form"] = format_of(options["out"], options["form"])
    options["top_k"] = options["top_k"] or 0
    samples = [text for text in what if is_sample(text)]
    runs = [text for text in what if text not in samples]
    if len(samples) > 1 or len(runs) > 1:
        quoted = ' A pattern of --images stands in quotes: --images "photos/*.zip"' if options["images"] else ""
        raise click.UsageError(f"one run, and one table or picture: mmfeat predict [RUN] [TABLE | PICTURE].{quoted}")
    run = runs[0] if runs else None
    if samples or options["caption"] or options["model"]:
        _predict_new(context, samples[0] if samples else "", run, options)
    else:
        _predict_rows(context, run, split, options)


def _predict_rows(context: click.Context, run: str | None, split: str, options: dict[str, Any]) -> None:
    from mmfeat.workflows.predict import predict

    project = open_project(context, options)
    result = predict(project, run, split, options["form"], options["top_k"])
    _echo_rule(result.run, result)
    if result.n_unknown:
        click.echo(_unknown(result.n_unknown))
    table, *parquet = [file.name for file in result.files]
    also = f" and {parquet[0]} (probabilities)" if parquet else ""
    echo_next(f"Made {table} ({result.n_rows:,} rows in the source's order){also}.", "mmfeat runs")


def _predict_new(context: click.Context, what: str, run: str | None, options: dict[str, Any]) -> None:
    from pathlib import Path

    from mmfeat.data.tableforms import table_stem
    from mmfeat.errors import ConfigError
    from mmfeat.workflows.predict import predict_new

    if not what and not options["caption"]:
        raise click.UsageError("what to predict? mmfeat predict new.csv --model DIR, or a picture, or --caption TEXT")
    if options["model"] and run:
        raise click.UsageError(f"--model is a model of its own, so that run {run!r} has no part in it")
    columns = dict(text.partition("=")[::2] for text in options["columns"])
    if not all(columns.values()):
        raise ConfigError(f"--column {options['columns'][0]}: write ROLE=NAME, as in caption=Title")
    where = {"model": options["model"], "device": options["set_device"] or "auto"}
    if options["model"]:
        for key in ("calibration", "empty"):
            if options[f"set_predict__{key}"]:
                raise ConfigError(f"--{key}: an exported model keeps its own. Use it with: mmfeat export")
        threshold = options["set_predict__threshold"]
        where["threshold"] = _number(threshold) if threshold else None
    else:
        where |= {"project": open_project(context, options), "run": run}
    result = predict_new(what, caption=options["caption"], images=options["images"], columns=columns, **where)
    if len(result.rows.ids) == 1 and result.rows.columns == {}:
        _echo_one(result, options)
        return
    form = options["form"]
    path = Path(options["out"] or f"{table_stem(Path(what).name)}-predictions.{form}").expanduser()
    result.write(path, form, options["top_k"])
    _echo_rule(result.model, result)
    _echo_errors(result)
    echo_next(f"Made {path} ({len(result.rows.ids):,} rows).", _after(result, options))


def _echo_rule(model: str, result: Any) -> None:
    from mmfeat.report.tables import about_decision

    given = "got their most probable class" if result.decision.empty == "most-probable" else "got no label"
    chosen = f", {result.chosen}" if result.chosen else ""
    by = about_decision(result.decision, result.decided)
    click.echo(f"run {model}{chosen}; {by}; {result.n_empty:,} rows had nothing above it and {given}")


def _echo_errors(result: NewPredictions) -> None:
    from mmfeat.texts import shown

    for sample, reason in list(result.errors.items())[:SHOWN_ERRORS]:
        click.echo(f"{shown(sample)}: image: {shown(reason, 100)}")
    if len(result.errors) > SHOWN_ERRORS:
        click.echo(f"... and {len(result.errors) - SHOWN_ERRORS:,} more images that could not be read")
    unknown = int((~result.predictions.known).sum())
    if unknown:
        click.echo(_unknown(unknown))


def _echo_one(result: NewPredictions, options: dict[str, Any]) -> None:
    from mmfeat.report.predictions import one_item

    found = result.predictions
    _echo_errors(result)
    opinions = {name: probs[0] for name, probs in found.opinions.items()}
    click.echo(one_item(found.probs[0], found.decided[0], opinions, found.classes, options["top_k"]))
    echo_next(f"By {result.model}.", _after(result, options))


def _after(result: NewPredictions, options: dict[str, Any]) -> str:
    return f"mmfeat serve {options['model']}" if options["model"] else f"mmfeat export {result.model} DIR"


def _unknown(n: int) -> str:
    from mmfeat.texts import counted

    verb, theirs = ("has", "its") if n == 1 else ("have", "theirs")
    return f"{counted(n, 'row')} {verb} nothing that the model reads: {theirs} is the commonest answer"


def _number(text: str) -> float:
    from mmfeat.errors import ConfigError

    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ConfigError(f"--threshold {text}: use a number from 0 to 1")
    return number
