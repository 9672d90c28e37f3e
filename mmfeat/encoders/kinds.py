"""Encoder kinds: what differs between an image network, a text network, TF-IDF, imported embeddings, and kinds to come.

An `[encoder.NAME]` table is of one kind. Its settings class (:mod:`mmfeat.config.encoder_tables`) states facts; the
:class:`EncoderKind` here finds samples, builds encoders and writes them into an exported model. A new kind is one module:
a settings class, an :class:`~mmfeat.encoders.encoder.Encoder` and an `EncoderKind` under `@register_encoder_kind`. A
package brings that module by an entry point of the group `mmfeat.encoders`; docs/how-to/extend.md has an example.

Nothing here imports torch: kinds import what they need in their methods.
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
    from mmfeat.data.manifest import Manifest
    from mmfeat.data.row_keys import DigestMemory, RowKeys
    from mmfeat.encoders.built_encoders import BuiltEncoders
    from mmfeat.encoders.checkpoint import Checkpoint
    from mmfeat.encoders.description import Description
    from mmfeat.encoders.encoder import Encoder
    from mmfeat.encoders.resolve import Identity
    from mmfeat.store import FeatureStore

WEIGHTS = "weights.safetensors"  # an exported encoder's file of weights
_GPU_BATCHES = 8  # times as many samples in a batch on a GPU


class SampleHost(Protocol):
    """What kinds read of a project's samples, or of new samples that are predicted."""

    @property
    def config(self) -> Config:
        """The settings; relative paths start at its `root`."""

    @property
    def manifest(self) -> Manifest:
        """Ids, names of images and captions of the rows."""

    @property
    def sources(self) -> ImageSources:
        """Where the images are."""

    @property
    def digests(self) -> DigestMemory | None:
        """Remembered digests of images; None: every image is read."""

    def image_reader(self) -> Callable[[int], bytes]:
        """Row to its image's bytes."""


class EncoderHost(Protocol):
    """What kinds read of a project to identify an encoder."""

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
        """A folder for what is only remembered."""

    built_encoders: BuiltEncoders


