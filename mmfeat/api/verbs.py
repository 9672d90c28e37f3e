"""`Project`, whose methods are the commands, and `init`, which makes one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat.api.open_project import texts, verb
from mmfeat.api.run_verbs import RunVerbs
from mmfeat.api.store_verbs import StoreVerbs
from mmfeat.api.study_verbs import StudyVerbs
from mmfeat.api.training_verbs import TrainingVerbs
from mmfeat.common.errors import MmfeatError
from mmfeat.common.progress import quiet, say

if TYPE_CHECKING:
    from mmfeat.workflows.init import InitResult

Names = str | Sequence[str]
Paths = str | Path | Sequence[str | Path]


class Project(TrainingVerbs, RunVerbs, StudyVerbs, StoreVerbs):
    """A folder with mmfeat.toml, whose methods are the commands.

    Each method reads the folder when it is called, and returns a result with a readable text form. Arguments are named like
    the command's options; `--set KEY=VALUE` is `settings={"KEY": VALUE}`.

    Parameters
    ----------
    folder : Path
        The folder of mmfeat.toml, or any folder below it. :func:`mmfeat.init` makes one.
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

    Examples
    --------
    >>> import mmfeat as mf
    >>> p = mf.init("tags", "photos.csv")  # doctest: +SKIP
    >>> p.finetune(freeze=True)  # doctest: +SKIP
    >>> p.extract()  # doctest: +SKIP
    >>> run = p.fuse(head="crossattn")  # doctest: +SKIP
    >>> run.export("model")  # doctest: +SKIP
    """

    @verb
    def init(self, source: str | Path | None = None, **options: Any) -> InitResult:
        """Bring the manifest up to date with its source. Arguments as in :func:`mmfeat.init`."""
        return _init(self.root, source, options)


def init(
    folder: str | Path = ".",
    source: str | Path | None = None,
    *,
    images: Paths = (),
    id: str = "",
    image: str = "",
    caption: Names = (),
    labels: Names = (),
    absent: str = "",
    group: str = "",
    separator: str | None = None,
    classes: str | Path = "",
    val: float | None = None,
    test: float | None = None,
    split_column: str = "",
    val_fold: int | None = None,
    test_fold: int | None = None,
    train_ids: str | Path = "",
    val_ids: str | Path = "",
    test_ids: str | Path = "",
    image_encoder: str | Path = "",
    image_weights: str | Path = "",
    text_encoder: str | Path = "",
    text_weights: str | Path = "",
    preset: str = "",
    seed: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Project:
    """Make a folder a project, or bring its manifest up to date with its source.

    Arguments are named like the options of `mmfeat init`.

    Parameters
    ----------
    folder, source : Path
        The project's folder, which is made if it does not exist, and the data; if None, as in mmfeat.toml.
    images, classes, train_ids, val_ids, test_ids, image_weights, text_weights : Path
        Files. Images may be several, also folders and patterns with `*`; weights may also be `auto` or `random`.
    id, image, caption, labels, group, split_column : str
        Columns; several are allowed for captions and labels.
    preset : str
        `paper` writes the settings of the paper into a new mmfeat.toml.
    progress : bool
        Whether commands show progress and notes on stderr.

    Raises
    ------
    DataError, ConfigError, EncoderError
        The data or an encoder cannot be used; mmfeat.toml has a mistake, or contradicts the arguments.
    """
    given = {name: value for name, value in locals().items() if name not in ("folder", "source", "progress")}
    with quiet(not progress), _made(folder) as root:
        for warning in _init(root, source, given).warnings:
            say(f"Warning: {warning}")
    return Project(root, progress=progress)


@contextlib.contextmanager
def _made(folder: str | Path) -> Iterator[Path]:
    """Make a folder; remove it again if it is new and an error leaves it empty."""
    folder = Path(folder).expanduser().resolve()
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except MmfeatError:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


_COLUMNS = ("id", "image", "caption", "labels", "group")
_SEVERAL = ("images", "caption", "labels")


def _init(folder: Path, source: str | Path | None, options: dict[str, Any]) -> InitResult:
    """Run `mmfeat init`. The options are named as on the command line."""
    from mmfeat.workflows.init import init as init_folder

    named: dict[str, Any] = {
        f"{name}_column" if name in _COLUMNS else name: texts(value) if name in _SEVERAL else _plain(value)
        for name, value in options.items()
        if value is not None
    }
    return init_folder(folder, None if source is None else str(source), **named)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
