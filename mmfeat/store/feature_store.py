"""FeatureStore: a folder with one folder for each encoder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmfeat.common.errors import StoreError
from mmfeat.store.encoder_record import RECORD, encoder_folders, read_record
from mmfeat.store.features import EncoderFeatures
from mmfeat.store.keys import EncoderSpec


class FeatureStore:
    """A folder of features, shared by any number of projects and processes.

    Parameters
    ----------
    path : Path
        The folder; it is made at the first write.
    dtype : str
        Type of written embeddings: `float16` or `float32`.
    """

    def __init__(self, path: Path | str, dtype: str = "float16") -> None:
        if dtype not in ("float16", "float32"):
            raise StoreError(f"store: dtype = {str(dtype)[:60]!r}. Use one of: float16, float32")
        self.path = Path(path)
        self.dtype = dtype
        self._opened: dict[str, EncoderFeatures] = {}
        self._problems: list[str] = []

    def encoder(self, spec: EncoderSpec) -> EncoderFeatures:
        """The features of an encoder; they may be empty.

        Raises
        ------
        StoreError
            Its encoder.json is damaged, belongs to another encoder, or was written by a newer mmfeat.
        """
        key = spec.key
        if key not in self._opened:
            self._opened[key] = EncoderFeatures(self.path / folder_name(spec), spec, self.dtype)
        return self._opened[key]

    def find(self, key: str) -> EncoderFeatures | None:
        """The features of an encoder key, or of a key that begins with these 12 or more digits; None without any.

        Raises
        ------
        StoreError
            They exist, and their encoder.json is damaged or was written by a newer mmfeat.
        """
        specs = [read_record(folder).spec for folder in self._folders() if folder.name.endswith(f"-{key[:12]}")]
        return next((self.encoder(spec) for spec in specs if spec.key.startswith(key)), None)

    def encoders(self) -> list[EncoderFeatures]:
        """The encoders with features in the store, newest first; unreadable ones are listed in `problems`."""
        found, self._problems = [], []
        for folder in self._folders():
            try:
                record = read_record(folder)
                found.append((record.created, folder.name, self.encoder(record.spec)))
            except StoreError as error:
                self._problems.append(str(error))
        return [features for *_, features in sorted(found, key=lambda item: item[:2], reverse=True)]

    @property
    def problems(self) -> list[str]:
        """Damaged files that are not read, one line each."""
        return self._problems + [problem for features in self._opened.values() for problem in features.problems]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the store."""
        total = 0
        for folder, _, names in os.walk(self.path):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_size
                except OSError:  # another process has just renamed or removed the file
                    continue
        return total

    def _folders(self) -> list[Path]:
        return [folder for folder in encoder_folders(self.path) if (folder / RECORD).is_file()]


def folder_name(spec: EncoderSpec) -> str:
    """`<architecture>-<first 12 digits of the key>`; of the architecture's last component, characters that file systems allow."""
    name = re.split(r"[/\\]", spec.architecture.rstrip("/\\"))[-1]
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name).strip('.')[:64] or 'encoder'}-{spec.key[:12]}"
