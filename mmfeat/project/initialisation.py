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
from mmfeat.config.presets import PRESETS, Preset
from mmfeat.config.reader import config_of, load_config, with_rule_for
from mmfeat.config.schema import FILE_NAME, MODALITIES, Config
from mmfeat.data.difference import difference
from mmfeat.data.images.missing_images import about_look_alikes
from mmfeat.data.manifest import Manifest
from mmfeat.data.setting_names import IN_FILE, INIT, SettingError
from mmfeat.data.tables.columns import ROLES
from mmfeat.data.tables.readers import Source, read_classes, read_source
from mmfeat.project.build_manifest import build_manifest
from mmfeat.project.changes import required_work
from mmfeat.project.chosen_encoders import OWN_WEIGHTS, check_chosen_encoders, is_folder
from mmfeat.project.crossing import about_crossing, identical_images
from mmfeat.project.init_result import InitResult
from mmfeat.project.manifest_files import ManifestFiles
from mmfeat.project.moved_rows import about_moves
from mmfeat.project.source_images import SourceImages, find_images, image_notes, missing_look_alikes
from mmfeat.project.starting_over import STARTED_OVER, has_other_arguments, keep_arguments, may_start_over
from mmfeat.project.template import filled_template
from mmfeat.report.data_summary import about_changes, about_one_class, summary
from mmfeat.report.outputs import Outputs

# Arguments of `init`, and the settings of a new mmfeat.toml that they give.
OPTIONS = {
    "images": "data.images",
    "id_column": "data.id",
    "image_column": "data.image",
    "caption_column": "data.caption",
    "labels_column": "data.labels",
    "group_column": "data.group",
    "split_column": "split.column",
    "absent": "data.absent",
    "separator": "data.separator",
    "classes": "data.classes",
    "val": "split.val",
    "test": "split.test",
    "val_fold": "split.val_fold",
    "test_fold": "split.test_fold",
    "train_ids": "split.train_ids",
    "val_ids": "split.val_ids",
    "test_ids": "split.test_ids",
    "image_encoder": "encoder.image.model",
    "image_weights": "encoder.image.pretrained",
    "text_encoder": "encoder.text.model",
    "text_weights": "encoder.text.pretrained",
    "seed": "seed",
}
COLUMNS = ("split.column", *(f"data.{role}" for role in ROLES))
MODELS = ("encoder.image.model", "encoder.text.model")  # names, or folders
PATHS = (
    *("data.source", "data.images", "data.classes", "split.train_ids", "split.val_ids", "split.test_ids"),
    *("encoder.image.pretrained", "encoder.text.pretrained"),
)


def init(
    folder: Path | str = ".",
    source: str | None = None,
    *,
    preset: str = "",
    overwrite: bool = False,
    **options: Any,
) -> InitResult:
    """Make a folder a project, or bring its manifest up to date with its source.

    Everything is read and checked before anything is written. Rows of the existing manifest keep their split, unless the
    data bring another one. If no row is val and `[split] val` is not 0, val rows are taken from train.

    With the source and other arguments than before, the project starts over, if nobody has changed mmfeat.toml and nothing
    was encoded or trained. Otherwise arguments must agree with the file.

    Parameters
    ----------
    source : str, optional
        A folder with train.csv and test.csv, COCO's files, or a table; the source of mmfeat.toml, if None.
    preset : str
        A name of :data:`mmfeat.config.presets.PRESETS`, whose settings a new mmfeat.toml has where no option gives others.
    overwrite : bool
        Whether to replace an init.log that mmfeat did not write or that was changed since.
    options
        Values for settings of mmfeat.toml, named as in `OPTIONS`. None, an empty text and an empty tuple give none. Columns
        of captions and labels may be several: captions are joined; labels are columns of 0, 1 and blank, or COCO's
        categories.

    Raises
    ------
    DataError
        The source, the images or the split cannot be used.
    ConfigError
        mmfeat.toml has a mistake, or differs from the options.
    EncoderError
        A model is unknown, or its weights do not fit.
    OutputError
        init.log exists and must not be replaced.
    """
    asked = {"data.source": source} | {key: options.pop(name, None) for name, key in OPTIONS.items()}
    if options:
        raise TypeError(f"init() has no argument {next(iter(options))!r}")
    asked = {k: v for k, v in asked.items() if v not in (None, "", ()) or (k == "data.separator" and v is not None)}
    refuse_url(*(text for key in (*PATHS, *MODELS) for text in np.atleast_1d(asked.get(key, "")).tolist()))
    for key in ("data.caption", "data.labels"):
        if key in asked:
            asked[key] = _one_or_all(asked[key])
    folder = Path(folder).resolve()
    asked = _absolute(asked)
    config, is_new = _config(folder, asked, preset)
    try:
        result = _from_source(config, is_new, PRESETS[preset] if preset else None, overwrite=overwrite)
    except SettingError as error:
        raise error.called(INIT if is_new else IN_FILE) from None
    if is_new:
        keep_arguments(folder, asked | _about_preset(preset))
    return result


