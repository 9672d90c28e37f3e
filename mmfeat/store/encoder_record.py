"""encoder.json: the record of the encoder in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import StoreError
from mmfeat.common.seals import read_sealed, write_sealed
from mmfeat.store.commits import FOLDER_NAME, FORMAT, now, refuse_newer
from mmfeat.store.keys import EncoderSpec

RECORD = "encoder.json"


@dataclass(frozen=True)
class EncoderRecord:
    """The specification of an encoder, the width of its embeddings, and when its folder was made."""

    spec: EncoderSpec
    width: int
    created: str


def encoder_folders(store: Path) -> list[Path]:
    """All folders of encoders in a store, in any state."""
    try:
        return [path for path in sorted(store.iterdir()) if FOLDER_NAME.search(path.name) and path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{store}: cannot be read: {error.strerror or error}") from None


def read_record(folder: Path) -> EncoderRecord:
    """Read encoder.json.

    Raises
    ------
    FileNotFoundError
        The record does not exist.
    StoreError
        It is damaged, belongs to another encoder, or was written by a newer mmfeat.
    """
    file = folder / RECORD
    remedy = "Remove this file (the features stay) and run: mmfeat extract, or for imported ones mmfeat store import"
    try:
        values = read_sealed(file)
        refuse_newer(file, values["format"])
        spec, width, created = EncoderSpec.from_dict(values["spec"]), int(values["width"]), str(values["created"])
        record = EncoderRecord(spec, width, created)
        key = values["encoder_key"]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{file}: damaged ({type(error).__name__}). {remedy}") from None
    if key != record.spec.key or not folder.name.endswith(f"-{key[:12]}"):
        raise StoreError(f"{file}: damaged: its key does not match its content. {remedy}")
    return record


def write_record(folder: Path, spec: EncoderSpec, width: int) -> None:
    """Write encoder.json, or check that the existing one agrees.

    Raises
    ------
    StoreError
        The existing record has another width.
    OSError
        The folder cannot be written.
    """
    try:
        found = read_record(folder).width
    except FileNotFoundError:
        values = {"format": FORMAT, "created": now(), "encoder_key": spec.key, "width": width}
        write_sealed(folder / RECORD, {**values, "spec": spec.as_dict()})
        return
    if found != width:
        raise StoreError(f"{folder / RECORD}: has width {found}, and the encoder gives {width}. Remove that folder")
