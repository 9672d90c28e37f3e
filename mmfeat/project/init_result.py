"""What `mmfeat init` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmfeat.data.manifest import Manifest
from mmfeat.report.result import Result


@dataclass(frozen=True, kw_only=True, repr=False)
class InitResult(Result):
    """What was found and written.

    Attributes
    ----------
    warnings : list of str
        What must not be missed, a line each.
    written, removed : list of str
        Names of the files that are new or different, and of those that have nothing to say any more.
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
        """Whether everything was there already."""
        return not self.written and not self.removed

    def _about(self) -> str:
        return "\n".join(
            [f"Wrote {', '.join(self.written) or 'nothing: nothing has changed'}", self.summary, *self.warnings]
        )
