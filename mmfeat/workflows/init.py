"""`mmfeat init`: read and check a source, split it once, write mmfeat.toml and the manifest."""

from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.config import FILE_NAME, Config
from mmfeat.configfile import config_of, load_config
from mmfeat.data.columns import ROLES
from mmfeat.data.imagenames import IMAGE_SUFFIXES
from mmfeat.data.manifest import Manifest
from mmfeat.data.readers import Source, read_classes, read_source
from mmfeat.data.rowkeys import DigestMemory, RowKeys, image_keys
from mmfeat.data.sources import ImageSources, image_sources, nothing_found
from mmfeat.data.splits import groups_of, make_splits
from mmfeat.errors import ConfigError, DataError
from mmfeat.files import write_atomic
from mmfeat.labels import fitting_separator, rows_of
from mmfeat.report.summary import summary
from mmfeat.texts import counted, toml_value
from mmfeat.workflows.template import ENCODERS, TEMPLATE

MANIFEST, LOG = "manifest.parquet", "init.log"
PATHS = ("data.source", "data.images", "data.classes")


@dataclass(frozen=True)
class InitResult:
    """What was found and written.

    Attributes
    ----------
    written, removed : list of str
        Names of the files that are new or different, and of those that have nothing to say any more.
    """

    manifest: Manifest
    summary: str
    written: list[str]
    removed: list[str]

    @property
    def unchanged(self) -> bool:
        """Whether everything was there already."""
        return not self.written and not self.removed


def init(
    folder: Path | str = ".", source: str | None = None, *, images: tuple[str, ...] = (), id_column: str = "",
    image_column: str = "", caption_column: str | tuple[str, ...] = "", labels_column: str | tuple[str, ...] = "",
    group_column: str = "", absent: str = "", separator: str | None = None, classes: str = "",
    val: float | None = None, test: float | None = None, seed: int | None = None,
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

    Raises
    ------
    DataError
        The source or the images cannot be used.
    ConfigError
        mmfeat.toml has a mistake, or says otherwise than the arguments.
    """
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
    manifest, notes = _manifest(folder, config, data, row_keys)
    text = "\n".join([summary(manifest, data, row_keys, sources, config), *notes])
    written, removed = _write(folder, config, data, row_keys, manifest, sources)
    return InitResult(manifest, text, written, removed)


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
    sources = image_sources(config) if config.data.images or any(data.images) else ImageSources([])
    if config.data.images and not (folder / FILE_NAME).is_file() and sources.empty():
        raise DataError(f"images: no image in {sources.empty()[0]} (looked for {', '.join(IMAGE_SUFFIXES)})")
    memory = DigestMemory(folder / ".mmfeat" / "digests.parquet")
    row_keys = image_keys(np.array(data.images, dtype=object), sources, memory)
    if any(data.images) and not row_keys.present.any() and not row_keys.refused:
        if config.data.images or sources.names() or not data.columns["caption"]:
            raise nothing_found(data.images, sources)
        data.hints.append(
            f"  no image file in {sources.containers[0]}, so that only captions are used. Are there images, remove "
            f"{FILE_NAME} and name them: --images PATH"
        )
        sources = ImageSources([])
    return sources, row_keys


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


def _manifest(folder: Path, config: Config, data: Source, row_keys: RowKeys) -> tuple[Manifest, list[str]]:
    """The manifest, and what there is to say of its splits."""
    labels = data.encoded(data.classes)
    if not len(rows_of(labels, np.full(len(labels), "train", dtype=object), "train")):
        raise DataError(f"{config.data.source}: no labelled row. Name the column: --labels COLUMN")
    known = None
    if (folder / MANIFEST).is_file():
        before = Manifest.load(folder / MANIFEST)
        labelled = (before.labels >= 0).any(1)
        split = {str(i): s for i, s, known_row in zip(before.ids, before.split, labelled, strict=True) if known_row}
        known = [split.get(i, "") for i in data.ids]
    groups = groups_of(row_keys.keys, row_keys.present)
    split, notes = _split(config, data.ids, labels, groups, known)
    texts = (np.array(values, dtype=object) for values in (data.ids, data.images, data.captions))
    return Manifest(*texts, labels, split, data.classes, data.columns), notes


def _split(
    config: Config, ids: list[str], labels: np.ndarray, groups: np.ndarray, known: list[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Deal what has no split yet, and val from train where there is none; test only from rows that are new."""
    shares, notes = dataclasses.asdict(config.split), []
    split = make_splits(ids, labels, groups, shares, config.seed, known)
    if known is None or not any(known):
        return split, notes
    if shares["val"] and "val" not in known:
        free = ~(labels >= 0).any(1) | (np.array(known, dtype=object) == "train")
        first = np.where(free, "", split).tolist()
        split = make_splits(ids, labels, groups, {"val": shares["val"]}, config.seed, first)
        moved = int((split[np.array(known, dtype=object) == "train"] == "val").sum())
        if moved:
            notes.append(
                f"  {counted(moved, 'row')} that stood in train {'is' if moved == 1 else 'are'} val from now on. "
                f"What was trained before has learned from them. Run it again, first: mmfeat finetune"
            )
    if shares["test"] and not len(rows_of(labels, split, "test")):
        notes.append(
            f"  No row is test, although [split] test = {shares['test']:g}: what was train or val never becomes test. To split "
            f"anew remove {MANIFEST} (runs made before are then not ranked) and run: mmfeat init"
        )
    return split, notes


def _write(
    folder: Path, config: Config, data: Source, row_keys: RowKeys, manifest: Manifest, sources: ImageSources
) -> tuple[list[str], list[str]]:
    """Write what is new, the file last: a project is there when its mmfeat.toml is. Names what is written and removed."""
    toml = None if (folder / FILE_NAME).is_file() else filled_template(folder, config, data, sources)
    written, removed = [], []
    path = folder / MANIFEST
    if not path.is_file() or not _same(Manifest.load(path), manifest):
        manifest.save(path)
        written.append(MANIFEST)
    log, text = folder / LOG, "".join(f"{line}\n" for line in [*data.notes, *_image_notes(manifest, row_keys)])
    if text and (not log.is_file() or log.read_text(encoding="utf-8", errors="replace") != text):
        write_atomic(log, text)
        written.append(LOG)
    elif not text and log.is_file():
        log.unlink()
        removed.append(LOG)
    if toml is not None:
        write_atomic(folder / FILE_NAME, toml)
        written.insert(0, FILE_NAME)
    return written, removed


def _image_notes(manifest: Manifest, row_keys: RowKeys) -> list[str]:
    return [f"image of {str(manifest.ids[row])!r}: {reason}" for row, reason in row_keys.reasons.items()]


def _same(a: Manifest, b: Manifest) -> bool:
    arrays = ("ids", "images", "captions", "labels", "split")
    return (a.classes, a.columns) == (b.classes, b.columns) and all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays
    )


