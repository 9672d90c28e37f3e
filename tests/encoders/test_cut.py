"""Encoders cut in two: both parts together are the whole, and the front's key depends on the front alone."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mmfeat.common.errors import EncoderError
from mmfeat.config.encoder_tables import ImageEncoderConfig, TextEncoderConfig
from mmfeat.encoders.cut import ACTIVATIONS
from mmfeat.encoders.families.image_network import build_image_encoder
from mmfeat.encoders.families.transformer_text import build_text_encoder
from mmfeat.encoders.finetuning.depthwise import FastDepthwise
from mmfeat.encoders.front import FrontEncoder, Mirrored, Synonyms, View
from mmfeat.encoders.onnx_graphs import write_encoder_graph
from mmfeat.encoders.tail import TailEncoder
from mmfeat.encoders.weights import read_tensors


def image_encoder(model: str = "test_efficientnet", **settings):
    config = ImageEncoderConfig(model=model, pretrained="random", **settings)
    return build_image_encoder("image", config, Path("."), 0)


def text_encoder(folder: Path):
    return build_text_encoder("text", TextEncoderConfig(model=str(folder), pretrained="random"), Path("."), 0)


def pixels(encoder, n: int = 3) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(1)
    size = encoder.preparation.data_config["input_size"]
    return {"pixels": torch.randint(0, 256, (n, *size), generator=noise).to(torch.uint8)}


@pytest.mark.parametrize("model", ["test_efficientnet", "test_vit", "test_resnet"])
def test_front_and_tail_with_mirror_images_are_the_whole_image_network(model):
    encoder = image_encoder(model, flip=True)
    batch, device = pixels(encoder), torch.device("cpu")
    whole = torch.from_numpy(encoder.eval().encode(batch, device).embeddings)
    for trained in (1, encoder.cut(1).n_stages):
        found = torch.from_numpy(TailEncoder(encoder.cut(trained)).eval().encode(batch, device).embeddings)
        assert torch.allclose(found, whole, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize(
    ("model", "n_stages", "settings"),
    [
        ("test_efficientnet", 5, {}),
        ("test_resnet", 4, {}),
        ("test_vit", 6, {}),
        ("test_convnext", 4, {}),
        ("test_vit_relpos", 9, {}),
        ("mobilenetv3_small_050", 6, {"size": 64}),
        ("regnetx_002", 4, {"size": 64}),
        ("swin_tiny_patch4_window7_224", 4, {"size": 64}),
        ("inception_v3", 11, {"size": 80}),
        ("torchvision:resnet18", 4, {"size": 64}),
        ("torchvision:convnext_tiny", 4, {"size": 64}),
        ("torchvision:efficientnet_b0", 7, {"size": 64}),
        ("torchvision:shufflenet_v2_x0_5", 3, {"size": 64}),
        ("torchvision:alexnet", 5, {"size": 64}),  # a list of layers
        ("torchvision:densenet121", 4, {"size": 64}),  # changes features in place
        ("torchvision:regnet_x_400mf", 4, {"size": 64}),
        ("torchvision:mnasnet0_5", 6, {"size": 64}),
    ],
)
def test_front_and_tail_are_the_whole_image_network(model, n_stages, settings):
    encoder = image_encoder(model, **settings)
    with torch.no_grad():  # random weights may make all embeddings alike
        for name, parameter in encoder.named_parameters():
            if "gamma" in name or "layer_scale" in name:
                parameter.fill_(1)
    batch, device = pixels(encoder), torch.device("cpu")
    whole = torch.from_numpy(encoder.eval().encode(batch, device).embeddings)
    assert encoder.cut(1).n_stages == n_stages
    for trained in sorted({1, 2, n_stages}):
        tail = TailEncoder(encoder.cut(trained))
        found = torch.from_numpy(tail.eval().encode(batch, device).embeddings)
        assert torch.allclose(found, whole, atol=1e-5 * float(whole.abs().max())), trained
        assert any(parameter.ndim > 1 for parameter in tail.parameters())


@pytest.mark.parametrize("model", ["test_efficientnet", "test_vit", "torchvision:resnet18", "text"])
@pytest.mark.parametrize("flip", [False, True])
def test_a_tail_gives_the_tokens_of_the_whole(model, flip, text_folder):
    if model == "text":
        encoder = text_encoder(text_folder)
        batch = encoder.collate([encoder.prepare(text) for text in ("a dog", "two cats on a long red sofa", "x")])
    else:
        encoder = image_encoder(model, flip=flip, size=64)
        batch = pixels(encoder)
    whole = encoder.eval().encode(batch, torch.device("cpu"), 3)
    found = TailEncoder(encoder.cut(1)).eval().encode(batch, torch.device("cpu"), 3)
    for one, other in zip(found, whole, strict=True):
        assert one.shape == other.shape
        assert np.allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_front_and_tail_are_the_whole_text_network(text_folder):
    encoder = text_encoder(text_folder)
    batch = encoder.collate([encoder.prepare(text) for text in ("a dog", "two cats on a long red sofa", "x")])
    with torch.inference_mode():
        whole = encoder(batch)
        for trained in (1, 2):
            cut = encoder.cut(trained)
            assert torch.allclose(cut.tail(cut.front(batch)), whole, atol=1e-6)


@pytest.mark.parametrize("model", ["hrnet_w18_small", "coat_tiny"])
def test_a_network_of_unknown_stages_is_refused_in_one_line(model):
    with pytest.raises(EncoderError, match=r'its layers cannot be cached.*Set: layers = "all"') as refused:
        image_encoder(model, **({"size": 64} if model.startswith("hrnet") else {})).cut(1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "torchvision:shufflenet_v2_x0_5"])
def test_a_front_executes_as_an_exported_graph(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    front = FrontEncoder(image_encoder(model).cut(1), View(), "float32").eval()
    write_encoder_graph(front, tmp_path / "front.onnx")
    batch = pixels(front.cut_at.encoder)
    with torch.inference_mode():
        whole = front(batch).numpy()
    (found,) = onnxruntime.InferenceSession(tmp_path / "front.onnx").run(None, {"pixels": batch["pixels"].numpy()})
    assert np.abs(found - whole).max() < 1e-4 * np.abs(whole).max()


def test_more_stages_than_there_are_are_refused():
    with pytest.raises(EncoderError, match=r'layers = "last 9", but it has 5 stages. Use a number from 1 to 5'):
        image_encoder().cut(9)


@pytest.mark.parametrize("name", ["image", "text"])
def test_a_tail_has_the_names_and_depths_of_the_whole(name, text_folder):
    encoder = image_encoder() if name == "image" else text_encoder(text_folder)
    cut = encoder.cut(1)
    tail, whole = TailEncoder(cut), dict(encoder.named_parameters())
    assert all(parameter is whole[key] for key, parameter in tail.named_parameters())
    assert tail.layers().items() <= encoder.layers().items()
    assert {*tail.state_dict(), *cut.front_tensors()} >= {*read_tensors(encoder)}
    assert not {*read_tensors(tail)} & {*cut.front_tensors()}
    assert [p.requires_grad for p in whole.values()].count(True) == len(list(tail.parameters()))
    tail.train()
    assert not encoder.training
    below = dict(tail.named_modules())
    assert all(module.training == (key in below) for key, module in encoder.named_modules() if key.count(".") > 2)


def test_the_front_key_depends_on_the_front_alone():
    def key(trained: int = 2, view: View | None = None, storage: str = "float16", change: str = "", **settings) -> str:
        encoder = image_encoder(**settings)
        if change:
            with torch.no_grad():
                encoder.get_parameter(change).add_(1)
        return FrontEncoder(encoder.cut(trained), view or View(), storage).spec().key

    same = key()
    assert key(change="network.conv_head.weight") == key(change="network.bn2.bias") == same
    others = [
        key(1),
        key(view=Mirrored()),
        key(storage="float32"),
        key(change="network.conv_stem.weight"),
        key(size=64),
        key(precision="bfloat16"),
        key(view=Synonyms({"a": ("b",)}, 1)),
        key(view=Synonyms({"a": ("c",)}, 1)),
        key(view=Synonyms({"a": ("b",)}, 2)),
    ]
    assert len({same, *others}) == len(others) + 1


def test_a_mirrored_front_is_that_of_the_mirror_image():
    encoder = image_encoder()
    front = FrontEncoder(encoder.cut(2), Mirrored(), "float32")
    batch = pixels(encoder)
    with torch.inference_mode():
        flipped = front(front.collate([front.view.prepared(one) for one in batch["pixels"]]))
        whole = encoder.cut(2).front({"pixels": batch["pixels"].flip(-1)})[ACTIVATIONS].flatten(1)
    assert torch.equal(flipped, whole)
    assert flipped.shape[1] == front.width


@pytest.mark.parametrize(("side", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 1, 2), (5, 2, 2), (5, 2, 0)])
def test_fast_depthwise_gradients_are_those_of_torch(side, stride, padding):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 11, 11).contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(8, 8, side, stride, padding, groups=8)

    def gradients(fast: bool) -> list[torch.Tensor]:
        given = x.clone().requires_grad_()
        mode = FastDepthwise() if fast else contextlib.nullcontext()
        with mode, torch.autocast("cpu", torch.bfloat16):
            out = conv(given)
        return [out.float(), *torch.autograd.grad(out.float().square().sum(), [given, *conv.parameters()])]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert torch.allclose(one, other, atol=0.02 * float(other.detach().abs().max()))


def test_a_view_of_a_caption_depends_on_the_caption_alone():
    words = {"dog": ("hound", "pup"), "hound": ("dog", "pup"), "pup": ("dog", "hound")}
    views = [Synonyms(words, number) for number in range(1, 9)]
    found = [view.sample("A dog and a dog") for view in views]
    assert found == [dataclasses.replace(view).sample("A dog and a dog") for view in views]
    assert len(set(found)) > 1
