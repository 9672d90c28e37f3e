"""`mmfeat store import`: embeddings that another program computed become an encoder of the project."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat import __version__
from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.progress import progress
from mmfeat.common.spelling import spelled_as
from mmfeat.common.text import counted, shown
from mmfeat.common.urls import refuse_url
from mmfeat.config.encoder_tables import OtherEncoderConfig
from mmfeat.config.reader import wrong_name
from mmfeat.data.embedding_files import ArrayFile, open_array
from mmfeat.data.id_lists import read_ids
from mmfeat.data.row_keys import id_keys
from mmfeat.extraction.imported_embeddings import Imported, examine, lacking, write_import
from mmfeat.project.project import Project
from mmfeat.report.result import Result
from mmfeat.store.merge import merge_segments

KEY_DIGITS = 16  # of the key, as mmfeat.toml gives it


@dataclass(frozen=True, kw_only=True, repr=False)
class ImportResult(Result):
    """The imported embeddings, and the rows of the manifest that have one.

    Attributes
    ----------
    key : str
        The value of `imported` in mmfeat.toml.
    folder : str
        Folder in the store.
    n_rows, width : int
        Number and dimension of the imported embeddings.
    n_written : int
        Embeddings that were new to the store.
    n_left_out : int
        Rows that the file marks as missing.
    n_zeros : int
        Embeddings whose numbers are all zero.
    n_matched, n_manifest : int
        Rows of the manifest with an embedding, and all of them.
    in_use : bool
        Whether mmfeat.toml names this import already.
    """

    name: str
    key: str
    folder: str
    n_rows: int
    width: int
    dtype: str
    n_written: int
    n_left_out: int
    n_zeros: int
    n_matched: int
    n_manifest: int
    size_mb: float
    in_use: bool

    @property
    def table(self) -> str:
        """The table to paste into mmfeat.toml."""
        return f'[encoder.{self.name}]\nmodality = "{OtherEncoderConfig.modality}"\nimported = "{self.key}"'

    def _about(self) -> str:
        made = "Imported" if self.n_written else "Already imported:"
        rows = f"{self.n_matched:,} of {counted(self.n_manifest, 'row')} of the manifest have one"
        text = (
            f"{made} {counted(self.n_rows, 'embedding')} of {counted(self.width, 'dimension')} as {self.name}; {rows}"
        )
        return text if self.in_use else f"{text}\nPaste into mmfeat.toml:\n{self.table}"


def import_embeddings(
    project: Project, name: str, file: Path | str, ids_file: Path | str | None = None, *, array: str = ""
) -> ImportResult:
    """Import the embeddings of a file into the project's store. Their row keys are digests of their ids.

    The whole file is checked before anything is written. A second import of the file changes nothing; an interrupted
    import is resumed.

    Parameters
    ----------
    ids_file : Path, optional
        The ids, one for each row in order; if None, the ids in `file`.
    array : str
        The data set, column or tensor with the embeddings; detected, if empty.

    Raises
    ------
    ConfigError
        The name is not valid, or is in use by another encoder.
    DataError
        The files cannot be used; the message names rows.
    StoreError
        The store cannot be written.
    """
    refuse_url(file, *([ids_file] if ids_file else []))
    _check_name(project, name)
    path = Path(file).expanduser()
    source = open_array(path, array)
    ids, keys = _ids(project, source, None if ids_file is None else Path(ids_file).expanduser())
    keep = source.present()
    keep = np.ones(len(ids), dtype=bool) if keep is None else keep
    if len(keep) != len(ids) or not keep.any():
        raise DataError(f"{path}: marks {int(keep.sum()):,} of {counted(len(ids), 'row')} as having an embedding")
    n_matched = _matched(project, path, ids, keys=keys, keep=keep)
    width, dtype = source.shape[1], project.store.dtype
    try:
        with progress(f"{name}: examining", len(ids)) as bar:
            found = examine(
                name, source.blocks, ids, keys=keys, keep=keep, width=width, dtype=dtype, advance=bar.advance
            )
        n_written = _write(project, source, found, keys=keys, keep=keep)
    except DataError as error:
        text = str(error)
        raise DataError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    features, table = project.store.encoder(found.spec), project.config.encoder.get(name)
    return ImportResult(
        name=name,
        key=found.spec.key[:KEY_DIGITS],
        folder=features.folder.name,
        n_rows=int(keep.sum()),
        width=width,
        dtype=dtype,
        n_written=n_written,
        n_left_out=int((~keep).sum()),
        n_zeros=found.n_zeros,
        n_matched=n_matched,
        n_manifest=project.manifest.n_samples,
        size_mb=sum(commit.size for commit in features.commits) / 1e6,
        in_use=table is not None and found.spec.key.startswith(table.imported),
    )


def _check_name(project: Project, name: str) -> None:
    if wrong := wrong_name(name):
        raise ConfigError(f"{shown(name)}: {wrong}. Choose another name")
    table = project.config.encoder.get(name)
    if table is not None and not table.made_elsewhere:
        raise ConfigError(f"{name} is the project's {table.modality} encoder. Choose another name")


def _ids(project: Project, source: ArrayFile, file: Path | None) -> tuple[list[str], np.ndarray]:
    """The ids of a file's rows and their digests `(N, 32)`: one id for each embedding, without duplicates.

    An id that differs from one of the manifest only in spelling gets the manifest's spelling.
    """
    n_rows = source.shape[0]
    ids = source.ids() if file is None else read_ids(file, n_rows)
    if ids is None:
        raise DataError(f"{source.path}: there are no ids in it (a column or data set 'id'). Give them: --ids FILE")
    if len(ids) != n_rows:
        where = f" in {file}" if file else ""
        raise DataError(
            f"{source.path}: {counted(n_rows, 'embedding')} and {counted(len(ids), 'id')}{where}. There must be one for each"
        )
    try:
        ids = spelled_as(ids, project.manifest.ids.tolist())
    except DataError as error:
        raise DataError(f"{file or source.path}: the id {error}. Spell it as the manifest does") from None
    keys = id_keys(ids)
    _, first, counts = np.unique(keys.view("V32").ravel(), return_index=True, return_counts=True)
    if len(first) != n_rows:
        example = int(first[counts > 1].min())
        rows = np.flatnonzero((keys == keys[example]).all(1)) + 1
        named = ", ".join(f"{row:,}" for row in rows[:3])
        raise DataError(
            f"{file or source.path}: {counted(int((counts > 1).sum()), 'id')} more than once, such as {shown(ids[example])!r} "
            f"in rows {named}. Keep one embedding for each id"
        )
    return ids, keys


def _matched(project: Project, path: Path, ids: list[str], *, keys: np.ndarray, keep: np.ndarray) -> int:
    """The number of rows of the manifest that have an embedding; 0 is an error."""
    rows = id_keys(project.manifest.ids)
    n_matched = int(np.isin(rows.view("V32").ravel(), keys[keep].view("V32").ravel()).sum())
    if not n_matched:
        in_manifest, in_file = shown(project.manifest.ids[0]), shown(ids[int(np.flatnonzero(keep)[0])])
        raise DataError(
            f"{path}: none of {counted(int(keep.sum()), 'id')} is one of the {len(rows):,} in manifest.parquet. "
            f"The first id in the manifest is {in_manifest!r}, in the file {in_file!r}"
        )
    return n_matched


def _write(project: Project, source: ArrayFile, found: Imported, *, keys: np.ndarray, keep: np.ndarray) -> int:
    """Write the embeddings that the store lacks; returns their number."""
    features = project.store.encoder(found.spec)
    project.refer(found.spec.key, imported=found.spec.architecture)
    features.sweep()
    missing = lacking(features, keys, keep)
    n_missing = int(missing.sum())
    if n_missing:
        place = f"{source.path.absolute()}{f' {source.array}' if source.array else ''}"
        versions = {"mmfeat": __version__, "numpy": np.__version__}
        meta = {"host": platform.node(), "device": f"imported from {place}", "versions": versions}
        with progress(f"{found.spec.architecture}: writing", n_missing) as bar:
            write_import(
                features,
                source.blocks,
                keys,
                digests=found.digests,
                missing=missing,
                width=source.shape[1],
                meta=meta,
                advance=bar.advance,
            )
        merge_segments(features)
    return n_missing
