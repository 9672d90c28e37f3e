"""What was selected on the rows of a table of metrics, from the lineage of its models."""

from __future__ import annotations

from collections.abc import Mapping

from mmfeat.common.lineage import RowUse
from mmfeat.common.text import shown

SHOWN = 5  # models that a clause names


def about_selection(uses: Mapping[str, RowUse], what: str = "epochs") -> str:
    """A clause such as `epochs were selected on these rows, except for crossattn-2 (out of fold)`.

    Parameters
    ----------
    uses : dict of str to RowUse
        How each model of the table used its rows.
    what : str
        What is selected on such rows: `epochs`, or `epochs and rounds`.
    """
    others = [name for name, use in uses.items() if not use.n_selected]
    if len(others) < len(uses):
        clause = f"{what} were selected on these rows"
        return f"{clause}, except for {_listed(others, uses)}" if others else clause
    return (
        f"nothing was selected on these rows ({_folds(others, uses)})"
        if others
        else "nothing was selected on these rows"
    )


def _listed(names: list[str], uses: Mapping[str, RowUse]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(shown, names[:SHOWN])) + f"{more} ({_folds(names, uses)})"


def _folds(names: list[str], uses: Mapping[str, RowUse]) -> str:
    return "out of fold" if all(uses[name].n_out_of_fold for name in names) else "selected on others or not at all"
