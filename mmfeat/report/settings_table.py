"""Every setting of a project with its value and origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmfeat.config.schema import Config
from mmfeat.report.result import Record, TableResult


@dataclass(frozen=True, kw_only=True, repr=False)
class SettingsResult(TableResult):
    """Settings of a project.

    Attributes
    ----------
    values : dict of str to Any
        Dotted key to value.
    origins : dict of str to str
        Dotted key to the place that set it. Keys that are missing have their default.
    """

    values: dict[str, Any]
    origins: dict[str, str]

    @classmethod
    def of(cls, config: Config) -> SettingsResult:
        """The settings of a configuration."""
        return cls(values=dict(config.dotted()), origins=dict(config.origins))

    def _about(self) -> str:
        return f"{len(self.values)} settings"

    def _table(self) -> list[Record]:
        return [
            {"key": key, "value": value, "from": self.origins.get(key, "default")} for key, value in self.values.items()
        ]
