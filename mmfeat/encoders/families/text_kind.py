"""The encoder kind `text`: networks of transformers on captions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat.common.errors import EncoderError
from mmfeat.common.json_shapes import Choice, Number
from mmfeat.config.encoder_tables import TextEncoderConfig
from mmfeat.config.schema import Config
from mmfeat.data.row_keys import RowKeys, caption_keys
from mmfeat.data.synonyms import MMFEAT, named_synonyms, replace_two
from mmfeat.encoders.batches import MEASURED_ON
from mmfeat.encoders.kinds import WEIGHTS, EncoderKind, SampleHost, register_encoder_kind

if TYPE_CHECKING:
    from torch import Tensor

    from mmfeat.encoders.description import Description
    from mmfeat.encoders.encoder import Encoder
    from mmfeat.encoders.families.transformer_text import TextEncoder
    from mmfeat.encoders.front import View
    from mmfeat.encoders.preparation import TextPreparation

_VARIANTS = 3  # of a caption besides itself, in cached layers
_POOLINGS = TextEncoderConfig.__dataclass_fields__["pooling"].metadata["choices"]


class CaptionKind(EncoderKind):
    """The base class of kinds whose sample is a caption."""

    remembered = True
    by_length = True
    batch_size = 64
    batch_sizes = (16, 32, 64, 128, 256, 512)
    reads = "captions"

    def row_keys(self, host: SampleHost, source: str) -> RowKeys:
        """Digests of the captions' UTF-8 bytes."""
        return caption_keys(host.manifest.captions)

    def reader(self, host: SampleHost, source: str) -> Callable[[int], str]:
        """The caption."""
        captions = host.manifest.captions
        return lambda row: captions[row]

    def lengths(self, host: SampleHost) -> Callable[[int], int]:
        """The number of characters of each caption."""
        captions = host.manifest.captions
        return lambda row: len(captions[row])

    def generated(self, preparation: TextPreparation) -> list[str]:
        """Captions of one to sixteen words."""
        return [" ".join([preparation.examples[0]] * (1 + n % 3) + ["two"] * (n % 7)) for n in range(MEASURED_ON)]

    def any_given(self, ids: list[str], images: list[str], captions: list[str]) -> bool:
        """Whether a caption is not blank."""
        return any(caption.strip() for caption in captions)

    def onnx_example(self, encoder: Encoder) -> tuple[dict[str, Tensor], dict[int, Any]]:
        """Two captions of different lengths."""
        import torch

        preparation = encoder.preparation
        example = encoder.collate([encoder.prepare(caption) for caption in preparation.examples])
        length = torch.export.Dim("length", min=1, max=preparation.most)
        return {name: example[name] for name in ("input_ids", "attention_mask")}, {
            0: torch.export.Dim("batch"),
            1: length,
        }


@register_encoder_kind
class TextKind(CaptionKind):
    """A network of transformers."""

    settings = TextEncoderConfig
    recognition_order = 30
    packages = ("transformers",)
    record_shape = {"max_length": Number(int, low=2), "pooling": Choice(_POOLINGS)}

    def recognises(self, model: str) -> bool:
        """Names with a slash or a hyphen, as models of transformers have."""
        return "/" in model or "-" in model

    def build(self, config: Config, name: str) -> TextEncoder:
        """A model of transformers and its tokenizer."""
        from mmfeat.encoders.families.transformer_text import build_text_encoder

        return build_text_encoder(name, config.encoder[name], config.root, config.file_seed)

    def describe(self, table: TextEncoderConfig, folder: Path) -> Description:
        """Sizes from its configuration on disk, or from the list of known models."""
        from mmfeat.encoders.catalogue import describe_text

        return describe_text(table, folder)

    def training_loader(
        self, read: Callable[[int], Any], encoder: Encoder, config: Config, name: str
    ) -> tuple[Callable[[int, int | None, int], Any], int]:
        """Captions with up to two words replaced by synonyms (P6)."""
        synonyms = named_synonyms(config.finetune.synonyms, config.root)

        def load(row: int, number: int | None, _size: int) -> Any:
            caption = read(row)
            return encoder.prepare(caption if number is None else replace_two(caption, synonyms, number))

        return load, 0

    def views(self, config: Config, name: str) -> list[View]:
        """The caption and a few variants with up to two words replaced by synonyms (P6)."""
        from mmfeat.encoders.front import Synonyms, View

        if not config.finetune_of(name).augment:
            return [View()]
        synonyms = named_synonyms(config.finetune.synonyms, config.root)
        return [View(), *(Synonyms(synonyms, number) for number in range(1, _VARIANTS + 1))]

    def read_besides(self, config: Config) -> dict[str, Any]:
        """The list of synonyms, unless it is that of version 0.1."""
        given = config.finetune.synonyms
        return {} if given in ("", MMFEAT) else {"synonyms": named_synonyms(given, config.root)}

    def save_preparation(self, encoder: TextEncoder, folder: Path) -> dict[str, Any]:
        """Save the tokenizer, and record the length that captions are cut to.

        Raises
        ------
        EncoderError
            The encoder runs custom code, which an exported model must not do.
        """
        from mmfeat.encoders.foreign import brings_code

        preparation = encoder.preparation
        if brings_code(encoder.network, encoder.model_config, preparation.tokenizer):
            raise EncoderError(
                f"encoder.{folder.name}: runs code that came with {encoder.source} (trust_remote_code), which an exported model "
                f"never does. Export a run without this encoder"
            )
        preparation.tokenizer.save_pretrained(folder)
        record = {"modality": self.modality, "width": encoder.width, "max_length": preparation.max_length}
        if preparation.most < preparation.max_length:
            record["positions"] = preparation.most
        return record

    def load_preparation(self, record: dict[str, Any], folder: Path) -> TextPreparation:
        """The folder's tokenizer."""
        from mmfeat.encoders.families.transformer_text import load_tokenizer
        from mmfeat.encoders.preparation import TextPreparation

        with _without_code(folder):
            tokenizer = load_tokenizer(folder)
        return TextPreparation(tokenizer, record["max_length"], positions=record.get("positions"))

    def save_network(self, encoder: TextEncoder, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The network's tensors; its configuration is a file beside them."""
        from mmfeat.encoders.weights import read_tensors

        encoder.model_config.save_pretrained(folder)
        return read_tensors(encoder.network), {}

    def load_encoder(self, name: str, record: dict[str, Any], folder: Path) -> TextEncoder:
        """A network of the installed transformers, from the files of the folder."""
        from mmfeat.encoders.families.transformer_text import build_text_encoder

        table = TextEncoderConfig(
            model=str(folder),
            pretrained=str(folder / WEIGHTS),
            max_length=record["max_length"],
            pooling=record["pooling"],
            precision=record["precision"],
        )
        with _without_code(folder):
            return build_text_encoder(name, table, folder, 0)


@contextlib.contextmanager
def _without_code(folder: Path) -> Iterator[None]:
    """Turn the error of a model with custom code into one about the exported folder, which no setting can allow."""
    from mmfeat.encoders.foreign import NeedsCode

    try:
        yield
    except NeedsCode:
        raise EncoderError(
            f"{folder}: needs its own code, which an exported model must not run. Export the model again"
        ) from None
