"""A project for Python: each command reads the folder when it is called."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.progress import quiet
from mmfeat.common.text import counted, typed_value
from mmfeat.config.read_keys import check_read
from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.project.cached_rows import remembered_cached_rows
from mmfeat.project.project import Project as ProjectSnapshot
from mmfeat.runs.run import all_runs

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="OpenProject")

Reads = Collection[str] | Callable[[Config], Collection[str]]
Settings = dict[str, Any]


def verb(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method a command: it shows progress only if the project does, and the project is read again afterwards."""

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        with quiet(not self.progress):
            result = method(self, *args, **kwargs)
        self._renew()
        return result

    return run


class OpenProject(ProjectSnapshot):
    """A folder with mmfeat.toml. Attributes such as `manifest` and `config` are read when they are first used.

    Parameters
    ----------
    folder : Path
        The folder of mmfeat.toml, or any folder below it.
    overrides : dict, optional
        Dotted key to value, such as `{"device": "cpu"}`. Overrides mmfeat.toml in every command.
    dry : bool
        Whether nothing may be written.
    progress : bool
        Whether commands show progress and notes on stderr.

    Raises
    ------
    ConfigError
        There is no mmfeat.toml at or above the folder, or it has a mistake.
    """

    def __init__(
        self, folder: Path | str = ".", overrides: Settings | None = None, dry: bool = False, *, progress: bool = True
    ) -> None:
        super().__init__(folder, overrides, dry)
        self.progress = progress

    def reopened(self) -> Self:
        """A new snapshot of the project's folder."""
        return type(self)(self.root, self.overrides, self.dry, progress=self.progress)

    def with_settings(self, settings: Settings) -> Self:
        """The same project with other values for some keys of mmfeat.toml, in every command.

        Parameters
        ----------
        settings : dict of str to Any
            Dotted key to value. A value of None leaves the key as it is.

        Raises
        ------
        ConfigError
            A key is unknown, or a value is wrong.
        """
        overrides = self.overrides | {key: value for key, value in settings.items() if value is not None}
        return type(self)(self.root, overrides, self.dry, progress=self.progress)

    def _snapshot(
        self, settings: Settings | None, options: Settings, reads: Reads | None = None, *, dry: bool = False
    ) -> ProjectSnapshot:
        """A new snapshot of the folder for one command.

        Parameters
        ----------
        settings : dict, optional
            The command's argument `settings`.
        options : dict of str to Any
            Dotted key to the value of the command's own argument. None leaves the key as it is.
        reads : collection of str, or callable, optional
            Keys that the command reads. Overriding another key is an error.
        """
        overrides = joined_settings(settings, options)
        project = ProjectSnapshot(self.root, self.overrides | overrides, dry or self.dry)
        if reads is not None:
            check_read(overrides, reads(project.config) if callable(reads) else reads)
        return project

    def _renew(self) -> None:
        """Forget everything that was read from the folder, so that it is read again."""
        root, overrides, dry, progress = self.root, self.overrides, self.dry, self.progress
        self.__dict__.clear()
        type(self).__init__(self, root, overrides, dry, progress=progress)

    def _about(self) -> list[str]:
        lines = [f"Project {self.root}"]
        try:
            manifest = self.manifest
        except DataError as error:
            return [*lines, str(error)]
        parts = [f"{len(manifest.rows(name)):,} {name}" for name in ("train", "val", "test", "unlabelled")]
        rows = f"{counted(manifest.n_samples, 'row')} ({', '.join(part for part in parts if part[0] != '0')})"
        lines.append(f"{rows}, {counted(len(manifest.classes), 'class', 'classes')}")
        lines += [self._about_encoder(name) for name in self.config.encoder]
        return [*lines, counted(len(all_runs(self.runs_folder)), "run")]

    def _about_encoder(self, name: str) -> str:
        """An encoder's model and cached rows, from what is remembered: nothing is read, hashed or built."""
        cached = remembered_cached_rows(self, name)
        if cached is None and not self.store.path.is_dir():
            cached = 0
        rows = counted(self.manifest.n_samples, "row")
        rows = "cached rows: see p.status()" if cached is None else f"{cached:,} of {rows} cached"
        return f"encoder {name}: {self.model_title(name)}, {rows}"

    def __repr__(self) -> str:
        """The folder, its rows by split, classes, encoders with their cached rows, and the number of runs."""
        return "\n".join(self._about())

    def _repr_html_(self) -> str:
        """The same as HTML for a notebook."""
        return "<p>" + "<br>".join(html.escape(line) for line in self._about()) + "</p>"


def joined_settings(settings: Settings | None, options: Settings) -> Settings:
    """The overrides of one call: `settings`, and the options that are not None.

    Raises
    ------
    ConfigError
        A key is in both.
    """
    given = {key: value for key, value in options.items() if value is not None}
    for key in settings or {}:
        if key in given:
            raise ConfigError(f"{key} is given twice: as an argument and in settings. Leave one of them out")
        if not key or not all(key.split(".")):
            raise ConfigError(
                f"settings: {key!r} is not a key of {FILE_NAME}. Write one such as fuse.crossattn.dropout"
            )
    return given | (settings or {})


def texts(value: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    """One text or several as a tuple."""
    if value is None or value == "":
        return ()
    return (str(value),) if isinstance(value, str | Path) else tuple(map(str, value))


def as_typed(settings: Settings) -> dict[str, str]:
    """Values of a sweep as typed on the command line: several values of a key are separated by commas."""
    return {key: _typed(value) for key, value in settings.items()}


def _typed(value: Any) -> str:
    if isinstance(value, str | int | float):
        return typed_value(value)
    return ",".join(_typed(one) for one in value)
