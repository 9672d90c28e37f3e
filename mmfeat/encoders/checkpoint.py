"""Checkpoints: the folders checkpoints/NAME-1 that `mmfeat finetune` writes, as safetensors and JSON.

checkpoint.json contains the digests of the other files and of itself. The subfolder `last/` is a complete checkpoint of
the last epoch.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import EncoderError, one_line
from mmfeat.common.files import publish_folder, staging_folder
from mmfeat.common.json_shapes import ANYTHING, Number, Shape
from mmfeat.common.labels import class_positions
from mmfeat.common.lineage import Lineage
from mmfeat.common.seals import FILES, digest_of, read_record, seal_folder, write_sealed
from mmfeat.common.verified import damaged_file
from mmfeat.config.encoder_tables import encoder_table_class
from mmfeat.store.keys import EncoderSpec, output_key, tensors_digest

FORMAT = 1
RECORD = "checkpoint.json"
_ENCODER = "encoder.safetensors"
_OUTPUT = "output.safetensors"
_ROWS = "rows.safetensors"
_LAST = "last"
_SHAPE: dict[str, Shape] = {
    "classes": [str],
    "frozen": bool,
    "spec": {str: ANYTHING},
    "table": {"model": str},
    "fingerprint": str,
    "best_epoch": Number(int, low=0),
    "seconds": float,
    "?metric": str,
    "?val": ({str: ANYTHING}, None),
    "?made_on": {"versions": {str: ANYTHING}},
    "?terms": [str],
    "?stopped": str,
}
_REMEDY = "Remove the folder and run: mmfeat finetune"


@dataclass(frozen=True)
class LinearProbe:
    """An encoder's linear output: logits are `embeddings @ weight.T + bias`.

    Attributes
    ----------
    weight : np.ndarray
        `(K, D)` float32.
    bias : np.ndarray
        `(K,)` float32.
    classes : tuple of str
        The K class names, in the order of the rows.
    """

    weight: np.ndarray
    bias: np.ndarray
    classes: tuple[str, ...]

    @property
    def key(self) -> str:
        """The output key, under which logits are stored."""
        arrays = {"weight": self.weight, "bias": self.bias}
        items = ((name, str(a.dtype), a.shape, np.ascontiguousarray(a).tobytes()) for name, a in sorted(arrays.items()))
        return output_key(tensors_digest(items), self.classes)

    def in_order_of(self, classes: Sequence[str]) -> LinearProbe:
        """The same probe with its rows in the order of `classes`; its key changes.

        Raises
        ------
        ValueError
            `classes` are not the probe's classes.
        """
        at = class_positions(self.classes, classes)
        if at is None:
            raise ValueError(
                f"the linear probe has {len(self.classes)} classes, which are not the given {len(classes)}"
            )
        return LinearProbe(self.weight[at], self.bias[at], tuple(classes))

    def logits(self, embeddings: np.ndarray) -> np.ndarray:
        """Compute logits `(N, K)` float32 of embeddings `(N, D)`."""
        return embeddings.astype(np.float32, copy=False) @ self.weight.T + self.bias


@dataclass(frozen=True)
class LastEpoch:
    """The last epoch of a fine-tuning whose best epoch is another one; saved as a checkpoint in `last/`."""

    spec: dict[str, Any]
    epoch: int
    output: LinearProbe
    tensors: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder; `record` is the content of its checkpoint.json."""

    folder: Path
    record: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """The folder's name, such as `image-1` or `image-1/last`."""
        return f"{self.folder.parent.name}/{_LAST}" if self.folder.name == _LAST else self.folder.name

    @property
    def frozen(self) -> bool:
        """Whether only a linear probe was fitted, on the pretrained encoder."""
        return self.record["frozen"]

    @property
    def front(self) -> dict[str, Any]:
        """The front that was not trained: `trained` stages after it, and the front `keys` of its cached layers, if any."""
        return self.record.get("front", {"trained": 0, "keys": []})

    @property
    def label_free(self) -> bool:
        """Whether its embeddings carry no label information: the encoder is pretrained, or was fitted without labels."""
        return fitted_without_labels(self.record)

    @property
    def encoder_key(self) -> str:
        """The key of the encoder that the linear probe was fitted on."""
        return EncoderSpec.from_dict(self.record["spec"]).key

    @property
    def encoder_file(self) -> Path:
        """The file of the fine-tuned tensors; it exists only if not `frozen`."""
        return self.folder / _ENCODER

    def output(self) -> LinearProbe:
        """Load the linear probe.

        Raises
        ------
        EncoderError
            The file is missing or damaged.
        """
        from safetensors.numpy import load_file

        try:
            self._check(_OUTPUT)
            tensors = load_file(self.folder / _OUTPUT)
            output = LinearProbe(tensors["weight"], tensors["bias"], self.classes)
            n = len(output.classes)
            if output.weight.ndim != 2 or len(output.weight) != n or output.bias.shape != (n,):
                raise ValueError("the shapes of its tensors do not match its classes")
            if not all(a.dtype == np.float32 and np.isfinite(a).all() for a in (output.weight, output.bias)):
                raise ValueError("its tensors are not finite float32 values")
            return output
        except Exception as error:  # safetensors has an exception of its own for each kind of damage
            raise EncoderError(f"{self.folder / _OUTPUT}: damaged: {one_line(error)}. {_REMEDY}") from None

    def tensors(self) -> dict[str, Any]:
        """Load the fine-tuned encoder's tensors; only if not `frozen`.

        Raises
        ------
        EncoderError
            The file is missing or damaged.
        """
        from mmfeat.encoders.weights import read_state

        try:
            self._check(_ENCODER)
            return read_state(self.encoder_file)
        except ValueError as error:
            raise EncoderError(f"{self.encoder_file}: damaged: {error}. {_REMEDY}") from None
        except EncoderError as error:
            raise EncoderError(f"{error}. {_REMEDY}") from None

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits' columns."""
        return tuple(self.record["classes"])

    @property
    def sealed(self) -> bool:
        """Whether its record contains the digests of its files; checkpoints of version 0.1.0 do not."""
        return FILES in self.record

    @property
    def complete(self) -> bool:
        """Whether all files exist and, if it is sealed, are unchanged."""
        names = self._names()
        if self.sealed:
            return not damaged_file(self.folder, self.record[FILES], names)[0]
        return all((self.folder / name).is_file() for name in names)

    def damage(self) -> str:
        """Describe the first damaged file in one line; empty if there is none."""
        if self.sealed:
            name, why = damaged_file(self.folder, self.record[FILES])
            return f"{self.folder / name}: damaged: {why}. {_REMEDY}" if name else ""
        gone = [name for name in self._names() if not (self.folder / name).is_file()]
        return f"{self.folder / gone[0]}: missing. {_REMEDY}" if gone else ""

    def _names(self) -> tuple[str, ...]:
        """Names of its files, without the record."""
        return _OUTPUT, _ROWS, *(() if self.frozen else (_ENCODER,))

    def _check(self, name: str) -> None:
        """Raise ValueError if a file has changed since the checkpoint was written."""
        if self.sealed and (why := damaged_file(self.folder, self.record[FILES], [name])[1]):
            raise ValueError(why)

    def learned(self) -> Lineage:
        """The training rows, and the rows that the epoch was selected on.

        Raises
        ------
        EncoderError
            The file is missing or damaged.
        """
        from safetensors.numpy import load_file

        file = self.folder / _ROWS
        try:
            self._check(_ROWS)
            rows = load_file(file)
            if any(rows[name].ndim != 1 or rows[name].dtype != np.uint64 for name in ("trained", "chosen")):
                raise ValueError("its rows are not hashes of ids")
            taught = {"taught": rows["taught"].reshape(-1, 2)} if "taught" in rows else {}
            return Lineage(rows["trained"], rows["chosen"], **taught)
        except Exception as error:  # safetensors has an exception of its own for each kind of damage
            command = f"mmfeat finetune {self.name.rpartition('-')[0]}" + (" --freeze" if self.frozen else "")
            raise EncoderError(
                f"{file}: cannot be read: {error}. The rows that it was trained on are unknown. Run: {command}"
            ) from None


