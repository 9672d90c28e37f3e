"""`mmfeat encoders`: the project's encoders and the paper's in figures, and which models there are."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from mmfeat import __version__
from mmfeat.common.errors import EncoderError, MmfeatError
from mmfeat.common.files import digest_json
from mmfeat.common.remembered import recall, remember
from mmfeat.config.encoder_tables import EncoderTable, encoder_table_class
from mmfeat.config.schema import FILE_NAME
from mmfeat.encoders.description import Description
from mmfeat.encoders.kinds import kind_of
from mmfeat.project.project import Project

# The encoders of the paper, by the names people use.
PAPER = {
    "image": (
        "mobilenetv3_large_100",
        "shufflenet_v2_x2_0",
        "efficientnet_b0",
        "efficientnet_b1",
        "efficientnet_b2",
        "efficientnet_b3",
        "efficientnet_b4",
        "efficientnetv2_s",
    ),
    "text": ("google/bert_uncased_L-2_H-128_A-2", "albert-base-v2"),
}
SHOWN = 24  # models of a pattern
LONGEST = 512  # tokens, where no table says how many are read


@dataclass(frozen=True)
class Encoders:
    """What is listed.

    Attributes
    ----------
    project : dict of str to Description
        By the encoder's name; empty outside a project, and where a pattern is asked for.
    models : list of Description
        The paper's, or those that match.
    n_more : int
        Further models that match.
    """

    project: dict[str, Description]
    models: list[Description]
    n_more: int = 0


def encoders(folder: Path | str = ".") -> Encoders:
    """The encoders of the project at or above a folder, if there is one, and those of the paper.

    Raises
    ------
    ConfigError
        The project's mmfeat.toml has a mistake.
    """
    with _Metrics() as figures:
        ours = _of_project(Path(folder).resolve(), figures)
        return Encoders(ours, [_known(figures, name, kind) for kind, names in PAPER.items() for name in names])


def models(pattern: str) -> Encoders:
    """Models by a word of their name, or a pattern with `*`.

    Raises
    ------
    EncoderError
        There is none; the nearest are said.
    """
    from mmfeat.encoders.catalogue import matching

    found = matching(pattern)
    with _Metrics() as figures:
        return Encoders({}, [_known(figures, *one) for one in found[:SHOWN]], max(0, len(found) - SHOWN))


class _Metrics:
    """Descriptions of encoders, remembered for all projects of a user: to count anew, timm and transformers are loaded."""

    def __init__(self) -> None:
        self.file = user_cache_path("mmfeat") / "encoders.json"
        places = [os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "HOME")]
        versions = [importlib.metadata.version(package) for package in ("timm", "torchvision", "transformers")]
        self.made_by = digest_json([__version__, versions, places])
        memory = recall(self.file)
        self.known: dict[str, Any] = memory["figures"] if memory.get("made_by") == self.made_by else {}
        self.changed = False

    def __enter__(self) -> _Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        if self.changed:
            remember(self.file, {"made_by": self.made_by, "figures": self.known})

    def of(self, table: EncoderTable, folder: Path) -> Description:
        """An encoder's description; relative paths of its table start at `folder`."""
        kind = kind_of(table)
        if not table.network:
            return kind.describe(table, folder)
        key = digest_json([dataclasses.asdict(table), str(folder), _stamp(folder / Path(table.model).expanduser())])
        with contextlib.suppress(TypeError, KeyError, ValueError):
            known = self.known[key]
            return Description(**{**known, "places": tuple(known["places"])})
        found = kind.describe(table, folder)
        if found.parameters is not None:
            self.known[key], self.changed = dataclasses.asdict(found), True
        return found


def _stamp(folder: Path) -> list[int]:
    """What changes when a folder's model is another; nothing for a name."""
    try:
        stat = (folder / "config.json").stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _of_project(folder: Path, figures: _Metrics) -> dict[str, Description]:
    if not any((above / FILE_NAME).is_file() for above in (folder, *folder.parents)):
        return {}
    project = Project(folder, dry=True)
    found = {}
    for name, table in project.config.encoder.items():
        try:
            found[name] = figures.of(table, project.root)
        except EncoderError as error:  # said in its line: the others are still of use
            found[name] = Description(table.model, table.modality, note=str(error).partition(": ")[2])
        if table.made_elsewhere:
            with contextlib.suppress(MmfeatError):
                found[name] = dataclasses.replace(found[name], width=project.identity(name).width)
    return found


def _known(figures: _Metrics, model: str, modality: str) -> Description:
    """A model as it is without further settings; one that is of no use as an encoder says why."""
    cls = encoder_table_class(modality, {"model": model})
    longest = {"max_length": LONGEST} if "max_length" in cls.__dataclass_fields__ else {}
    table = cls(model=model, **longest)
    try:
        return figures.of(table, Path("/"))
    except EncoderError as error:
        return Description(model, modality, note=str(error).partition(": ")[2])
