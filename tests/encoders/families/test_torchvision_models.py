"""Encoders of torchvision: features, preprocessing and weights as torchvision has them, found without a network."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.encoders import CPU
from helpers.images import jpeg
from PIL import Image

from mmfeat.common.errors import EncoderError
from mmfeat.config.encoder_tables import ImageEncoderConfig
from mmfeat.encoders.families.image_network import build_image_encoder
from mmfeat.encoders.families.torchvision_models import PREFIX, TorchvisionEncoder, _weights
from mmfeat.encoders.portable import load_encoder, save_encoder
from mmfeat.encoders.weights import torch_hub_file

SMALL = ImageEncoderConfig(model="torchvision:shufflenet_v2_x0_5", pretrained="random", size=64)
# One of each family; the largest are left out.
FAMILIES = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "googlenet": 1024,
    "maxvit_t": 512,
    "mnasnet0_5": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "regnet_y_400mf": 440,
    "resnet18": 512,
    "shufflenet_v2_x2_0": 2048,
    "swin_t": 768,
    "vit_b_16": 768,
}


def build(tmp_path, config=SMALL, **changes):
    return build_image_encoder("image", dataclasses.replace(config, **changes), tmp_path, 0).eval()


@pytest.fixture
def source(tmp_path):
    """The whole model with other weights than the seed's, as torchvision makes it, and its file."""
    from torchvision.models import get_model

    with torch.random.fork_rng():
        torch.manual_seed(9)
        model = get_model("shufflenet_v2_x0_5", weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    return model


def features(model, encoder, pixels):
    """What the model's own classifier reads."""
    seen = []
    hook = model.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.inference_mode():
        model((pixels / 255 - encoder.mean) / encoder.std)
    hook.remove()
    return seen[0].numpy()


def test_a_bare_name_is_torchvisions_where_timm_has_none(tmp_path):
    named, bare = build(tmp_path), build(tmp_path, model="shufflenet_v2_x0_5")
    assert named.spec() == bare.spec()
    assert named.spec().architecture == "torchvision-shufflenet_v2_x0_5"
    assert build(tmp_path, model="resnet18").spec().architecture == "resnet18"  # timm's
    assert build(tmp_path, model="torchvision:resnet18").spec().architecture == "torchvision-resnet18"


def test_weights_of_a_file_are_torchvisions_without_their_classifier(tmp_path, source):
    from safetensors.torch import save_file

    save_file({f"module.backbone.{name}": t for name, t in source.state_dict().items()}, tmp_path / "w.safetensors")
    encoders = [build(tmp_path, pretrained=name) for name in ("own.pth", "w.safetensors")]
    assert encoders[0].spec() == encoders[1].spec()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = features(source, encoders[0], pixels)
    np.testing.assert_allclose(encoders[0].encode({"pixels": pixels}, CPU).embeddings, expected, rtol=1e-3, atol=1e-9)


def test_its_own_weights_are_found_in_torchs_folder(tmp_path, source, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = torch_hub_file(_weights("shufflenet_v2_x0_5").url)
    assert file.is_relative_to(tmp_path)
    with pytest.raises(
        EncoderError, match=r"not on disk and https://.* is out of reach.*set: pretrained = \"FILE"
    ) as error:
        build(tmp_path, pretrained="auto")
    assert str(file) in str(error.value)
    file.parent.mkdir(parents=True)
    (tmp_path / "own.pth").rename(file)
    encoder = build(tmp_path, pretrained="auto")
    assert torch.equal(encoder.network.conv1[0].weight, source.conv1[0].weight)
    assert encoder.own_files() == [file]
    file.write_bytes(b"half a file")
    with pytest.raises(EncoderError, match="cannot be read as weights"):
        build(tmp_path, pretrained="auto")


def test_its_own_weights_are_fetched_once_and_checked(tmp_path, source, monkeypatch):
    from mmfeat.encoders.families import torchvision_models

    stated = _weights("shufflenet_v2_x0_5")
    digest = hashlib.sha256((tmp_path / "own.pth").read_bytes()).hexdigest()[:8]
    for name, digits in (("good", digest), ("bad", "00000000")):
        served = tmp_path / f"{name}-{digits}.pth"
        shutil.copy(tmp_path / "own.pth", served)
        there = SimpleNamespace(url=served.as_uri(), name=stated.name, meta=stated.meta, transforms=stated.transforms)
        monkeypatch.setattr(torchvision_models, "_weights", lambda model, there=there: there)
        monkeypatch.setattr(torchvision_models, "within_reach", lambda url: True)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        if name == "bad":
            with pytest.raises(EncoderError, match="cannot be fetched: invalid hash value"):
                build(tmp_path, pretrained="auto")
        else:
            assert torch.equal(build(tmp_path, pretrained="auto").network.conv1[0].weight, source.conv1[0].weight)
    assert [path.name for path in (tmp_path / "torch").rglob("*.pth")] == [f"good-{digest}.pth"]


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "efficientnet_b3", "vit_b_16", "resnet50.IMAGENET1K_V1"])
def test_images_are_prepared_as_torchvision_does(name):
    from mmfeat.encoders.preparation import ImagePreparation

    config = TorchvisionEncoder.data_config_of(torch.nn.Identity(), name)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (250, 410, 3), dtype=np.uint8))
    pixels = ImagePreparation(config).prepare(image)
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close((pixels / 255 - mean) / std, _weights(name).transforms()(image))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_pooled_features_of_its_own_width(tmp_path, name):
    with torch.device("cpu" if "regnet" in name else "meta"):  # there no weight is made, and RegNet reads some
        encoder = build(tmp_path, model=PREFIX + name, size="auto")
        assert encoder.width == FAMILIES[name]
        pooled, grid = encoder.forward_grid(torch.zeros(2, *encoder.preparation.data_config["input_size"]))
    assert pooled.shape == (2, encoder.width)
    assert grid.shape[2] == grid.shape[3] > 1
    depths = encoder.layers()
    assert list(depths) == [parameter for parameter, _ in encoder.named_parameters()]
    assert set(depths.values()) == set(range(max(depths.values()) + 1))
    assert 7 <= len(set(depths.values())) <= 70


