"""`[encoder.NAME]`: one settings dataclass for each encoder kind, and their registry.

A settings class also states facts about its kind that need no library. Code that needs one (samples, networks, files) is
in :mod:`mmfeat.encoders.kinds`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mmfeat.common.plugins import Registry, load_plugins
from mmfeat.common.text import shown_value
from mmfeat.config.fields import setting
from mmfeat.config.model_titles import folder_title

GROUP = "mmfeat.encoders"  # entry point group of packages that add encoder kinds
PATH_MARKS = (".", "~", "/")  # how a model that is named by its path begins
TFIDF = "tfidf"  # the model of text encoders whose vocabulary is fitted on the training captions
MAX_PIXELS = 4096  # largest side of an encoder's input image

MIXED = "mixed"  # the precision class in which any of bfloat16, float16 and TF32 may compute
_PRECISIONS = ("float32", MIXED, "bfloat16", "float16")


def is_path(model: str) -> bool:
    """Whether a model is named by its path; otherwise its name is one of timm, torchvision or a hub."""
    return model.startswith(PATH_MARKS)


class EncoderTable:
    """Base class of the settings of an encoder. A subclass is a frozen dataclass with `checkpoint` and `modality` fields.

    Attributes
    ----------
    kind : str
        The name of the encoder kind.
    sample : str
        The noun for one sample of the modality, for messages.
    present : str
        The noun phrase for a sample that a row has, for messages.
    network : bool
        Whether it is a neural network of known size; False for a vocabulary and for imported embeddings.
    tunable : bool
        Whether `mmfeat finetune` trains it end to end.
    fitted : bool
        Whether it is fitted on the training samples before it can encode anything, as a vocabulary is.
    label_free : bool
        Whether fitting it reads no label, so that its embeddings carry none.
    made_elsewhere : bool
        Whether its embeddings are imported: rows are identified by their ids, and mmfeat cannot encode samples.
    by_id : bool
        Whether a row's sample is looked up by the row's id, so that a table of samples needs no column for it.
    bare : str
        The adjective for an encoder without a checkpoint, for messages.
    augmentation_keys : tuple of str
        Keys of mmfeat.toml outside its tables that its fine-tuning reads.
    in_new_tables : dict of str to bool or str
        Settings that mmfeat writes into new tables. Their defaults are those of older versions, whose keys stay valid.
    """

    kind: ClassVar[str]
    sample: ClassVar[str] = "sample"
    present: ClassVar[str] = "a sample"
    network: ClassVar[bool] = True
    tunable: ClassVar[bool] = True
    fitted: ClassVar[bool] = False
    label_free: ClassVar[bool] = False
    made_elsewhere: ClassVar[bool] = False
    by_id: ClassVar[bool] = False
    bare: ClassVar[str] = "pretrained"
    augmentation_keys: ClassVar[tuple[str, ...]] = ()
    in_new_tables: ClassVar[dict[str, bool | str]] = {}
    # defaults for kinds that do not have these settings as fields
    modality: str = ""
    model: str = ""
    pretrained: str = "auto"
    checkpoint: str = "latest"
    precision: str = "float32"
    tokens: int = 0

    @classmethod
    def takes(cls, modality: str, raw: dict[str, Any]) -> bool:
        """Whether a table with this modality and these keys belongs to this kind."""
        return modality == cls.modality

    def wrong(self, name: str) -> tuple[str, str] | None:
        """The first key with an invalid value, and the message; None if all are valid. `name` is the encoder's name."""
        return None

    @property
    def short_model(self) -> str:
        """The model's name in tables of results."""
        return Path(self.model).name

    def title(self, root: Path) -> str:
        """The model's name in every output; of a folder, a name that says something. Relative paths start at `root`."""
        return folder_title(root / Path(self.model).expanduser()) if is_path(self.model) else self.short_model

    @property
    def files(self) -> tuple[str, ...]:
        """Settings that may name a file or a folder."""
        return ()

    @classmethod
    def remedy(cls, name: str) -> str:
        """The command that adds an encoder's missing embeddings to the store."""
        return "mmfeat extract"


