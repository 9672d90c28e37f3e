"""`init`: make a folder a project from a source, or bring its manifest up to date with the source."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError
from mmfeat.common.labels import fitting_separator
from mmfeat.common.spelling import normal_name
from mmfeat.common.urls import refuse_url
from mmfeat.config.reader import config_of, load_config, with_rule_for
from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.data.difference import difference
from mmfeat.data.images.copies import copies_across_splits
from mmfeat.data.images.missing_images import about_look_alikes
from mmfeat.data.manifest import Manifest
from mmfeat.data.tables.columns import ROLES
from mmfeat.data.tables.readers import Source, read_classes, read_source
from mmfeat.project.build_manifest import build_manifest
from mmfeat.project.changes import required_work
from mmfeat.project.init_result import InitResult
from mmfeat.project.manifest_files import ManifestFiles
from mmfeat.project.source_images import copy_notes, find_images, image_notes, missing_look_alikes
from mmfeat.project.template import filled_template
from mmfeat.report.data_summary import about_changes, about_copies, about_one_class, summary
from mmfeat.report.outputs import Outputs

COLUMNS = tuple(f"data.{role}" for role in ROLES)
PATHS = ("data.source", "data.images", "data.classes")


def init(
    folder: Path | str = ".",
    source: str | None = None,
    *,
    images: tuple[str, ...] = (),
    id_column: str = "",
    image_column: str = "",
    caption_column: str | tuple[str, ...] = "",
    labels_column: str | tuple[str, ...] = "",
    group_column: str = "",
    absent: str = "",
    separator: str | None = None,
    classes: str = "",
    val: float | None = None,
    test: float | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> InitResult:
    """Make a folder a project, or bring its manifest up to date with its source.

    Everything is read and checked before anything is written. Rows of the existing manifest keep their split. If no row is
    val and `[split] val` is not 0, val rows are taken from train.

    Parameters
    ----------
    source : str, optional
        A folder with train.csv and test.csv, COCO's files, or a table; the source of mmfeat.toml, if None.
    caption_column, labels_column : str or tuple of str
        A column or several: captions are joined; labels are columns of 0, 1 and blank, or COCO's categories.
    overwrite : bool
        Whether to replace an init.log that mmfeat did not write or that was changed since.

    Raises
    ------
    DataError
        The source or the images cannot be used.
    ConfigError
        mmfeat.toml has a mistake, or differs from the arguments.
    OutputError
        init.log exists and must not be replaced.
    """
    refuse_url(*([source] if source else []), *images, classes)
    folder = Path(folder).resolve()
    asked = {
        "data.source": source,
        "data.images": images,
        "data.id": id_column,
        "data.image": image_column,
        "data.caption": _one_or_all(caption_column),
        "data.labels": _one_or_all(labels_column),
        "data.group": group_column,
        "data.absent": absent,
        "data.separator": separator,
        "data.classes": classes,
        "split.val": val,
        "split.test": test,
        "seed": seed,
    }
    asked = {k: v for k, v in asked.items() if v not in (None, "", ()) or (k == "data.separator" and v is not None)}
    return _from_source(folder, _config(folder, asked), overwrite)


def _config(folder: Path, asked: dict[str, Any]) -> Config:
    """The settings of mmfeat.toml, which must agree with the arguments, or those of a new project."""
    if (folder / FILE_NAME).is_file():
        config = load_config(folder / FILE_NAME)
        _check_agreement(config, asked)
        return config
    if "data.source" not in asked:
        raise ConfigError(f"{folder}: no {FILE_NAME} yet, so the source must be named. Run: mmfeat init SOURCE")
    return _new_config(folder, asked)


def _from_source(folder: Path, config: Config, overwrite: bool) -> InitResult:
    """Read the source, build the manifest, and write what has changed."""
    is_new = not (folder / FILE_NAME).is_file()
    classes = read_classes(config.path(config.data.classes)) if config.data.classes else None
    path, settings = config.path(config.data.source), config.data
    data = read_source(path, _columns(config), settings.separator, classes=classes, absent=settings.absent)
    if is_new:
        config = _resolved(config, data)
    images = find_images(folder, config, data)
    row_keys, files = images.row_keys, ManifestFiles(folder)
    manifest, lines = build_manifest(config, data, row_keys, files.before)
    config = with_rule_for(config, len(manifest.classes))
    change = difference(files.before, manifest) if files.before is not None else None
    lines += about_changes(change) if change else []
    to_do, after = required_work(config, change, manifest)
    lines += [] if is_new else _about_unread(config, manifest)
    pairs = copies_across_splits(row_keys, manifest.split)
    lines += about_copies(pairs)
    alike = missing_look_alikes(data, images)
    lines += [f"  missing   {about_look_alikes(alike)}"] if alike else []
    lines += about_one_class(config, len(manifest.classes))
    notes = [*data.notes, *image_notes(manifest, row_keys, alike), *copy_notes(manifest, pairs)]
    toml = filled_template(folder, config, data, images.sources) if is_new else None
    outputs = Outputs(config, overwrite=overwrite)
    written, removed = files.write(manifest, notes, change=change, toml=toml, outputs=outputs)
    text = "\n".join([summary(manifest, data, row_keys, images=images.sources, config=config), *lines, *to_do])
    return InitResult(
        manifest=manifest, summary=text, written=written, removed=removed, after=after, warnings=images.warnings
    )


def _columns(config: Config) -> dict[str, str | tuple[str, ...]]:
    return {role: getattr(config.data, role) for role in ROLES}


def _one_or_all(columns: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Columns as in mmfeat.toml: one column is a text."""
    return columns[0] if isinstance(columns, tuple) and len(columns) == 1 else columns


def _resolved(config: Config, data: Source) -> Config:
    """A new project's settings with the defaults that its data decides: `absent`, and a separator that no class contains."""
    separator = config.data.separator
    if not data.splits_cells and "data.separator" not in config.origins:
        separator = fitting_separator(data.classes)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, absent=data.absent, separator=separator))


def _about_unread(config: Config, manifest: Manifest) -> list[str]:
    """Lines about images or captions that no encoder reads."""
    modalities = {table.modality for table in config.encoder.values()}
    samples = {("image", "images"): manifest.images, ("text", "captions"): manifest.captions}
    return [
        f"  No encoder reads the {what}: {FILE_NAME} has no [encoder.{modality}]"
        for (modality, what), values in samples.items()
        if (values != "").any() and modality not in modalities
    ]


def _normal(names: str | Sequence[str]) -> str | list[str]:
    return normal_name(names) if isinstance(names, str) else [normal_name(name) for name in names]


def _check_agreement(config: Config, asked: dict[str, Any]) -> None:
    """Refuse arguments that differ from an existing mmfeat.toml."""
    values = dict(config.dotted())
    for key, value in asked.items():
        given = list(value) if isinstance(value, tuple) else value
        if key in PATHS:
            same = [config.path(t) for t in np.atleast_1d(values[key])] == [
                Path(t).expanduser().resolve() for t in np.atleast_1d(given)
            ]
            same = same or values[key] == given
        elif key in COLUMNS:
            same = _normal(values[key]) == _normal(given)
        else:
            same = values[key] == given
        if not same:
            raise ConfigError(
                f"{FILE_NAME} says {key} = {json.dumps(values[key])}. Change it there, then run: mmfeat init"
            )


def _new_config(folder: Path, asked: dict[str, Any]) -> Config:
    """The settings of a new project, checked as if they were read from mmfeat.toml."""
    # Paths on the command line are relative to the current folder, paths in mmfeat.toml to the project's.
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
