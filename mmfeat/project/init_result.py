"""The result of `mmfeat init`."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmfeat.data.manifest import Manifest
from mmfeat.report.result import Result


@dataclass(frozen=True, kw_only=True, repr=False)
class InitResult(Result):
    """The manifest, a summary of the data, and the files that were written.

    Attributes
    ----------
    warnings : list of str
        Important warnings, a line each.
    written, removed : list of str
        Names of new or changed files, and of files that were removed because they would be empty.
    after : str
        The command to type next.
    """

    manifest: Manifest
    summary: str
    written: list[str]
    removed: list[str]
    after: str
    warnings: list[str] = field(default_factory=list)

    @property
    def unchanged(self) -> bool:
        """Whether no file was written or removed."""
        return not self.written and not self.removed

    def _about(self) -> str:
        return "\n".join(
            [f"Wrote {', '.join(self.written) or 'nothing: nothing has changed'}", self.summary, *self.warnings]
        )