def save_checkpoint(
    parent: Path,
    name: str,
    record: dict[str, Any],
    *,
    output: LinearProbe,
    tensors: dict[str, Any] | None,
    learned: Lineage | None = None,
    last: LastEpoch | None = None,
) -> Checkpoint:
    """Write `parent/NAME-<next number>`, atomically.

    Parameters
    ----------
    record : dict
        Metrics, settings and the encoder's spec as JSON values; format, classes and `frozen` are added.
    output : LinearProbe
        The linear probe.
    tensors : dict of torch.Tensor, optional
        The fine-tuned encoder; None if it is frozen.
    learned : Lineage, optional
        The rows that it was fitted on. Without them, its metrics cannot be trusted.
    last : LastEpoch, optional
        The last epoch, to save in `last/`.
    """
    record = {"format": FORMAT, "frozen": tensors is None, "classes": list(output.classes), **record}
    with staging_folder(parent) as staged:
        record = _write(staged, record, output=output, tensors=tensors, learned=learned)
        if last is not None:
            (staged / _LAST).mkdir()
            own = {**record, "spec": last.spec, "best_epoch": last.epoch, "val": None}
            _write(staged / _LAST, own, output=last.output, tensors=last.tensors, learned=learned)
        return Checkpoint(publish_folder(staged, parent, name), record)