def _about_preset(preset: str) -> dict[str, str]:
    """The preset among the arguments that are kept."""
    return {"preset": preset} if preset else {}


def _config(folder: Path, asked: dict[str, Any], preset: str) -> tuple[Config, bool]:
    """The settings of mmfeat.toml, which must agree with the arguments, or those of a new project; and whether it is new."""
    if preset and preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}. Use one of: {', '.join(PRESETS)}")
    if (folder / FILE_NAME).is_file():
        config = load_config(folder / FILE_NAME)
        differing = _differing(config, asked) or _differing_preset(config, asked, preset)
        starts_over = "data.source" in asked and may_start_over(config)
        if not starts_over and differing:
            raise ConfigError(differing)
        if not starts_over or not (differing or has_other_arguments(folder, asked | _about_preset(preset))):
            return config, False
    if "data.source" not in asked:
        raise ConfigError(f"{folder}: no {FILE_NAME} yet, so the source must be named. Run: mmfeat init SOURCE")
    return _new_config(folder, asked, preset), True


def _read(config: Config, is_new: bool, preset: Preset | None) -> tuple[Config, Source, SourceImages]:
    """The settings with what the data decide for a new project, the samples, and their images."""
    classes = read_classes(config.path(config.data.classes)) if config.data.classes else None
    data = read_source(
        config.path(config.data.source),
        _columns(config),
        config.data.separator,
        chosen="data.separator" in config.origins,
        classes=classes,
        absent=config.data.absent,
    )
    if is_new:
        config = _resolved(config, data)
    images = find_images(config, data, is_new=is_new)
    if is_new:
        there = {"image": bool(images.sources.containers), "text": bool(data.columns["caption"])}
        if lacking := [modality for modality in (preset.modalities if preset else ()) if not there[modality]]:
            raise ConfigError(
                f"--preset: it needs images and captions, and the data have no {lacking[0]}s. Leave it out"
            )
        check_chosen_encoders(config, there)
    return config, data, images


