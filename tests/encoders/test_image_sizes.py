"""`size` of networks that take images of one size alone: ViT, Swin; `crop` of any network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.encoders import TINY, image_encoder
from helpers.images import saved
from PIL import Image

from mmfeat.common.errors import EncoderError
from mmfeat.config.encoder_tables import ImageEncoderConfig
from mmfeat.encoders.families.image_network import build_image_encoder
from mmfeat.encoders.portable import load_encoder, save_encoder
from mmfeat.store.keys import explain

CPU = torch.device("cpu")


def build(folder, model="test_vit3", **settings):
    return build_image_encoder(
        "image", ImageEncoderConfig(model=model, **{"pretrained": "random", **settings}), folder, 0
    )


def encode(encoder, size: int):
    pixels = torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return encoder.eval().encode({"pixels": pixels}, CPU).embeddings


def test_a_vit_takes_another_size_and_its_key_says_so(tmp_path):
    own, other = build(tmp_path), build(tmp_path, size=96)
    assert (own.resized, other.resized) == (False, True)
    assert other.spec().preprocessing["input_size"] == [3, 96, 96]
    assert other.spec().key != own.spec().key
    assert encode(other, 96).shape == (2, own.width)
    assert build(tmp_path, size=96).spec().key == other.spec().key


def test_the_size_that_a_network_has_anyway_changes_nothing(tmp_path):
    own = build(tmp_path)
    size = own.preparation.data_config["input_size"][1]
    assert build(tmp_path, size=size).spec() == own.spec()
    assert not build(tmp_path, size=size).resized
    for model in ("test_efficientnet", "test_vit"):  # the second interpolates whenever it is run
        assert not build(tmp_path, model, size=48).resized


def test_position_embeddings_of_a_file_are_interpolated_as_timm_does_it(tmp_path):
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("test_vit3")
    with torch.no_grad():
        network.pos_embed.normal_()
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, tmp_path / "vit.safetensors")
    ours = build(tmp_path, pretrained="vit.safetensors", size=96)
    theirs = timm.create_model("test_vit3", img_size=96, num_classes=0, checkpoint_path=None)
    timm.models.load_checkpoint(
        theirs,
        str(tmp_path / "vit.safetensors"),
        strict=False,
        filter_fn=timm.models.vision_transformer.checkpoint_filter_fn,
    )
    assert torch.equal(ours.network.pos_embed, theirs.pos_embed)
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(ours.network(pixels), theirs.eval()(pixels), atol=1e-6)


def test_an_export_of_another_size_is_the_same_network(tmp_path):
    encoder = build(tmp_path, size=96)
    record = save_encoder(encoder, tmp_path / "image")
    again = load_encoder("image", record, tmp_path / "image")
    assert again.spec() == encoder.spec()
    assert (encode(again, 96) == encode(encoder, 96)).all()
    assert "resized" not in save_encoder(build(tmp_path), tmp_path / "plain")


def test_a_size_that_is_no_multiple_of_the_patches_is_one_line(tmp_path):
    with pytest.raises(
        EncoderError,
        match=r"'test_vit3' does not accept images of \(3, 90, 90\): 90 pixels are not a multiple of its patch size 16",
    ) as error:
        build(tmp_path, size=90)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_swin_takes_another_size(tmp_path):
    encoder = build(tmp_path, "swin_tiny_patch4_window7_224", size=192)
    assert encoder.resized
    assert encode(encoder, 192).shape == (2, 768)


def wide_image() -> bytes:
    """A grey image, four times as wide as high, with a red left margin."""
    pixels = np.full((64, 256, 3), 128, np.uint8)
    pixels[:, :32] = (255, 0, 0)
    return saved(Image.fromarray(pixels), "PNG")


def red(pixels: torch.Tensor) -> float:
    """The share of red pixels of `(3, H, W)` uint8."""
    return float(((pixels[0] > 200) & (pixels[1] < 60)).float().mean())


def test_without_a_crop_the_margins_are_seen(tmp_path):
    center, whole = image_encoder(tmp_path), image_encoder(tmp_path, dataclasses.replace(TINY, crop="none"))
    assert red(center.prepare(wide_image())) == 0
    assert red(whole.prepare(wide_image())) == pytest.approx(1 / 8, abs=0.05)
    assert center.prepare(wide_image()).shape == whole.prepare(wide_image()).shape
    assert center.spec().key != whole.spec().key
    assert "crop_mode center -> squash" in explain(center.spec(), whole.spec())


def test_an_exported_encoder_crops_as_the_project(tmp_path):
    encoder = image_encoder(tmp_path, dataclasses.replace(TINY, crop="none"))
    again = load_encoder("image", save_encoder(encoder, tmp_path / "encoder"), tmp_path / "encoder")
    assert again.spec().key == encoder.spec().key
    assert np.array_equal(again.prepare(wide_image()), encoder.prepare(wide_image()))