def _write(
    folder: Path,
    record: dict[str, Any],
    *,
    output: LinearProbe,
    tensors: dict[str, Any] | None,
    learned: Lineage | None,
) -> dict[str, Any]:
    """Write the files of a checkpoint; returns its sealed record."""
    from safetensors.numpy import save_file as save_arrays

    save_arrays({"weight": output.weight, "bias": output.bias}, folder / _OUTPUT)
    if learned is not None:
        rows = {"trained": learned.training, "chosen": learned.selection, "taught": learned.taught}
        save_arrays(
            {name: numbers for name, numbers in rows.items() if name != "taught" or len(numbers)}, folder / _ROWS
        )
    if tensors is not None:
        from safetensors.torch import save_file

        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / _ENCODER)
    return seal_folder(folder, RECORD, record)


def copy_checkpoint(
    checkpoint: Checkpoint, name: str, parent: Path | None = None, more: dict[str, Any] | None = None
) -> Checkpoint:
    """Copy a checkpoint, atomically, under the next number of `name`, so that the copy is the latest.

    The copy is sealed; the digests of a sealed checkpoint stay the same.

    Parameters
    ----------
    parent : Path, optional
        The folder of the copy; by default that of the checkpoint.
    more : dict, optional
        Values to add to the record.

    Raises
    ------
    EncoderError
        A file of the checkpoint is missing or damaged.
    """
    parent, record = parent or checkpoint.folder.parent, {**checkpoint.record, **(more or {})}
    if why := checkpoint.damage():
        raise EncoderError(why)
    with staging_folder(parent) as staged:
        shutil.copytree(checkpoint.folder, staged, dirs_exist_ok=True)
        if checkpoint.sealed:
            if any(digest_of(staged / name) != wanted for name, wanted in record[FILES].items()):
                raise EncoderError(f"{checkpoint.folder}: was changed while it was copied. Run the command again")
            write_sealed(staged / RECORD, record)
        else:
            record = seal_folder(staged, RECORD, record, checkpoint._names())
        return Checkpoint(publish_folder(staged, parent, name), record)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint's record.

    Raises
    ------
    EncoderError
        The folder has no checkpoint, or one that is damaged or was written by a newer mmfeat.
    """
    file = folder / RECORD
    try:
        record = read_record(file, FORMAT, _SHAPE, _REMEDY)
    except FileNotFoundError:
        raise EncoderError(f"{folder}: no checkpoint there (no {RECORD}). Run: mmfeat finetune") from None
    except ValueError as error:
        raise EncoderError(str(error)) from None
    try:
        EncoderSpec.from_dict(record["spec"])
    except (TypeError, ValueError) as error:
        raise EncoderError(f"{file}: damaged: {one_line(error)}. {_REMEDY}") from None
    return Checkpoint(folder, record)


def fitted_without_labels(record: dict[str, Any]) -> bool:
    """Whether the encoder of a checkpoint's record is pretrained, or was fitted without labels."""
    table = record.get("table", {})
    kind = encoder_table_class(str(table.get("modality", record.get("modality"))), table)
    return bool(record.get("frozen")) or (kind is not None and kind.label_free)


def checkpoints_of(parent: Path, name: str) -> list[Checkpoint]:
    """All checkpoints of one encoder, newest first."""
    if not parent.is_dir():
        return []
    numbered = [
        (int(m[1]), path) for path in parent.iterdir() if (m := re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name))
    ]
    return [read_checkpoint(path) for _, path in sorted(numbered, reverse=True)]