def _from_source(config: Config, is_new: bool, preset: Preset | None, *, overwrite: bool) -> InitResult:
    """Read the source, build the manifest, and write what has changed."""
    folder, again = config.root, (config.root / FILE_NAME).is_file()
    config, data, images = _read(config, is_new, preset)
    files = ManifestFiles(folder, is_new=is_new and again)
    built = build_manifest(config, data, images.row_keys, files.before)
    manifest, lines = built.manifest, built.lines
    config = with_rule_for(config, len(manifest.classes))
    change = difference(files.before, manifest) if files.before is not None else None
    lines += [STARTED_OVER] if is_new and again else []
    lines += about_changes(change) if change else []
    moves, train_again = about_moves(config, files.before, manifest) if files.before is not None else ([], "")
    to_do, after = required_work(config, change, manifest)
    lines += [*moves, *([] if is_new else _about_unread(config, manifest))]
    across, notes = about_crossing(manifest, images.row_keys)
    alike = missing_look_alikes(data, images)
    lines += [*across, *([f"  missing   {about_look_alikes(alike)}"] if alike else [])]
    lines += about_one_class(config, len(manifest.classes))
    notes = [*image_notes(manifest, images.row_keys, alike), *identical_images(manifest, images.row_keys), *notes]
    notes = [*data.notes, *notes]
    toml = filled_template(folder, config, data, images.sources, preset) if is_new else None
    outputs = Outputs(config, overwrite=overwrite)
    written, removed = files.write(manifest, notes, change=change, toml=toml, outputs=outputs)
    text = summary(manifest, data, images.row_keys, images=images.sources, config=config, split=built.split)
    return InitResult(
        manifest=manifest,
        summary="\n".join([text, *lines, *to_do]),
        written=written,
        removed=removed,
        after=train_again if train_again and after == "mmfeat status" else after,
        warnings=images.warnings,
    )


def _columns(config: Config) -> dict[str, str | tuple[str, ...]]:
    return {role: config.split.column if role == "split" else getattr(config.data, role) for role in ROLES}


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


def _differing(config: Config, asked: dict[str, Any]) -> str:
    """The message about the first argument that differs from an existing mmfeat.toml; empty if none does."""
    values = dict(config.dotted())
    for key, value in asked.items():
        given = list(value) if isinstance(value, tuple) else value
        if key not in values:
            return f"{FILE_NAME} has no {key}. Write it there, then run: mmfeat init"
        if key in (*PATHS, *MODELS):
            same = [config.path(t) for t in np.atleast_1d(values[key])] == [
                Path(t).expanduser().resolve() for t in np.atleast_1d(given)
            ]
            same = same or values[key] == given
        elif key in COLUMNS:
            same = _normal(values[key]) == _normal(given)
        else:
            same = values[key] == given
        if not same:
            return f"{FILE_NAME} says {key} = {json.dumps(values[key])}. Change it there, then run: mmfeat init"
    return ""


def _differing_preset(config: Config, asked: dict[str, Any], preset: str) -> str:
    """The message about the first setting of a preset that an existing mmfeat.toml does not have; empty if it has all."""
    values = dict(config.dotted())
    for key, wanted in PRESETS[preset].settings.items() if preset else ():
        if key not in asked and values.get(key) != wanted:
            found = f"{key} = {json.dumps(values[key])}" if key in values else f"no {key}"
            return f"{FILE_NAME} has {found}, and the preset {preset} {json.dumps(wanted)}. Leave out --preset, or change it there"
    return ""


def _absolute(asked: dict[str, Any]) -> dict[str, Any]:
    """Arguments with absolute paths: typed ones are relative to the current folder, those in mmfeat.toml to the project's."""
    asked = dict(asked)
    for key in asked:
        if key in PATHS or (key in MODELS and is_folder(asked[key])):
            texts = [asked[key]] if isinstance(asked[key], str) else asked[key]
            texts = [
                t if t.startswith("~") or t in OWN_WEIGHTS else str(Path(t).expanduser().absolute()) for t in texts
            ]
            asked[key] = texts[0] if isinstance(asked[key], str) else texts
    return asked


def _new_config(folder: Path, asked: dict[str, Any], preset: str) -> Config:
    """The settings of a new project, checked as if they were read from mmfeat.toml; only arguments count as options."""
    raw: dict[str, Any] = {"schema": 1}
    settings = (PRESETS[preset].settings if preset else {}) | asked
    if any(key.startswith("encoder.") for key in settings):
        raw["encoder"] = {modality: {} for modality in MODALITIES}
    for key, value in settings.items():
        *tables, name = key.split(".")
        target = raw
        for table in tables:
            target = target.setdefault(table, {})
        target[name] = value
    config = config_of(raw, folder)
    given = {key: origin for key, origin in config.origins.items() if key in asked or key not in settings}
    return dataclasses.replace(config, origins=given)
