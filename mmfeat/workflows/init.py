"""`mmfeat init`: read and check a source, split it once, write mmfeat.toml and the manifest."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.config import FILE_NAME, Config
from mmfeat.configfile import config_of, load_config
from mmfeat.data.columns import ROLES
from mmfeat.data.difference import Difference, difference
from mmfeat.data.imagenames import IMAGE_SUFFIXES
from mmfeat.data.manifest import Manifest
from mmfeat.data.readers import Source, read_classes, read_source
from mmfeat.data.rowkeys import DigestMemory, RowKeys, image_keys
from mmfeat.data.sources import (
    ImageSources,
    image_files_beside,
    image_sources,
    images_beside,
    nothing_found,
    unreadable_archives,
)
from mmfeat.errors import ConfigError, DataError
from mmfeat.files import remove_leftovers, write_atomic
from mmfeat.labels import fitting_separator
from mmfeat.outputs import Outputs
from mmfeat.report.summary import about_changes, summary
from mmfeat.urls import refuse_url
from mmfeat.workflows.changes import follows
from mmfeat.workflows.placing import MANIFEST, make_manifest
from mmfeat.workflows.template import filled_template

LOG, CHANGED = "init.log", "Changed since the manifest of before:"
PATHS = ("data.source", "data.images", "data.classes")


@dataclass(frozen=True)
class InitResult:
    """What was found and written.

    Attributes
    ----------
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

    @property
    def unchanged(self) -> bool:
        """Whether everything was there already."""
        return not self.written and not self.removed


def init(
    folder: Path | str = ".", source: str | None = None, *, images: tuple[str, ...] = (), id_column: str = "",
    image_column: str = "", caption_column: str | tuple[str, ...] = "", labels_column: str | tuple[str, ...] = "",
    group_column: str = "", absent: str = "", separator: str | None = None, classes: str = "",
    val: float | None = None, test: float | None = None, seed: int | None = None, overwrite: bool = False,
) -> InitResult:  # fmt: skip
    """Make a folder a project, or bring its manifest up to date with its source.

    Nothing is written before everything has been read and checked. Rows that the manifest has already keep their split;
    only where no row is val yet, and mmfeat.toml asks for some, they are dealt from those that are train.

    Parameters
    ----------
    source : str, optional
        A folder with train.csv and test.csv, COCO's files, or a table; what mmfeat.toml says, when None.
    caption_column, labels_column : str or tuple of str
        A column or several: captions are joined; labels are columns of 0, 1 and blank, or COCO's categories.
    overwrite : bool
        Whether an init.log may be replaced that mmfeat has not made, or that was changed since.

    Raises
    ------
    DataError
        The source or the images cannot be used.
    ConfigError
        mmfeat.toml has a mistake, or says otherwise than the arguments.
    OutputError
        There is an init.log that must not be replaced.
    """
    refuse_url(*([source] if source else []), *images, classes)
    folder = Path(folder).resolve()
    file = folder / FILE_NAME
    asked = {
        "data.source": source, "data.images": images, "data.id": id_column, "data.image": image_column,
        "data.caption": _one_or_all(caption_column), "data.labels": _one_or_all(labels_column),
        "data.group": group_column, "data.absent": absent, "data.separator": separator, "data.classes": classes,
        "split.val": val, "split.test": test, "seed": seed,
    }  # fmt: skip
    asked = {k: v for k, v in asked.items() if v not in (None, "", ()) or (k == "data.separator" and v is not None)}
    if file.is_file():
        config = load_config(file)
        _agree(config, asked)
    elif source is None:
        raise ConfigError(f"{folder}: no {FILE_NAME} yet, so the source must be named. Run: mmfeat init SOURCE")
    else:
        config = _new_config(folder, asked)
    classes = read_classes(config.path(config.data.classes)) if config.data.classes else None
    data = read_source(
        config.path(config.data.source), _columns(config), config.data.separator, classes, config.data.absent
    )
    if not file.is_file():
        config = _resolved(config, data)
    sources, row_keys = _images(folder, config, data)
    before = _there(folder)
    manifest, lines = make_manifest(config, data, row_keys, before)
    change = difference(before, manifest) if before is not None else None
    lines += about_changes(change) if change else []
    anew, after = follows(config, change)
    lines += _unread(config, manifest) if file.is_file() else []
    notes = [*data.notes, *_image_notes(manifest, row_keys)]
    toml = None if file.is_file() else filled_template(folder, config, data, sources)
    outputs = Outputs(config, overwrite=overwrite)
    written, removed = _write(folder, before, manifest, notes, change, toml, outputs)
    text = "\n".join([summary(manifest, data, row_keys, sources, config), *lines, *anew])
    return InitResult(manifest, text, written, removed, after)


