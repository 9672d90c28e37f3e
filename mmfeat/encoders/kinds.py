"""Encoder kinds: the interface that image networks, text networks, TF-IDF and imported embeddings implement.

Each `[encoder.NAME]` table has one kind. Its settings class (:mod:`mmfeat.config.encoder_tables`) states facts; the
:class:`EncoderKind` finds samples, builds encoders and writes them into an exported model. A new kind is one module with a
settings class, an :class:`~mmfeat.encoders.encoder.Encoder` and an `EncoderKind` under `@register_encoder_kind`. A package
adds such a module through an entry point of the group `mmfeat.encoders`; docs/how-to/extend.md has an example.

This module does not import torch: kinds import libraries inside their methods.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from mmfeat.common.errors import EncoderError
from mmfeat.common.json_shapes import Shape
from mmfeat.common.plugins import Registry
from mmfeat.config.encoder_tables import (
    ENCODER_TABLES,
    GROUP,
    MODALITY_TABLES,
    EncoderTable,
    encoder_table_class,
    register_encoder_table,
)
from mmfeat.config.schema import Config

if TYPE_CHECKING:
    from torch import Tensor

    from mmfeat.data.images.image_sources import ImageSources
    from mmfeat.data.images.kept_bytes import KeptBytes
    from mmfeat.data.manifest import Manifest
    from mmfeat.data.row_keys import DigestMemory, RowKeys
    from mmfeat.encoders.built_encoders import BuiltEncoders
    from mmfeat.encoders.checkpoint import Checkpoint
    from mmfeat.encoders.description import Description
    from mmfeat.encoders.encoder import Encoder
    from mmfeat.encoders.front import View
    from mmfeat.encoders.resolve import Identity
    from mmfeat.store import FeatureStore

WEIGHTS = "weights.safetensors"  # an exported encoder's file of weights
_GPU_BATCHES = 8  # factor of the batch size on a GPU


class SampleHost(Protocol):
    """The interface through which kinds read the samples of a project, or new samples to predict."""

    @property
    def config(self) -> Config:
        """The settings; relative paths start at `config.root`."""

    @property
    def manifest(self) -> Manifest:
        """Ids, names of images and captions of the rows."""

    @property
    def sources(self) -> ImageSources:
        """The folders and archives of images."""

    @property
    def digests(self) -> DigestMemory | None:
        """The cache of image digests; None if every image is to be read."""

    @property
    def kept_bytes(self) -> KeptBytes:
        """Images' bytes that were read for their row keys and not decoded yet."""

    def image_reader(self) -> Callable[[int], bytes]:
        """Row to its image's bytes."""


class EncoderHost(Protocol):
    """The interface through which kinds read a project to identify an encoder."""

    @property
    def config(self) -> Config:
        """The settings."""

    @property
    def store(self) -> FeatureStore:
        """The feature store."""

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""

    @property
    def memory(self) -> Path:
        """The folder of caches."""

    built_encoders: BuiltEncoders


