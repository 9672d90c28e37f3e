"""`mmfeat audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import DECISION, called, open_project, overwrite_option, setting_options
from mmfeat.cli.printing import echo, echo_next, explain
from mmfeat.cli.strict import Command, Modes

from mmfeat.common.text import counted
from mmfeat.config.read_keys import audit_keys

if TYPE_CHECKING:
    from mmfeat.project.project import Project
    from mmfeat.workflows.audit import AuditResult

APPLIED = ("groups",)
WRITES = (
    "run",
    "fail_on",
    "out",
    "sets",
    "set_fuse__folds",
    "set_predict__threshold",
    "set_metric",
    "set_seed",
    "set_device",
)
MODES = Modes(
    of=lambda ctx: "apply" if ctx.params["applied"] else "audit",
    texts={"apply": "--apply", "audit": "a new audit"},
    acts=dict.fromkeys(WRITES, ("audit",)),
)
FAILED = 3  # exit code if a check of --fail-on has findings
FOLDS = ("fuse.folds", "Folds of the run that is trained if there is none in folds. 0: 5.")


@click.command(
    "audit",
    cls=Command,
    modes=(MODES,),
    short_help="Find label errors, near-duplicates, leakage and other problems of the data.",
)
@click.argument("run", required=False)
@click.option(
    "--fail-on",
    default="",
    metavar="CHECKS",
    help=f"Exit with code {FAILED} if one of these checks has findings, such as leakage or leakage,label. For CI.",
)
@click.option(
    "--out", default="", metavar="FILE", help="The file to write. [default: audit.csv in the project's folder]"
)
@click.option(
    "--apply",
    "applied",
    default=None,
    type=click.Choice(APPLIED),
    help="groups: write the near-duplicates of the last audit to groups.csv, so that mmfeat init keeps them in one split.",
)
@setting_options(FOLDS, *DECISION[:1])
@overwrite_option
@click.pass_context
def audit_command(
    context: click.Context, run: str | None, fail_on: str, out: str, applied: str | None, **options: Any
) -> int:
    """Look for problems of the data with the predictions of RUN. Without RUN: the best run on val.

    Everything is computed from cached features. Labels are compared with out-of-fold predictions; if no run was trained in
    folds (mmfeat fuse --folds 5), one is trained.
    """
    from mmfeat.workflows.audit import audit

    overwrite, project = options.pop("overwrite"), open_project(context, options, audit_keys)
    if applied:
        _echo_groups(project, overwrite)
        return 0
    names = list(dict.fromkeys(name.strip() for name in fail_on.split(",") if name.strip()))
    result = audit(project, run, fail_on=names, out=out or None, overwrite=overwrite)
    _echo_source(project, result)
    _echo_checks(result)
    _echo_end(project, result)
    return FAILED if result.failed else 0


def _echo_groups(project: Project, overwrite: bool) -> None:
    from mmfeat.workflows.apply_groups import apply_groups

    result = apply_groups(project, overwrite=overwrite)
    if result.n_torn:
        have = "has" if result.n_torn == 1 else "have"
        echo(
            f"{counted(result.n_torn, 'group')} {have} rows in several splits. Rows that have a split keep it. "
            "To split all rows again, remove manifest.parquet before mmfeat init (runs made before are then not ranked)."
        )
    made = "Made" if result.changed else "Already made:"
    rows = f"{counted(result.n_rows, 'row')} in {counted(len(result.clusters), 'group')}"
    echo_next(f"{made} {result.file.name} ({rows}).", "mmfeat init")


def _echo_source(project: Project, result: AuditResult) -> None:
    """The runs that the predictions come from, and what is missing."""
    if result.run:
        echo(f"{called(result.run, project)}{f', {result.chosen}' if result.chosen else ''}")
    if result.folded:
        echo(f"out-of-fold predictions by run {result.folded}{', which was trained now' if result.made else ''}")
    for line in result.notes:
        echo(f"{line[0].upper()}{line[1:]}.")


def _echo_checks(result: AuditResult) -> None:
    from mmfeat.report.audit_tables import SHOWN, check_table, summary_table

    echo(summary_table(result.summaries))
    for one in result.summaries:
        for line in one.lines:
            echo(f"{one.title}: {line}")
        if (found := check_table(one)) is not None:
            echo(found)
            if len(found.rows) > SHOWN:
                explain(f"... and {counted(len(found.rows) - SHOWN, 'more row')}, all in audit.json")


def _echo_end(project: Project, result: AuditResult) -> None:
    if result.failed:
        echo(f"Findings of {', '.join(result.failed)}, as asked for by --fail-on: exit code {FAILED}")
    made = f"Made {_named(project, result.file)} ({counted(result.n_rows, 'row')}) and audit.json."
    if result.review is None:
        echo_next(made, "mmfeat runs")
        return
    name = result.review.name
    explain(
        f"To correct labels, fill in the column labels of {name} (its column model proposes some), then apply it. "
        "Check each row: a surprising label is not always a wrong one."
    )
    made = f"Made {_named(project, result.file)} ({counted(result.n_rows, 'row')}), {name} ({counted(result.n_review, 'row')}) and audit.json."
    echo_next(made, f"mmfeat review --apply {name}")


def _named(project: Project, path: Any) -> str:
    return path.name if path.parent.resolve() == project.root else str(path)