def _columns(config: Config) -> dict[str, str | tuple[str, ...]]:
    return {role: getattr(config.data, role) for role in ROLES}


def _one_or_all(columns: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Columns as mmfeat.toml has them: one is a text."""
    return columns[0] if isinstance(columns, tuple) and len(columns) == 1 else columns


def _resolved(config: Config, data: Source) -> Config:
    """What a new file says where nothing was asked for: what absent labels are, and a separator that no class has in it."""
    separator = config.data.separator
    if not data.splits_cells and "data.separator" not in config.origins:
        separator = fitting_separator(data.classes)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, absent=data.absent, separator=separator))


def _images(folder: Path, config: Config, data: Source) -> tuple[ImageSources, RowKeys]:
    """Where the images are, and their row keys; nowhere, where there are captions and not one image file to be seen.

    Raises
    ------
    DataError
        Images are named, or lie beside the source, and none of them is of any row.
    """
    if config.data.images and not data.columns["image"]:
        raise DataError(f"{config.data.source}: images are given, and no column names them. Use: --image COLUMN")
    sources = None
    if not data.columns["image"] and data.columns["id"] and not (folder / FILE_NAME).is_file():
        sources = _named_by_ids(config, data)
    if sources is None:
        sources = image_sources(config) if config.data.images or any(data.images) else ImageSources([])
    if config.data.images and not (folder / FILE_NAME).is_file() and sources.empty():
        raise DataError(f"images: no image in {sources.empty()[0]} (looked for {', '.join(IMAGE_SUFFIXES)})")
    memory = DigestMemory(folder / ".mmfeat" / "digests.parquet")
    row_keys = image_keys(np.array(data.images, dtype=object), sources, memory)
    if any(data.images) and not row_keys.present.any() and not row_keys.refused:
        if config.data.images or sources.names() or not data.columns["caption"]:
            raise nothing_found(data.images, sources)
        if packed := unreadable_archives(sources.containers[0]):
            raise DataError(
                f"images: {packed[0]} cannot be read in place. Unpack it, or make it anew as .zip or .tar without compression"
            )
        data.hints.append(
            f"  no image file in {sources.containers[0]}, so that only captions are used. Are there images, remove "
            f"{FILE_NAME} and name them: --images PATH"
        )
        sources = ImageSources([])
    return sources, row_keys


def _named_by_ids(config: Config, data: Source) -> ImageSources | None:
    """The files beside the source, where no column names images and these are called as the ids, which then name them."""
    source = config.path(config.data.source)
    if not image_files_beside(source):
        return None
    sources = images_beside(source)
    if not any(sources.locate(sample) is not None for sample in data.ids):
        data.hints.append("  image files lie beside the source, and no column names them: --image COLUMN")
        return None
    data.images, data.columns["image"] = list(data.ids), data.columns["id"]
    data.settings["image"] = data.columns["id"]
    return sources


def _unread(config: Config, manifest: Manifest) -> list[str]:
    """What to say of images or captions that no encoder reads."""
    modalities = {table.modality for table in config.encoder.values()}
    samples = {"image": manifest.images, "text": manifest.captions}
    return [
        f"  No encoder reads the {'images' if modality == 'image' else 'captions'}: {FILE_NAME} has no [encoder.{modality}]"
        for modality, values in samples.items()
        if (values != "").any() and modality not in modalities
    ]


def _agree(config: Config, asked: dict[str, Any]) -> None:
    """Options only fill in a new file: where one exists they must say the same."""
    values = dict(config.dotted())
    for key, value in asked.items():
        given = list(value) if isinstance(value, tuple) else value
        if key in PATHS:
            same = [config.path(t) for t in np.atleast_1d(values[key])] == [
                Path(t).expanduser().resolve() for t in np.atleast_1d(given)
            ]
            same = same or values[key] == given
        else:
            same = values[key] == given
        if not same:
            raise ConfigError(
                f"{FILE_NAME} says {key} = {json.dumps(values[key])}. Change it there, then run: mmfeat init"
            )


def _new_config(folder: Path, asked: dict[str, Any]) -> Config:
    """The configuration of a project that does not exist yet, checked like a file's."""
    # Paths of the command line start at the current folder, those of the file at the project's.
    for key in PATHS:
        if key in asked:
            texts = [asked[key]] if isinstance(asked[key], str) else asked[key]
            texts = [t if t.startswith("~") else str(Path(t).expanduser().absolute()) for t in texts]
            asked[key] = texts[0] if isinstance(asked[key], str) else texts
    raw: dict[str, Any] = {"schema": 1}
    for key, value in asked.items():
        table, _, name = key.rpartition(".")
        (raw.setdefault(table, {}) if table else raw)[name] = value
    return config_of(raw, folder)


def _write(
    folder: Path, before: Manifest | None, manifest: Manifest, notes: list[str], change: Difference | None,
    toml: str | None, outputs: Outputs,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Write what is new, mmfeat.toml last: a project is there when it is. Names what is written and removed.

    Killed in between, it leaves a log of what is to come at worst: the manifest follows whole, or not at all.
    """
    for place in (folder, folder / ".mmfeat"):
        remove_leftovers(place, below=False)
    there = _there(folder)
    if not _same(there, manifest) and not _same(there, before):
        raise DataError(f"{folder / MANIFEST}: another mmfeat init has written it meanwhile. Run again: mmfeat init")
    written, removed = [], []
    log = folder / LOG
    old = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    text = "".join(f"{line}\n" for line in [*notes, *_changes(change, old)])
    earlier = there is not None  # a project that an earlier version has made
    if text and text != old:
        outputs.write(log, text, own=True, earlier=earlier)
        written.append(LOG)
    elif not text and log.is_file() and outputs.may_replace(log, own=True, earlier=earlier):
        log.unlink()
        removed.append(LOG)
    if not _same(there, manifest):
        manifest.save(folder / MANIFEST)
        written.insert(0, MANIFEST)
    if toml is not None:
        write_atomic(folder / FILE_NAME, toml)
        written.insert(0, FILE_NAME)
    return written, removed


def _changes(change: Difference | None, log: str) -> list[str]:
    """The end of the log: what is different now or, until something is again, what was at the last change."""
    if change is None:
        return []
    if lines := change.lines():
        return [CHANGED, *lines]
    old = log.splitlines()
    return old[old.index(CHANGED) :] if CHANGED in old else []


def _there(folder: Path) -> Manifest | None:
    return Manifest.load(folder / MANIFEST) if (folder / MANIFEST).is_file() else None


def _image_notes(manifest: Manifest, row_keys: RowKeys) -> list[str]:
    return [f"image of {str(manifest.ids[row])!r}: {reason}" for row, reason in row_keys.reasons.items()]


def _same(a: Manifest | None, b: Manifest | None) -> bool:
    if a is None or b is None:
        return a is b
    arrays = ("ids", "images", "captions", "labels", "split", "groups")
    return (a.classes, a.columns) == (b.classes, b.columns) and all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays
    )
