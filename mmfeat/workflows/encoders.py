"""`mmfeat encoders`: size, width and input of the project's encoders, of the paper's, and of models by name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from mmfeat import __version__
from mmfeat.common.errors import EncoderError, MmfeatError
from mmfeat.common.files import digest_json
from mmfeat.common.package_versions import package_version
from mmfeat.common.remembered import Remembered, stamps_of
from mmfeat.common.text import counted
from mmfeat.config.encoder_tables import EncoderTable, encoder_table_class
from mmfeat.config.schema import FILE_NAME
from mmfeat.encoders.description import Description
from mmfeat.encoders.kinds import kind_of
from mmfeat.project.project import Project
from mmfeat.report.result import Record, TableResult

# The encoders of the paper, by their usual names.
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
_REMEMBERED = 1000  # descriptions
LONGEST = 512  # tokens of a text model that no table describes


@dataclass(frozen=True, kw_only=True, repr=False)
class Encoders(TableResult):
    """A list of encoders.

    Attributes
    ----------
    project : dict of str to Description
        The project's encoders by name. Empty outside a project, and for a pattern.
    models : list of Description
        The models of the paper, or the models that match the pattern.
    n_more : int
        Number of matching models that are not listed.
    """

    project: dict[str, Description]
    models: list[Description]
    n_more: int = 0

    def _about(self) -> str:
        more = f", and {self.n_more:,} more match" if self.n_more else ""
        return f"{counted(len(self.project) + len(self.models), 'encoder')}{more}"

    def _table(self) -> list[Record]:
        named = [*self.project.items(), *(("", model) for model in self.models)]
        return [
            {
                "encoder": name,
                "model": one.model,
                "M parameters": None if one.parameters is None else one.parameters / 1e6,
                "MB": one.size_mb,
                "width": one.width,
                "input": one.takes,
                "from": one.source,
                "weights": one.weights,
            }
            for name, one in named
        ]


def encoders(folder: Path | str = ".") -> Encoders:
    """The encoders of the project at or above a folder, if there is one, and the encoders of the paper.

    Raises
    ------
    ConfigError
        The project's mmfeat.toml has a mistake.
    """
    with _Descriptions() as descriptions:
        ours = _of_project(Path(folder).resolve(), descriptions)
        paper = [_known(descriptions, name, kind) for kind, names in PAPER.items() for name in names]
        return Encoders(project=ours, models=paper)


def models(pattern: str) -> Encoders:
    """Models whose name contains a text, or matches a pattern with `*`.

    Raises
    ------
    EncoderError
        There is no such model. The message suggests the nearest names.
    """
    from mmfeat.encoders.catalogue import matching

    found = matching(pattern)
    with _Descriptions() as descriptions:
        models = [_known(descriptions, *one) for one in found[:SHOWN]]
        return Encoders(project={}, models=models, n_more=max(0, len(found) - SHOWN))


class _Descriptions:
    """Descriptions of encoders, remembered for all projects of a user: computing them loads timm and transformers."""

    def __init__(self) -> None:
        places = [os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "HOME")]
        versions = [package_version(package) for package in ("timm", "torchvision", "transformers")]
        self.made_by = [__version__, versions, places]
        self.memory = Remembered(user_cache_path("mmfeat") / "encoders.json", most=_REMEMBERED)

    def __enter__(self) -> _Descriptions:
        return self

    def __exit__(self, *_: object) -> None:
        self.memory.save()

    def of(self, table: EncoderTable, folder: Path) -> Description:
        """An encoder's description; paths in its table are relative to `folder`."""
        kind = kind_of(table)
        if not table.network:
            return kind.describe(table, folder)
        made_from = [dataclasses.asdict(table), str(folder), self.made_by]
        name = digest_json(made_from)
        if known := self.memory.recall(name, made_from):
            return Description(**{**known, "places": tuple(known["places"])})
        found = kind.describe(table, folder)
        if found.parameters is not None:
            files = stamps_of([folder / Path(table.model).expanduser() / "config.json"])  # of a folder's model
            self.memory.remember(name, dataclasses.asdict(found), made_from, files=files)
        return found


def _of_project(folder: Path, descriptions: _Descriptions) -> dict[str, Description]:
    if not any((above / FILE_NAME).is_file() for above in (folder, *folder.parents)):
        return {}
    project = Project(folder, dry=True)
    found = {}
    for name, table in project.config.encoder.items():
        try:
            found[name] = descriptions.of(table, project.root)
        except EncoderError as error:  # shown in its row
            found[name] = Description(table.model, table.modality, note=str(error).partition(": ")[2])
        found[name] = dataclasses.replace(found[name], model=project.model_title(name))
        if table.made_elsewhere:
            with contextlib.suppress(MmfeatError):
                found[name] = dataclasses.replace(found[name], width=project.identity(name).width)
    return found


def _known(descriptions: _Descriptions, model: str, modality: str) -> Description:
    """A model with default settings. If it cannot be used as an encoder, its note gives the reason."""
    cls = encoder_table_class(modality, {"model": model})
    longest = {"max_length": LONGEST} if "max_length" in cls.__dataclass_fields__ else {}
    table = cls(model=model, **longest)
    try:
        return descriptions.of(table, Path("/"))
    except EncoderError as error:
        return Description(model, modality, note=str(error).partition(": ")[2])
