"""The feature store: folders of encoders, each with its committed parts.

Only what is committed counts, and what is damaged is not read: its rows are missing again, and `problems` says so.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.errors import StoreError
from mmfeat.files import TEMPORARY, remove_leftovers, write_json
from mmfeat.store.keys import EncoderSpec
from mmfeat.store.parts import FORMAT, Commit, MappedFile, map_file, new_part_name, read_commit, write_file
from mmfeat.store.rows import Found, MappedRows, RowIndex
from mmfeat.store.verified import VerifiedFiles

_RECORD = "encoder.json"


class FeatureStore:
    """A folder of features, shared by any number of projects and processes.

    Parameters
    ----------
    path : Path
        The folder; made when something is written.
    dtype : str
        Of embeddings that are written: `float16` or `float32`.
    """

    def __init__(self, path: Path | str, dtype: str = "float16") -> None:
        self.path = Path(path)
        self.dtype = dtype
        self._open: dict[str, EncoderFeatures] = {}

    def encoder(self, spec: EncoderSpec) -> EncoderFeatures:
        """The features of an encoder, which may be none yet."""
        key = spec.key
        if key not in self._open:
            name = re.sub(r"[^\w.-]+", "_", spec.architecture.rstrip("/").rpartition("/")[2]) or "encoder"
            self._open[key] = EncoderFeatures(self.path / f"{name}-{key[:12]}", spec, self.dtype)
        return self._open[key]

    def find(self, key: str) -> EncoderFeatures | None:
        """The features filed under an encoder key, if there are any."""
        return next((features for features in self.encoders() if features.spec.key == key), None)

    def encoders(self) -> list[EncoderFeatures]:
        """Every encoder that the store has features of."""
        if not self.path.is_dir():
            return []
        folders = [p for p in sorted(self.path.iterdir()) if re.search(r"-[0-9a-f]{12}$", p.name) and (p / _RECORD).is_file()]
        return [self.encoder(read_spec(folder)) for folder in folders]

    @property
    def problems(self) -> list[str]:
        """What was found damaged and therefore not read, a line each."""
        return [problem for features in self._open.values() for problem in features.problems]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the store."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file()) if self.path.is_dir() else 0


def read_spec(folder: Path) -> EncoderSpec:
    """What encoder.json says.

    Raises
    ------
    StoreError
        It is damaged, of another encoder than its folder, or a newer mmfeat wrote it.
    """
    file = folder / _RECORD
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = values["format"]
        if version > FORMAT:
            raise StoreError(f"{file}: has format {version}, this mmfeat reads up to {FORMAT}. Update mmfeat")
        spec = EncoderSpec.from_dict(values["spec"])
        key = spec.key
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: damaged: {error!r}. Remove the folder (its rows are encoded again): {folder}") from None
    if key != values.get("encoder_key") or not folder.name.endswith(key[:12]):
        raise StoreError(f"{file}: is not what its key says. Remove the folder (its rows are encoded again): {folder}")
    return spec


@dataclass
class _Part:
    """A readable part of embeddings."""

    commit: Commit
    mapped: MappedFile


class EncoderFeatures:
    """The features of one encoder: what is there, reading and adding."""

    def __init__(self, folder: Path, spec: EncoderSpec, dtype: str) -> None:
        self.folder = folder
        self.spec = spec
        self.dtype = dtype
        self.problems: list[str] = []
        if (folder / _RECORD).is_file() and (found := read_spec(folder)) != spec:
            raise StoreError(f"{folder}: belongs to another encoder ({found.architecture}, key {found.key[:16]})")

    def lookup(self, keys: np.ndarray) -> Found:
        """Where the rows of `(N, 32)` uint8 row keys are."""
        return self._index.find(keys)

    def errors_of(self, keys: np.ndarray) -> dict[int, str]:
        """Row number to the recorded reason, for rows whose sample could not be decoded."""
        found = self.lookup(keys)
        rows = np.flatnonzero(found.error)
        return {int(r): str(self._parts[found.part[r]].mapped.errors[found.row[r]]) for r in rows}

    def embeddings(self, found: Found) -> MappedRows:
        """Embeddings `(N, D)` of found rows, mapped."""
        return MappedRows([part.mapped.values for part in self._parts], found)

    def logits(self, output_key: str, found: Found) -> MappedRows | None:
        """Logits `(N, K)` of found rows; None unless every part that is asked for has them."""
        files = self._logits(output_key)
        asked = set(np.unique(found.part[found.part >= 0]).tolist())
        if not asked or any(files[number] is None for number in asked):
            return None
        width = next(f for f in files if f is not None).values.shape[1]
        empty = np.zeros((0, width), np.float32)
        return MappedRows([empty if f is None else f.values for f in files], found)

    def append(self, keys: np.ndarray, embeddings: np.ndarray, errors: list[str], meta: dict[str, Any]) -> None:
        """Write rows as one part and commit it.

        Parameters
        ----------
        keys : np.ndarray
            `(n, 32)` uint8.
        embeddings : np.ndarray
            `(n, D)` float; what it holds for a row with an error does not matter.
        errors : list of str
            Why a sample could not be decoded; empty where it could.

        Raises
        ------
        StoreError
            A value is not finite, or the store's dtype cannot hold it, or the folder cannot be written.
        """
        bad = np.array([bool(e) for e in errors])
        embeddings = np.where(bad[:, None], 0, embeddings)
        with np.errstate(over="ignore"):
            stored = embeddings.astype(self.dtype)
        wrong = np.flatnonzero(~np.isfinite(stored).all(1))
        if len(wrong):
            values = embeddings[wrong[0]]
            what = "is not finite" if not np.isfinite(values).all() else f"{np.abs(values).max():.4g} does not fit {self.dtype}"
            remedy = 'Set [store] dtype = "float32"' if np.isfinite(values).all() else "Set another precision or encoder"
            raise StoreError(
                f"{self.spec.architecture}: an embedding {what} (row key {keys[wrong[0]].tobytes().hex()[:16]}, "
                f"{len(wrong)} of {len(stored)} rows). {remedy} in mmfeat.toml"
            )
        self._prepare(embeddings.shape[1])
        attributes = {"encoder_key": self.spec.key, **meta}
        write_file(self.folder, new_part_name(), "embeddings", {"row_key": keys, "embeddings": stored}, errors, attributes)
        self._forget()

    def complete_logits(self, output_key: str, classes: tuple[str, ...], logits_of: Callable[[np.ndarray], np.ndarray]) -> int:
        """Compute the logits that stored embeddings lack, always from the stored embeddings.

        Parameters
        ----------
        logits_of : callable
            `(n, D)` embeddings to `(n, K)` float32.

        Returns
        -------
        int
            Rows that got logits.
        """
        n = 0
        for part, logits in zip(self._parts, self._logits(output_key), strict=True):
            if logits is None:
                values = logits_of(np.asarray(part.mapped.values, dtype=np.float32)).astype(np.float32)
                attributes = {"encoder_key": self.spec.key, "output_key": output_key, "classes": list(classes)}
                arrays = {"row_key": part.mapped.row_key, "logits": values}
                write_file(self.folder, f"logits-{output_key[:12]}/{part.commit.file}", output_key, arrays, None, attributes)
                n += part.commit.rows - part.commit.errors
        if n:
            self._forget()
        return n

    def _prepare(self, width: int) -> None:
        """Make the folder, and remove what a killed writer left in it."""
        try:
            if not (self.folder / _RECORD).is_file():
                values = {"format": FORMAT, "encoder_key": self.spec.key, "width": width, "spec": self.spec.as_dict()}
                write_json(self.folder / _RECORD, values)
            remove_leftovers(self.folder)
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot be written: {error.strerror or error}") from None

    def _forget(self) -> None:
        """What is on disk has changed: read the commits again when asked."""
        for name in ("_commits", "_parts", "_index"):
            self.__dict__.pop(name, None)
        self.problems = []

    def _problem(self, file: str, what: str) -> None:
        line = f"{self.folder / file}: {what}; it is not read, and its rows count as missing"
        if line not in self.problems:
            self.problems.append(line)

    @functools.cached_property
    def _commits(self) -> list[Commit]:
        commits = []
        for path in sorted((self.folder / "commits").glob("*.json")):
            if path.name.startswith(TEMPORARY):
                continue
            try:
                commits.append(read_commit(path))
            except ValueError as error:
                self._problem(f"commits/{path.name}", f"damaged ({error})")
        return commits

    def _map(self, verified: VerifiedFiles, commit: Commit, expected: dict[str, str]) -> MappedFile | None:
        wrong = verified.check(commit)
        if wrong is None:
            try:
                return map_file(self.folder / commit.file, commit, {"encoder_key": self.spec.key, **expected})
            except ValueError as error:
                wrong = str(error)
        self._problem(commit.file, wrong)
        return None

    @functools.cached_property
    def _parts(self) -> list[_Part]:
        verified = VerifiedFiles(self.folder)
        parts = []
        for commit in self._commits:
            if commit.kind == "embeddings" and (mapped := self._map(verified, commit, {})) is not None:
                parts.append(_Part(commit, mapped))
        verified.save()
        return parts

    def _logits(self, output_key: str) -> list[MappedFile | None]:
        """For each part the file of its logits, if it is there and has the same rows."""
        verified = VerifiedFiles(self.folder)
        by_file = {commit.file: commit for commit in self._commits if commit.kind == output_key}
        files: list[MappedFile | None] = []
        for part in self._parts:
            commit = by_file.get(f"logits-{output_key[:12]}/{part.commit.file}")
            mapped = self._map(verified, commit, {"output_key": output_key}) if commit else None
            if mapped is not None and not np.array_equal(mapped.row_key, part.mapped.row_key):
                self._problem(commit.file, "has other rows than its part")
                mapped = None
            files.append(mapped)
        verified.save()
        return files

    @functools.cached_property
    def _index(self) -> RowIndex:
        return RowIndex([part.mapped.row_key for part in self._parts], [part.mapped.errors != "" for part in self._parts])
