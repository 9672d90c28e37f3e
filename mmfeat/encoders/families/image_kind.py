"""The encoder kind `image`: networks of timm and torchvision on images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat.common.json_shapes import Choice, Number, Several
from mmfeat.config.encoder_tables import ImageEncoderConfig
from mmfeat.config.schema import Config
from mmfeat.data.row_keys import RowKeys, image_keys
from mmfeat.encoders.batches import MEASURED_ON
from mmfeat.encoders.decoding import Decoding
from mmfeat.encoders.kinds import WEIGHTS, EncoderKind, SampleHost, register_encoder_kind

if TYPE_CHECKING:
    from torch import Tensor

    from mmfeat.encoders.description import Description
    from mmfeat.encoders.families.image_network import ImageEncoder
    from mmfeat.encoders.front import View
    from mmfeat.encoders.preparation import ImagePreparation


@register_encoder_kind
class ImageKind(EncoderKind):
    """Encoders of images; a sample is an image file's bytes."""

    settings = ImageEncoderConfig
    recognition_order = 20
    remembered = True
    decoded = True
    reads = "images"
    faster_decoding = ", images stored at about the encoder's size or, for large JPEGs, reduced_decoding = true"
    packages = ("timm", "torchvision")
    record_shape = {
        "?model": str,
        "?flip": bool,
        "?reduced_decoding": bool,
        "data_config": {
            "input_size": Several(3, Number(int, low=1, high=1 << 14)),
            "interpolation": str,
            "mean": Several(3, Number(float, low=0.0, high=1.0)),
            "std": Several(3, Number(float, above=0.0)),
            "?crop_pct": Number(float, above=0.0),
            "?crop_mode": Choice(("center", "squash", "border")),
        },
    }

    def row_keys(self, host: SampleHost, source: str) -> RowKeys:
        """Digests of the files' bytes."""
        return image_keys(host.manifest.images, host.sources, host.digests, kept=host.kept_bytes)

    def reader(self, host: SampleHost, source: str) -> Callable[[int], bytes]:
        """The file's bytes, checked against the row key."""
        return host.image_reader()

    def given(self, sample: Any) -> Any:
        """A path, bytes, a PIL image or an array."""
        from mmfeat.encoders.given_images import read_given_image

        return read_given_image(sample)

    def any_given(self, ids: list[str], images: list[str], captions: list[str]) -> bool:
        """Whether a row names an image."""
        return any(images)

    def recorded(self, config: Config) -> dict[str, str | int]:
        """The decoder's version, and the limits that decide which images are refused."""
        return Decoding.of(config).record

    def recognises(self, model: str) -> bool:
        """Names of timm and torchvision."""
        from mmfeat.encoders.model_names import has_family_prefix, is_image_model

        return has_family_prefix(model) or is_image_model(model)

    def build(self, config: Config, name: str) -> ImageEncoder:
        """A network of timm or torchvision."""
        from mmfeat.encoders.families.image_network import build_image_encoder

        encoder = build_image_encoder(name, config.encoder[name], config.root, config.file_seed)
        encoder.preparation.decoding = Decoding.of(config)
        return encoder

    def describe(self, table: ImageEncoderConfig, folder: Path) -> Description:
        """Sizes counted on a network without weights."""
        from mmfeat.encoders.catalogue import describe_image

        return describe_image(table, folder)

    def generated(self, preparation: ImagePreparation) -> list[Tensor]:
        """Images of smooth random colours."""
        import torch
        from torch.nn import functional

        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(MEASURED_ON, 3, 9, 9, generator=generator) * 255
        size = preparation.data_config["input_size"][1:]
        return list(functional.interpolate(coarse, size=size, mode="bilinear").to(torch.uint8))

    def training_loader(
        self, read: Callable[[int], Any], encoder: ImageEncoder, config: Config, name: str
    ) -> tuple[Callable[[int, int | None, int], Any], int]:
        """Random horizontal flips (P5); crops and RandAugment if they are configured."""
        from mmfeat.encoders.finetuning.augmentation import ImageAugmentation

        augmentation = ImageAugmentation(encoder, config.finetune_of(name))
        return lambda row, number, size: augmentation(read(row), number, size), encoder.preparation.data_config[
            "input_size"
        ][1]

    def views(self, config: Config, name: str) -> list[View]:
        """The image and, for flips (P5) or an encoder that averages both, its mirror image."""
        from mmfeat.encoders.front import Mirrored, View

        return [View(), Mirrored()] if config.finetune_of(name).augment or config.encoder[name].flip else [View()]

    def save_preparation(self, encoder: ImageEncoder, folder: Path) -> dict[str, Any]:
        """Timm's data configuration."""
        config = {key: list(v) if isinstance(v, tuple) else v for key, v in encoder.preparation.data_config.items()}
        reduced = {"reduced_decoding": True} if encoder.preparation.reduced else {}
        return {"modality": self.modality, "width": encoder.width, "data_config": config, **reduced}

    def load_preparation(self, record: dict[str, Any], folder: Path) -> ImagePreparation:
        """Resizing and cropping by timm's data configuration."""
        from mmfeat.encoders.preparation import ImagePreparation

        return ImagePreparation(_data_config(record), reduced=record.get("reduced_decoding", False))

    def save_network(self, encoder: ImageEncoder, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors of the network, and the arguments that build it again."""
        more = {"model": encoder.model, "flip": encoder.flip, **({"resized": True} if encoder.resized else {})}
        return encoder.network.state_dict(), more

    def load_encoder(self, name: str, record: dict[str, Any], folder: Path) -> ImageEncoder:
        """A network of the installed timm or torchvision, with the folder's weights."""
        from mmfeat.encoders.families.image_network import build_image_encoder

        table = ImageEncoderConfig(
            model=record["model"],
            pretrained=str(folder / WEIGHTS),
            precision=record["precision"],
            flip=record["flip"],
            reduced_decoding=record.get("reduced_decoding", False),
        )
        resized = record.get("resized") is True
        return build_image_encoder(name, table, folder, 0, data_config=_data_config(record), resized=resized).eval()

    def onnx_example(self, encoder: ImageEncoder) -> tuple[dict[str, Tensor], dict[int, Any]]:
        """Two black images."""
        import torch

        size = encoder.preparation.data_config["input_size"]
        return {"pixels": torch.zeros(2, *size, dtype=torch.uint8)}, {0: torch.export.Dim("batch")}


def _data_config(record: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in record["data_config"].items()}
