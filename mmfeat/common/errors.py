"""The exceptions of mmfeat, as one tree.

    MmfeatError
    |-- ConfigError      mmfeat.toml, an option, a project folder
    |-- DataError        a source table, an archive, the manifest
    |-- EncoderError     a model's name, its weights, a checkpoint
    |-- StoreError       the feature store on disk
    |   |-- MissingFeatures   a command needs rows that are not in the store
    |   `-- UnstorableRow     an embedding is not finite, or too large (in store/storable.py)
    |-- RunError         a head, a run, an ensemble
    `-- OutputError      a file that a command would write

A message is one line: what, where, what was found, what to type. The command line prints it and exits 1.
"""


class MmfeatError(Exception):
    """Any error whose message is meant for the user."""


class ConfigError(MmfeatError):
    """A setting is unknown, of the wrong type or out of range, or the folder is not a project."""


class DataError(MmfeatError):
    """A source, an archive or the manifest is invalid."""


class EncoderError(MmfeatError):
    """An encoder cannot be built, loaded or used."""


class StoreError(MmfeatError):
    """The feature store cannot be read or written."""


class MissingFeatures(StoreError):
    """The store lacks rows that a command needs."""


class RunError(MmfeatError):
    """A run cannot be trained, found or used."""


class OutputError(MmfeatError):
    """An output file exists and must not be replaced, or cannot be written."""


def one_line(error: BaseException) -> str:
    """An exception's message on one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
