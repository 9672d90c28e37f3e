"""Making a project: read and check a source, split it once, write mmfeat.toml and the manifest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.files import remove_leftovers, write_atomic
from mmfeat.common.labels import fitting_separator
from mmfeat.common.spelling import normal_name
from mmfeat.common.text import counted, quoted
from mmfeat.common.urls import refuse_url
from mmfeat.config.reader import config_of, load_config, with_rule_for
from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.data.difference import Difference, difference
from mmfeat.data.images.copies import copies_across_splits
from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.images.image_sources import (
    ImageSources,
    image_files_beside,
    image_sources,
    images_beside,
    unreadable_archives,
)
from mmfeat.data.images.missing_images import (
    about_addresses,
    about_look_alikes,
    look_alikes,
    nothing_found,
    other_files,
)
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import DigestMemory, RowKeys, image_keys
from mmfeat.data.tables.columns import ROLES
from mmfeat.data.tables.readers import Source, about_images_inside, read_classes, read_source
from mmfeat.project.build_manifest import build_manifest
from mmfeat.project.changes import follows
from mmfeat.project.project_folder import MANIFEST
from mmfeat.project.template import filled_template
from mmfeat.report.data_summary import about_changes, about_copies, about_one_class, summary
from mmfeat.report.outputs import Outputs

LOG, CHANGED = "init.log", "Changed since the manifest of before:"
COLUMNS = tuple(f"data.{role}" for role in ROLES)
PATHS = ("data.source", "data.images", "data.classes")


@dataclass(frozen=True)
class InitResult:
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
    sources, row_keys, warnings = _images(folder, config, data)
    stamp, before = _stamp(folder), _there(folder)
    manifest, lines = build_manifest(config, data, row_keys, before)
    config = with_rule_for(config, len(manifest.classes))
    change = difference(before, manifest) if before is not None else None
    lines += about_changes(change) if change else []
    anew, after = follows(config, change)
    lines += _unread(config, manifest) if file.is_file() else []
    pairs = copies_across_splits(row_keys, manifest.split)
    lines += about_copies(pairs)
    alike = _look_alikes(data, row_keys, sources)
    lines += [f"  missing   {about_look_alikes(alike)}"] if alike else []
    lines += about_one_class(config, len(manifest.classes))
    notes = [*data.notes, *_image_notes(manifest, row_keys, alike), *_copy_notes(manifest, pairs)]
    toml = None if file.is_file() else filled_template(folder, config, data, sources)
    outputs = Outputs(config, overwrite=overwrite)
    written, removed = _write(folder, before, manifest, notes, change=change, toml=toml, stamp=stamp, outputs=outputs)
    text = "\n".join([summary(manifest, data, row_keys, sources, config), *lines, *anew])
    return InitResult(manifest, text, written, removed, after, warnings)


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


def _images(folder: Path, config: Config, data: Source) -> tuple[ImageSources, RowKeys, list[str]]:
    """Where the images are, their row keys, and warnings; nowhere, where there are captions and not one image to be seen.

    Raises
    ------
    DataError
        Images are named, or lie beside the source, and none of them is of any row; or there is no caption either.
    """
    if config.data.images and not data.columns["image"]:
        raise DataError(f"{config.data.source}: images are given, and no column names them. Use: --image COLUMN")
    sources = None
    if not data.columns["image"] and data.columns["id"] and not (folder / FILE_NAME).is_file():
        sources = _named_by_ids(config, data)
    if sources is None:
        sources = image_sources(config) if config.data.images or any(data.images) else ImageSources([])
    named = [name for name in data.images if name]
    if config.data.images and not (folder / FILE_NAME).is_file() and (empty := sources.empty()):
        raise DataError(f"images: no image in {empty[0]} (looked for {', '.join(IMAGE_SUFFIXES)})")
    memory = DigestMemory(folder / ".mmfeat" / "digests.parquet")
    row_keys = image_keys(np.array(data.images, dtype=object), sources, memory, facts=True)
    missing = [data.images[row] for row in row_keys.missing]
    warnings = [about] if (about := about_addresses(missing)) else []
    if data.images_inside and not config.data.images and not row_keys.present.any():
        if not any(caption.strip() for caption in data.captions):
            raise DataError(f"{config.data.source}:{about_images_inside(data)[1:]}")
        data.hints.append(f"{about_images_inside(data)} (first remove {FILE_NAME})")
        return ImageSources([]), row_keys, warnings
    if named and not row_keys.present.any() and not row_keys.refused:
        if config.data.images or sources.names() or not any(caption.strip() for caption in data.captions):
            raise nothing_found(data.images, sources)
        if packed := unreadable_archives(sources.containers[0]):
            raise DataError(
                f"images: {packed[0]} cannot be read in place. Unpack it, or make it anew as .zip or .tar without compression"
            )
        warnings.append(_captions_alone(sources, len(named)))
        data.hints.append(f"  {warnings[-1]}")
        sources = ImageSources([])
    return sources, row_keys, warnings


def _captions_alone(sources: ImageSources, n: int) -> str:
    """What to say where rows name images, none is there, and captions go on without them."""
    others = other_files(sources)
    there = f" (no image by its name: {', '.join(map(quoted, others[:3]))}{' ...' if len(others) > 3 else ''})"
    there = there if others else ""
    return (
        f"no image file in {sources.containers[0]}{there}, so that only captions are used, and the images of "
        f"{counted(n, 'row')} are not. If there are images, remove {FILE_NAME} and name them: --images PATH"
    )


def _look_alikes(data: Source, row_keys: RowKeys, sources: ImageSources) -> dict[str, str]:
    """For the first of the images that are missing, those that are there and look alike."""
    if not row_keys.missing or not sources.containers:
        return {}
    return look_alikes([data.images[row] for row in row_keys.missing], sources.names())


def _named_by_ids(config: Config, data: Source) -> ImageSources | None:
    """The files beside the source, where no column names images and these are called as the ids, which then name them."""
    source = config.path(config.data.source)
    if not image_files_beside(source):
        return None
    sources = images_beside(source)
    if not any(sources.holds(sample) for sample in data.ids):
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


def _normal(names: str | Sequence[str]) -> str | list[str]:
    return normal_name(names) if isinstance(names, str) else [normal_name(name) for name in names]


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
        elif key in COLUMNS:
            same = _normal(values[key]) == _normal(given)
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
    folder: Path,
    before: Manifest | None,
    manifest: Manifest,
    notes: list[str],
    *,
    change: Difference | None,
    toml: str | None,
    stamp: tuple[int, ...] | None,
    outputs: Outputs,
) -> tuple[list[str], list[str]]:
    """Write what is new, mmfeat.toml last: a project is there when it is. Names what is written and removed.

    Killed in between, it leaves a log of what is to come at worst: the manifest follows whole, or not at all.
    """
    for place in (folder, folder / ".mmfeat"):
        remove_leftovers(place, below=False)
    there = before if _stamp(folder) == stamp else _there(folder)
    up_to_date = _same(there, manifest)
    if there is not before and not up_to_date and not _same(there, before):
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
    if not up_to_date:
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


def _stamp(folder: Path) -> tuple[int, ...] | None:
    """What tells that the manifest is the file that it was: inode, size and time; None where there is none."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _image_notes(manifest: Manifest, row_keys: RowKeys, alike: dict[str, str]) -> list[str]:
    notes = []
    for row, reason in row_keys.reasons.items():
        like = alike.get(manifest.images[row])
        notes.append(f"image of {str(manifest.ids[row])!r}: {reason}{f'; {like!a} is there' if like else ''}")
    return notes


def _copy_notes(manifest: Manifest, pairs: list[tuple[int, int]]) -> list[str]:
    return [
        "the same image data: "
        + " and ".join(f"image of {str(manifest.ids[row])!r} ({manifest.split[row]})" for row in pair)
        for pair in pairs
    ]


def _same(a: Manifest | None, b: Manifest | None) -> bool:
    if a is None or b is None:
        return a is b
    arrays = ("ids", "images", "captions", "labels", "split", "groups")
    return (a.classes, a.columns) == (b.classes, b.columns) and all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays
    )