Table = TypeVar("Table", bound=type[EncoderTable])

ENCODER_TABLES: Registry[type[EncoderTable]] = Registry("encoder kind", GROUP)
MODALITY_TABLES: Registry[type[EncoderTable]] = Registry("modality", GROUP)  # of each modality, its first kind


def register_encoder_table(cls: Table) -> Table:
    """Class decorator: register a kind's settings for the reader of mmfeat.toml."""
    ENCODER_TABLES.register(cls.kind, cls)
    if cls.modality not in MODALITY_TABLES.known:
        MODALITY_TABLES.register(cls.modality, cls)
    return cls


def encoder_table_class(modality: str, raw: dict[str, Any]) -> type[EncoderTable] | None:
    """The settings class for a table of mmfeat.toml, or for its record in a checkpoint; None if it fits no kind.

    If several kinds have one modality, `model = "KIND:MODEL"` selects the kind of an installed package.
    """
    prefix, colon, _ = str(raw.get("model", "")).partition(":")
    if colon and prefix != "torchvision" and prefix in ENCODER_TABLES:
        named = ENCODER_TABLES[prefix]
        if named.modality == modality:
            return named
    if modality not in MODALITY_TABLES.known:
        load_plugins(GROUP)
    return next((cls for cls in ENCODER_TABLES.known.values() if cls.takes(modality, raw)), None)


def modality_table(modality: str) -> type[EncoderTable]:
    """The settings class of a modality's first kind; the base class for an unknown modality."""
    return MODALITY_TABLES.get(modality, EncoderTable)


@register_encoder_table
@dataclass(frozen=True)
class ImageEncoderConfig(EncoderTable):
    """An image network; `[encoder.NAME]` with modality image."""

    kind: ClassVar[str] = "image"
    sample: ClassVar[str] = "image"
    present: ClassVar[str] = "a readable image"
    in_new_tables: ClassVar[dict[str, bool | str]] = {"precision": MIXED, "reduced_decoding": True}

    model: str = setting("efficientnet_b4", filled=True)  # any of timm, or torchvision:NAME
    pretrained: str = setting("auto", filled=True)  # auto: the model's own; random; a .safetensors or .pth file
    checkpoint: str = setting("latest", filled=True)  # latest from finetune, if any; none; checkpoints/NAME-1
    size: int | str = "auto"  # pixels; auto: as pretrained
    # center: as pretrained, without the margins of the longer side; none: the whole image, its sides scaled to a square
    crop: str = setting("center", choices=("center", "none"))
    precision: str = setting("float32", choices=_PRECISIONS)  # of the forward pass
    flip: bool = False  # mean over the image and its mirror image
    # decode JPEGs of much more than `size` pixels at 1/2, 1/4 or 1/8. New projects: true
    reduced_decoding: bool = False
    tokens: int = setting(0, low=0, high=32)  # 3: keep a 3 x 3 grid of spatial tokens beside the pooled embedding
    modality: str = setting("image", choices=("image",))

    def wrong(self, name: str) -> tuple[str, str] | None:
        """The size is pixels or `auto`."""
        size = self.size
        if size == "auto" or (isinstance(size, int) and 1 <= size <= MAX_PIXELS):
            return None
        return "size", f'encoder.{name}.size = {shown_value(size)}. Use "auto" or pixels from 1 to {MAX_PIXELS}'

    @property
    def files(self) -> tuple[str, ...]:
        """The model and its weights."""
        return self.model, self.pretrained


