"""What an audit finds: one finding for a sample and a reason to look at it, and the result of one check."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.json_shapes import ANYTHING, Number, Shape

_FINDING: Shape = {
    "check": str,
    "id": str,
    "score": Number(float, low=0, high=1),
    "?class_name": str,
    "?detail": str,
    "?related": [str],
    "?given": ([str], None),
    "?proposed": ([str], None),
}
FINDINGS: Shape = [_FINDING]
SUMMARIES: Shape = [
    {
        "check": str,
        "title": str,
        "n_findings": Number(int, low=0),
        "n_samples": Number(int, low=0),
        "lines": [str],
        "skipped": str,
        "table": [{str: ANYTHING}],
    }
]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sample, and a reason to look at it.

    Attributes
    ----------
    check : str
        The name of the check, such as `label`, `near_duplicate`, `leakage`, `outlier`.
    id : str
        The sample.
    score : float
        In [0, 1]: the lower, the worse, as in cleanlab.
    class_name : str
        The class of a label error; empty otherwise.
    detail : str
        One short sentence without markup.
    related : tuple of str
        Ids of other samples, such as near-duplicates.
    given : tuple of str or None
        The positive labels of the sample; None if no label is known.
    proposed : tuple of str or None
        The labels that are proposed instead; None if there is nothing to propose.
    """

    check: str
    id: str
    score: float
    class_name: str = ""
    detail: str = ""
    related: tuple[str, ...] = ()
    given: tuple[str, ...] | None = None
    proposed: tuple[str, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON values; attributes with their default are left out."""
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        kept = {name: value for name, (value, default) in values.items() if value != default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Finding:
        """The finding of JSON values that fit `FINDINGS`; keys of newer versions are ignored."""
        names = {field.name for field in dataclasses.fields(cls)} & values.keys()
        return cls(**{name: tuple(v) if isinstance(v := values[name], list) else v for name in names})


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a check reports about the whole project.

    Attributes
    ----------
    check : str
        The name of the check.
    title : str
        Its name for people, such as `label errors`.
    n_findings, n_samples : int
        Findings, and samples with at least one.
    lines : tuple of str
        The result in a few short sentences.
    skipped : str
        Why the check was skipped; empty if it was not.
    table : tuple of dict
        Further results as rows of a table with equal columns, such as estimates by class. May be empty.
    """

    check: str
    title: str
    n_findings: int = 0
    n_samples: int = 0
    lines: tuple[str, ...] = ()
    skipped: str = ""
    table: tuple[dict[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**dataclasses.asdict(self), "lines": list(self.lines), "table": list(self.table)}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Summary:
        """The summary of JSON values that fit `SUMMARIES`; keys of newer versions are ignored."""
        names = {field.name for field in dataclasses.fields(cls)} & values.keys()
        return cls(**{name: tuple(v) if isinstance(v := values[name], list) else v for name in names})


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckResult:
    """The result of one check.

    Attributes
    ----------
    findings : tuple of Finding
        The worst first.
    lines, table : tuple
        As in :class:`Summary`.
    scores : np.ndarray or None
        `(N,)` float in [0, 1] for all rows, NaN for a row without one; None if the check scores no rows.
    skipped : str
        Why the check was skipped, as a clause; empty if it was not.
    """

    findings: tuple[Finding, ...] = ()
    lines: tuple[str, ...] = ()
    table: tuple[dict[str, Any], ...] = ()
    scores: np.ndarray | None = None
    skipped: str = ""

    def summary(self, check: str, title: str) -> Summary:
        """The result without its findings and scores."""
        return Summary(
            check=check,
            title=title,
            n_findings=len(self.findings),
            n_samples=len({finding.id for finding in self.findings}),
            lines=self.lines,
            skipped=self.skipped,
            table=self.table,
        )