@pytest.mark.parametrize(
    ("name", "shallow", "deep"),
    [
        (
            "resnet18",
            ["conv1.weight", "bn1.weight"],
            ["layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer4.1.bn2.bias"],
        ),
        (
            "vit_b_16",
            ["class_token", "encoder.pos_embedding", "conv_proj.weight"],
            ["encoder.layers.encoder_layer_0.ln_1.weight", "encoder.layers.encoder_layer_11.mlp.0.weight"],
        ),
        (
            "efficientnet_b0",
            ["features.0.0.weight"],
            ["features.1.0.block.0.0.weight", "features.2.1.block.0.0.weight"],
        ),
    ],
)
def test_a_block_is_deeper_than_those_before_it(tmp_path, name, shallow, deep):
    with torch.device("meta"):
        depths = build(tmp_path, model=PREFIX + name, size="auto").layers()
    assert [depths[f"network.{one}"] for one in shallow] == [0] * len(shallow)
    found = [depths[f"network.{one}"] for one in deep]
    assert 0 < found[0] < found[-1]
    assert sorted(found) == found


def test_tokens_are_what_is_pooled(tmp_path):
    encoder = build(tmp_path, size=96, flip=True)
    pixels = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    encoded = encoder.encode({"pixels": pixels}, CPU, tokens=3)
    assert encoded.tokens.shape == (2, 9, 1024)
    plain = build(tmp_path, size=96).encode({"pixels": pixels}, CPU)
    np.testing.assert_allclose(encoded.tokens.mean(1), plain.embeddings, rtol=1e-3)
    np.testing.assert_allclose(encoded.embeddings, encoder.encode({"pixels": pixels}, CPU).embeddings, rtol=1e-3)


def test_an_encoder_that_was_saved_is_the_same_elsewhere(tmp_path, source):
    encoder = build(tmp_path, pretrained="own.pth", flip=True)
    record = save_encoder(encoder, tmp_path / "saved")
    again = load_encoder("image", record, tmp_path / "saved")
    assert again.spec() == encoder.spec()
    batch = encoder.collate([encoder.prepare(jpeg())])
    assert np.array_equal(again.encode(batch, CPU).embeddings, encoder.encode(batch, CPU).embeddings)


def test_old_names_of_densenet_are_those_of_today():
    state = {"features.denseblock1.denselayer12.norm.1.weight": torch.zeros(1), "features.norm0.bias": torch.ones(1)}
    renamed = TorchvisionEncoder.renamed(state)
    assert list(renamed) == ["features.denseblock1.denselayer12.norm1.weight", "features.norm0.bias"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("torchvision:squeezenet1_1", "has no pooled features. Use another model"),
        ("torchvision:resnt18", r"torchvision has no model 'resnt18'. Nearest: torchvision:resnet18, "),
        ("shufflenet_v2_x20", r"neither timm nor torchvision has .*Nearest: shufflenet_v2_x2_0, \S+, \S+$"),
        ("torchvision:resnet18.best", r"no weights 'best' of resnet18. It has: IMAGENET1K_V1"),
        ("torchvision:vit_b_32", r"does not accept images of \(3, 64, 64\)"),
    ],
)
def test_what_torchvision_has_not_is_one_line(tmp_path, model, message):
    with pytest.raises(EncoderError, match=message) as error:
        build(tmp_path, model=model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("runtime", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_project_of_it_trains_and_is_exported(project_folder, tmp_path, runtime):
    if runtime == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(module)
    from mmfeat.project.encoding import extract
    from mmfeat.project.project import Project
    from mmfeat.workflows.export import export
    from mmfeat.workflows.finetune import finetune

    file = project_folder / "mmfeat.toml"
    text = file.read_text(encoding="utf-8").replace('"test_efficientnet"', '"torchvision:shufflenet_v2_x0_5"')
    file.write_text(text, encoding="utf-8")
    finetune(Project(project_folder), ["image"], freeze=runtime == "onnx")
    extract(Project(project_folder), ["image"])
    result = export(Project(project_folder), "image", tmp_path / "model", format=runtime)
    assert result.n_checked > 0
    assert result.difference < 1e-3