@register_encoder_table
@dataclass(frozen=True)
class TfidfEncoderConfig(EncoderTable):
    """Term counts of captions, weighted by how rare a term is; `[encoder.NAME]` with modality text and model tfidf."""

    kind: ClassVar[str] = TFIDF
    sample: ClassVar[str] = "caption"
    present: ClassVar[str] = "a caption"
    network: ClassVar[bool] = False
    tunable: ClassVar[bool] = False
    fitted: ClassVar[bool] = True
    label_free: ClassVar[bool] = True

    model: str = setting(TFIDF, choices=(TFIDF,))
    checkpoint: str = setting("latest", filled=True)  # latest from finetune; checkpoints/NAME-1
    width: int = setting(1024, low=1, high=32768)  # terms at most: the most frequent of the training captions
    ngrams: int = setting(1, low=1, high=3)  # words of a term at most
    modality: str = setting("text", choices=("text",))

    @classmethod
    def takes(cls, modality: str, raw: dict[str, Any]) -> bool:
        """Captions, by the model `tfidf`."""
        return modality == cls.modality and raw.get("model") == TFIDF

    def wrong(self, name: str) -> tuple[str, str] | None:
        """It has no vocabulary without a checkpoint."""
        if self.checkpoint != "none":
            return None
        return "checkpoint", (
            f'encoder.{name}.checkpoint = "none": {TFIDF} needs a checkpoint, which holds its vocabulary. '
            f'Write: checkpoint = "latest"'
        )


@register_encoder_table
@dataclass(frozen=True)
class TextEncoderConfig(EncoderTable):
    """A text network; `[encoder.NAME]` with modality text."""

    kind: ClassVar[str] = "text"
    sample: ClassVar[str] = "caption"
    present: ClassVar[str] = "a caption"
    augmentation_keys: ClassVar[tuple[str, ...]] = ("finetune.synonyms",)
    in_new_tables: ClassVar[dict[str, bool | str]] = {"precision": MIXED}

    model: str = setting("google/bert_uncased_L-2_H-128_A-2", filled=True)  # any transformers name or folder
    pretrained: str = setting("auto", filled=True)
    checkpoint: str = setting("latest", filled=True)
    max_length: int = setting(64, low=2)  # tokens, special ones included
    # auto: as the model's folder says, else mean
    pooling: str = setting("auto", choices=("auto", "cls", "mean", "max"))
    precision: str = setting("float32", choices=_PRECISIONS)
    tokens: int = setting(0, low=0, high=512)  # 32: keep the states of the first 32 tokens
    trust_remote_code: bool = False  # true: run the code that comes with the model
    modality: str = setting("text", choices=("text",))

    @property
    def files(self) -> tuple[str, ...]:
        """The model and its weights."""
        return self.model, self.pretrained


@register_encoder_table
@dataclass(frozen=True)
class OtherEncoderConfig(EncoderTable):
    """Imported embeddings; `[encoder.NAME]` with modality other, as `mmfeat store import` prints it."""

    kind: ClassVar[str] = "imported"
    sample: ClassVar[str] = "embedding"
    present: ClassVar[str] = "an imported embedding"
    network: ClassVar[bool] = False
    tunable: ClassVar[bool] = False
    made_elsewhere: ClassVar[bool] = True
    by_id: ClassVar[bool] = True
    bare: ClassVar[str] = "imported"

    imported: str = setting("", filled=True)  # the key of the import, or at least its first 12 digits
    checkpoint: str = setting("latest", filled=True)  # latest from finetune --freeze, if any; none; checkpoints/NAME-1
    modality: str = setting("other", choices=("other",))

    @property
    def model(self) -> str:
        """The key of the import, which checkpoints record as the model."""
        return self.imported

    @property
    def short_model(self) -> str:
        """The first digits of the key."""
        return self.imported[:12]

    def wrong(self, name: str) -> tuple[str, str] | None:
        """The key of the import is 12 to 64 hexadecimal digits."""
        if re.fullmatch(r"[0-9a-f]{12,64}", self.imported):
            return None
        found = shown_value(self.imported) if self.imported else "none"
        return "imported", (
            f"encoder.{name}.imported is the key of the import, 12 to 64 digits (0-9, a-f), found {found}. "
            f"Run: mmfeat store import {name} FILE, which prints it"
        )

    @classmethod
    def remedy(cls, name: str) -> str:
        """Import them again."""
        return f"mmfeat store import {name} FILE"