def filled_template(folder: Path, config: Config, data: Source, sources: ImageSources) -> str:
    """The text of a new mmfeat.toml."""
    images = [_shortened(str(path), folder) for path in config.data.images] or _patterns(sources.containers, folder)
    modalities = ["image"] * bool(sources.containers) + ["text"] * bool(data.columns["caption"])
    head = "crossattn" if len(modalities) == 2 else "linear"
    return TEMPLATE.format(
        seed=config.seed,
        source=toml_value(_shortened(config.data.source, folder)),
        images=toml_value(images[0] if len(images) == 1 else images),
        **{role: toml_value(data.settings[role]) for role in ("id", "image", "caption", "labels")},
        group=f"group     = {toml_value(config.data.group)}" if config.data.group else '#group    = "product_id"',
        absent=toml_value(config.data.absent),
        separator=toml_value(config.data.separator),
        classes=f"classes   = {toml_value(_shortened(config.data.classes, folder))}"
        if config.data.classes
        else '#classes  = "classes.csv"',
        val=config.split.val,
        test=config.split.test,
        encoders="".join(ENCODERS[modality] for modality in modalities),
        finetune=f"#[finetune.{modalities[0]}]",
        inputs=toml_value(modalities),
        head=head,
        head_table=f"#[fuse.{head}]",
    )


def _patterns(containers: list[Path], folder: Path) -> list[str]:
    """Several archives of one folder and kind as one pattern, where it matches no other."""
    if len(containers) > 1 and len({(c.parent, c.suffix) for c in containers}) == 1:
        names = [c.name for c in containers]
        prefix = "".join(
            letters[0] for letters in itertools.takewhile(lambda c: len(set(c)) == 1, zip(*names, strict=False))
        )
        pattern = containers[0].parent / f"{prefix}*{containers[0].suffix}"
        if sorted(pattern.parent.glob(pattern.name)) == sorted(containers):
            return [_shortened(str(pattern), folder)]
    return [_shortened(str(c), folder) for c in containers]


def _shortened(path: str, folder: Path) -> str:
    """A path as the file gives it: from the project's folder where it lies inside, else from home."""
    home = str(Path.home())
    if path == str(folder):
        return "."
    if path.startswith(f"{folder}/") and path[len(f"{folder}/")] != "~":
        return path[len(f"{folder}/") :]
    return "~" + path[len(home) :] if path.startswith(home + "/") else path