class EncoderKind:
    """One kind of encoder. Kinds of one modality share how its samples are found: derive one from the other.

    Attributes
    ----------
    settings : type of EncoderTable
        The dataclass of its `[encoder.NAME]` table.
    recognition_order : int
        Where several kinds recognise a model's name, the lowest number wins.
    remembered : bool
        Whether a project remembers row keys, so that features of a sample that is gone are still found.
    decoded : bool
        Whether samples are decoded by mmfeat's image decoder, whose version is recorded with the features.
    by_length : bool
        Whether samples of like length share a batch, which saves padding.
    batch_size : int
        Samples that are encoded at a time on a CPU: few enough to stay in its caches.
    batch_sizes : tuple of int
        Those that `mmfeat extract --tune` measures.
    reads : str
        The plural of a sample, for messages.
    fits : str
        What a fitted kind fits on the training samples, for messages.
    faster_decoding : str
        What else than more CPU cores would help where reading and preparing samples is the limit.
    packages : tuple of str
        Distributions whose version decides what an encoder is.
    record_shape : Shape
        What its record in an exported model holds beside modality, width, key and precision.
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
        """What records call it."""
        return self.settings.kind

    @property
    def modality(self) -> str:
        """What its samples are."""
        return self.settings.modality

    # samples

    def source(self, table: EncoderTable) -> str:
        """Where a table's samples lie, if the table says so; encoders of one source share row keys. Not for remembered kinds."""
        return ""

    def row_keys(self, host: SampleHost, source: str) -> RowKeys:
        """What each row's features are filed under: a digest of the sample's bytes; rows without a sample are not present."""
        raise NotImplementedError(f"{type(self).__name__}.row_keys")

    def reader(self, host: SampleHost, source: str) -> Callable[[int], Any]:
        """Row to the sample that the encoder's `prepare` takes.

        It raises :class:`~mmfeat.encoders.batches.UnreadSample` where the sample cannot be read, or has another row key.
        """
        raise NotImplementedError(f"{type(self).__name__}.reader")

    def length(self, sample: Any) -> int:
        """By what samples are sorted before they are cut into batches, where `by_length`."""
        return len(sample)

    def lengths(self, host: SampleHost) -> Callable[[int], int] | None:
        """Row to the length of its sample; None where rows are encoded in any order."""
        return None

    def given(self, sample: Any) -> Any:
        """From what a caller of `Predictor` gives to what the encoder's `prepare` takes; called in worker threads.

        It raises :class:`~mmfeat.encoders.batches.UndecodableSample` or :class:`~mmfeat.encoders.batches.UnreadSample`.
        """
        return sample

    def any_given(self, ids: list[str], images: list[str], captions: list[str]) -> bool:
        """Whether new samples, given by a table or by name, may have any of this modality."""
        return True

    def usual_batch_size(self, device_type: str) -> int:
        """Samples that are encoded at a time, where nothing was measured."""
        return self.batch_size * (1 if device_type == "cpu" else _GPU_BATCHES)

    def recorded(self, config: Config) -> dict[str, str | int]:
        """Settings outside the table that are recorded with each segment of features."""
        return {}

    # encoders

    def recognises(self, model: str) -> bool:
        """Whether a model's name, given without a modality, is one of this kind."""
        return False

    def build(self, config: Config, name: str) -> Encoder:
        """The encoder of `[encoder.NAME]` as pretrained, on the CPU.

        Raises
        ------
        EncoderError
            It cannot be built.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")

    def identify(self, host: EncoderHost, name: str, *, pretrained_only: bool = False) -> Identity:
        """The keys of an encoder; `pretrained_only` leaves checkpoints aside.

        Raises
        ------
        EncoderError
            It cannot be built.
        """
        from mmfeat.encoders.resolve import identify

        memory = host.memory / ("pretrained.json" if pretrained_only else "encoders.json")
        return identify(
            host.config,
            name,
            host.checkpoints,
            memory,
            pretrained_only=pretrained_only,
            built=host.built_encoders,
        )

    def describe(self, table: Any, folder: Path) -> Description:
        """What `mmfeat encoders` lists of a table; relative paths start at `folder`."""
        from mmfeat.encoders.description import Description

        return Description(table.model or self.name, self.modality, source=self.name)

    # fitting

    def fit(self, table: Any, samples: list[Any]) -> Encoder:
        """The encoder fitted on the samples of the training rows; only where the kind is `fitted`."""
        raise NotImplementedError(f"{type(self).__name__}.fit")

    def restore(self, checkpoint: Checkpoint, table: Any) -> Encoder:
        """The encoder that was fitted and saved in a checkpoint; only where the kind is `fitted`."""
        raise NotImplementedError(f"{type(self).__name__}.restore")

    def fit_settings(self, table: Any) -> dict[str, Any]:
        """The settings that a checkpoint must have been made with to be of this table, as JSON values."""
        return {}

    def fit_record(self, encoder: Encoder) -> dict[str, Any]:
        """What a checkpoint's record keeps of a fitted encoder, as JSON values."""
        return {}

    def fitted_what(self, encoder: Encoder) -> str:
        """What was fitted, in a few words."""
        return self.name

    def untunable(self, name: str) -> str:
        """Why `mmfeat finetune NAME` without `--freeze` is refused, where the kind is not tunable."""
        return f"encoder.{name}: {self.name} has no fine-tuning end to end, only an output can be fitted on its embeddings."

    def training_loader(
        self, read: Callable[[int], Any], encoder: Encoder, config: Config, name: str
    ) -> tuple[Callable[[int, int | None, int], Any], int]:
        """What fine-tuning reads: (row, augmentation number or None, pixels or 0) to a prepared sample, and the encoder's size.

        With a number it is a random variant of the sample, as a function of the number. The size is that of images; 0
        where samples have none.
        """
        return lambda row, number, size: encoder.prepare(read(row)), 0

    def read_besides(self, config: Config) -> dict[str, Any]:
        """What fine-tuning depends on beside its own settings and the samples, as JSON values."""
        return {}

    # exported models

    def save_preparation(self, encoder: Encoder, folder: Path) -> dict[str, Any]:
        """Write what :meth:`load_preparation` reads into an exported encoder's folder; returns its record as JSON values."""
        return {"kind": self.name, "modality": self.modality, "width": encoder.width}

    def load_preparation(self, record: dict[str, Any], folder: Path) -> Any:
        """The preparation of samples that :meth:`save_preparation` wrote."""
        raise NotImplementedError(f"{type(self).__name__}.load_preparation")

    def save_network(self, encoder: Encoder, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors that go into :data:`WEIGHTS`, and what the record holds besides."""
        from mmfeat.encoders.weights import read_tensors

        return read_tensors(encoder), {}

    def load_encoder(self, name: str, record: dict[str, Any], folder: Path) -> Encoder:
        """The encoder of an exported folder, in eval mode on the CPU, its weights in float32."""
        raise NotImplementedError(f"{type(self).__name__}.load_encoder")

    def onnx_example(self, encoder: Encoder) -> tuple[dict[str, Tensor], dict[int, Any]]:
        """Inputs to trace the network with, by name, and the axes that may have other lengths; a kind without it is for torch alone."""
        raise NotImplementedError(f"{type(self).__name__}.onnx_example")


Kind = TypeVar("Kind", bound=type[EncoderKind])

_KINDS: Registry[EncoderKind] = Registry("encoder kind", GROUP, like=ENCODER_TABLES)


def register_encoder_kind(cls: Kind) -> Kind:
    """Class decorator: make a kind, and its settings class, known to mmfeat."""
    register_encoder_table(cls.settings)
    _KINDS.register(cls.settings.kind, cls())
    return cls


def encoder_kinds() -> dict[str, EncoderKind]:
    """All kinds by name, those of installed packages too."""
    _built_in()
    return dict(_KINDS)


def encoder_kind(name: str) -> EncoderKind:
    """A kind by its name.

    Raises
    ------
    EncoderError
        There is none.
    """
    _built_in()
    try:
        return _KINDS[name]
    except KeyError:
        raise EncoderError(
            f"no encoder kind {name!r}. Install the package that has it. Known: {', '.join(_KINDS)}"
        ) from None


def kind_of(table: EncoderTable) -> EncoderKind:
    """The kind of an `[encoder.NAME]` table."""
    return encoder_kind(table.kind)


def modality_kind(modality: str) -> EncoderKind:
    """The first kind of a modality, which knows its samples.

    Raises
    ------
    EncoderError
        There is none.
    """
    if modality not in MODALITY_TABLES:
        raise EncoderError(f"no encoder kind for the modality {modality!r}. Install the package that has it")
    return encoder_kind(MODALITY_TABLES[modality].kind)


def kind_of_record(record: dict[str, Any]) -> EncoderKind:
    """The kind of an exported encoder. Records of built-in kinds do not name it: modality and model tell.

    Raises
    ------
    EncoderError
        There is no such kind.
    """
    if "kind" in record:
        return encoder_kind(str(record["kind"]))
    table = encoder_table_class(record["modality"], {"model": record.get("model", "")})
    if table is None:
        raise EncoderError(f"no encoder kind for the modality {record['modality']!r}. Install the package that has it")
    return kind_of(table)


def _built_in() -> None:
    """Register the kinds of mmfeat; they import no library before they are used."""
    from mmfeat.encoders.families import image_kind, imported_kind, text_kind, tfidf_kind  # noqa: F401