class EncoderKind:
    """Base class of encoder kinds. Kinds of one modality find samples in the same way: derive one from the other.

    Attributes
    ----------
    settings : type of EncoderTable
        The dataclass of its `[encoder.NAME]` table.
    recognition_order : int
        If several kinds recognise a model's name, the lowest number wins.
    remembered : bool
        Whether a project caches row keys, so that features of a deleted sample are still found.
    decoded : bool
        Whether samples are decoded by mmfeat's image decoder, whose version is recorded with the features.
    by_length : bool
        Whether samples of similar length share a batch, which saves padding.
    batch_size : int
        Batch size on a CPU, small enough for its caches.
    batch_sizes : tuple of int
        The sizes that `mmfeat extract --tune` measures.
    reads : str
        The plural noun for samples, for messages.
    fits : str
        The noun for the fitted part of an encoder (such as `vocabulary`), for messages.
    faster_decoding : str
        Advice besides more CPU cores if preparing samples limits the speed, as the end of a sentence.
    packages : tuple of str
        Distributions whose version may change an encoder.
    record_shape : Shape
        The shape of its record in an exported model, without modality, width, key and precision.
    """

    settings: ClassVar[type[EncoderTable]]
    recognition_order: ClassVar[int] = 50
    remembered: ClassVar[bool] = False
    decoded: ClassVar[bool] = False
    by_length: ClassVar[bool] = False
    batch_size: ClassVar[int] = 16
    batch_sizes: ClassVar[tuple[int, ...]] = (8, 16, 32, 64, 128, 256)
    reads: ClassVar[str] = "samples"
    fits: ClassVar[str] = "fit"
    faster_decoding: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    record_shape: ClassVar[Shape] = {}

    @property
    def name(self) -> str:
        """The kind's name in records."""
        return self.settings.kind

    @property
    def modality(self) -> str:
        """The modality of its samples."""
        return self.settings.modality

    # samples

    def source(self, table: EncoderTable) -> str:
        """The place of a table's samples, if the table has one; encoders with the same source share row keys.

        Not for remembered kinds.
        """
        return ""

    def row_keys(self, host: SampleHost, source: str) -> RowKeys:
        """The row keys of all rows, which are digests of the samples' bytes. Rows without a sample are not present."""
        raise NotImplementedError(f"{type(self).__name__}.row_keys")

    def reader(self, host: SampleHost, source: str) -> Callable[[int], Any]:
        """A function from a row to its sample, the argument of the encoder's `prepare`.

        The function raises :class:`~mmfeat.encoders.batches.UnreadSample` if the sample cannot be read or has another row
        key.
        """
        raise NotImplementedError(f"{type(self).__name__}.reader")

    def length(self, sample: Any) -> int:
        """The length by which samples are sorted before batching, if `by_length`."""
        return len(sample)

    def lengths(self, host: SampleHost) -> Callable[[int], int] | None:
        """A function from a row to the length of its sample; None if the order of rows does not matter."""
        return None

    def given(self, sample: Any) -> Any:
        """Convert a sample that is passed to `Predictor` to the argument of `prepare`; called in worker threads.

        Raises
        ------
        UndecodableSample, UnreadSample
            The sample cannot be decoded, or cannot be read (:mod:`mmfeat.encoders.batches`).
        """
        return sample

    def generated(self, preparation: Any) -> list[Any]:
        """Prepared samples that are made up, to measure engines on; empty if the kind has none."""
        return []

    def any_given(self, ids: list[str], images: list[str], captions: list[str]) -> bool:
        """Whether any new sample, from a table or by name, may have this modality."""
        return True

    def usual_batch_size(self, device_type: str) -> int:
        """The batch size if none was measured."""
        return self.batch_size * (1 if device_type == "cpu" else _GPU_BATCHES)

    def recorded(self, config: Config) -> dict[str, str | int]:
        """Settings outside of the encoder's table that each segment of features records."""
        return {}

    # encoders

    def recognises(self, model: str) -> bool:
        """Whether a model's name, given without a modality, belongs to this kind."""
        return False

    def build(self, config: Config, name: str) -> Encoder:
        """Build the pretrained encoder of `[encoder.NAME]`, on the CPU.

        Raises
        ------
        EncoderError
            It cannot be built.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")

    def identify(self, host: EncoderHost, name: str, *, pretrained_only: bool = False) -> Identity:
        """The keys of an encoder; `pretrained_only` ignores checkpoints.

        Raises
        ------
        EncoderError
            It cannot be built.
        """
        from mmfeat.encoders.resolve import identify

        memory = host.memory / ("pretrained.json" if pretrained_only else "encoders.json")
        return identify(
            host.config, name, host.checkpoints, memory, pretrained_only=pretrained_only, built=host.built_encoders
        )

    def known(self, host: EncoderHost, name: str) -> Identity | None:
        """The keys of an encoder if they are known without building it."""
        from mmfeat.encoders.resolve import known_identity

        return known_identity(host.config, name, host.checkpoints, host.memory / "encoders.json")

    def describe(self, table: Any, folder: Path) -> Description:
        """The description that `mmfeat encoders` lists for a table; relative paths start at `folder`."""
        from mmfeat.encoders.description import Description

        return Description(table.model or self.name, self.modality, source=self.name)

    # fitting

    def fit(self, table: Any, samples: list[Any]) -> Encoder:
        """Fit an encoder on the samples of the training rows; only if the kind is `fitted`."""
        raise NotImplementedError(f"{type(self).__name__}.fit")

    def restore(self, checkpoint: Checkpoint, table: Any) -> Encoder:
        """Load a fitted encoder from its checkpoint; only if the kind is `fitted`."""
        raise NotImplementedError(f"{type(self).__name__}.restore")

    def fit_settings(self, table: Any) -> dict[str, Any]:
        """The settings that must equal those of a checkpoint for the table to use it, as JSON values."""
        return {}

    def fit_record(self, encoder: Encoder) -> dict[str, Any]:
        """The values of a fitted encoder that its checkpoint records, as JSON values."""
        return {}

    def fitted_what(self, encoder: Encoder) -> str:
        """A short description of the fitted encoder, such as `512 terms`."""
        return self.name

    def untunable(self, name: str) -> str:
        """The error of `mmfeat finetune NAME` without `--freeze`, if the kind is not tunable."""
        return f"encoder.{name}: {self.name} cannot be fine-tuned, only a linear probe can be fitted on its embeddings."

    def training_loader(
        self, read: Callable[[int], Any], encoder: Encoder, config: Config, name: str
    ) -> tuple[Callable[[int, int | None, int], Any], int]:
        """The loader of fine-tuning, and the encoder's image size in pixels (0 for other modalities).

        The loader takes a row, an augmentation number or None, and an image size or 0. It returns the prepared sample; a
        number selects a random variant, deterministically.
        """
        return lambda row, number, size: encoder.prepare(read(row)), 0

    def views(self, config: Config, name: str) -> list[View]:
        """The fixed views of a sample that fine-tuning from cached layers draws from; the first is the sample itself."""
        from mmfeat.encoders.front import View

        return [View()]

    def read_besides(self, config: Config) -> dict[str, Any]:
        """Inputs of fine-tuning besides its settings and the samples, as JSON values."""
        return {}

    # exported models

    def save_preparation(self, encoder: Encoder, folder: Path) -> dict[str, Any]:
        """Write the files for :meth:`load_preparation` into an exported encoder's folder; returns the record."""
        return {"kind": self.name, "modality": self.modality, "width": encoder.width}

    def load_preparation(self, record: dict[str, Any], folder: Path) -> Any:
        """Load the preparation of samples that :meth:`save_preparation` wrote."""
        raise NotImplementedError(f"{type(self).__name__}.load_preparation")

    def save_network(self, encoder: Encoder, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors for the file :data:`WEIGHTS`, and additional values of the record."""
        from mmfeat.encoders.weights import read_tensors

        return read_tensors(encoder), {}

    def load_encoder(self, name: str, record: dict[str, Any], folder: Path) -> Encoder:
        """Load the encoder of an exported folder, in eval mode on the CPU, with float32 weights."""
        raise NotImplementedError(f"{type(self).__name__}.load_encoder")

    def onnx_example(self, encoder: Encoder) -> tuple[dict[str, Tensor], dict[int, Any]]:
        """Example inputs for tracing the network, and its dynamic axes. A kind without it can only be exported for torch."""
        raise NotImplementedError(f"{type(self).__name__}.onnx_example")


Kind = TypeVar("Kind", bound=type[EncoderKind])

_KINDS: Registry[EncoderKind] = Registry("encoder kind", GROUP, like=ENCODER_TABLES)


def register_encoder_kind(cls: Kind) -> Kind:
    """Class decorator: register a kind and its settings class."""
    register_encoder_table(cls.settings)
    _KINDS.register(cls.settings.kind, cls())
    return cls


def encoder_kinds() -> dict[str, EncoderKind]:
    """All kinds by name, including those of installed packages."""
    _built_in()
    return dict(_KINDS)


def encoder_kind(name: str) -> EncoderKind:
    """A kind by its name.

    Raises
    ------
    EncoderError
        The name is unknown.
    """
    _built_in()
    try:
        return _KINDS[name]
    except KeyError:
        raise EncoderError(
            f"no encoder kind {name!r}. Install the package that provides it. Known: {', '.join(_KINDS)}"
        ) from None


def recognised_modality(model: str) -> str:
    """The modality of a model's name; empty if no kind recognises it. Models of timm and torchvision take images."""
    kinds = sorted(encoder_kinds().values(), key=lambda kind: kind.recognition_order)
    return next((kind.modality for kind in kinds if kind.recognises(model)), "")


def kind_of(table: EncoderTable) -> EncoderKind:
    """The kind of an `[encoder.NAME]` table."""
    return encoder_kind(table.kind)


def modality_kind(modality: str) -> EncoderKind:
    """The first kind of a modality, which knows how to find its samples.

    Raises
    ------
    EncoderError
        No kind has this modality.
    """
    if modality not in MODALITY_TABLES:
        raise EncoderError(f"no encoder kind for the modality {modality!r}. Install the package that has it")
    return encoder_kind(MODALITY_TABLES[modality].kind)


def kind_of_record(record: dict[str, Any]) -> EncoderKind:
    """The kind of an exported encoder. For built-in kinds it follows from the record's modality and model.

    Raises
    ------
    EncoderError
        The kind is unknown.
    """
    if "kind" in record:
        return encoder_kind(str(record["kind"]))
    table = encoder_table_class(record["modality"], {"model": record.get("model", "")})
    if table is None:
        raise EncoderError(f"no encoder kind for the modality {record['modality']!r}. Install the package that has it")
    return kind_of(table)


def _built_in() -> None:
    """Register mmfeat's own kinds, which import their libraries only on use."""
    from mmfeat.encoders.families import image_kind, imported_kind, text_kind, tfidf_kind  # noqa: F401
