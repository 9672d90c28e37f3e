"""Encoders: keys that follow what they rest on, weights from files and a fake hub, bytes that are no image."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from helpers.encoders import CPU, TINY, image_encoder
from helpers.images import jpeg
from PIL import Image

from mmfeat.common.errors import EncoderError
from mmfeat.config.encoder_tables import ImageEncoderConfig, TextEncoderConfig
from mmfeat.encoders.families.image_network import build_image_encoder
from mmfeat.encoders.families.transformer_text import build_text_encoder
from mmfeat.encoders.image_decoding import decode_image
from mmfeat.encoders.weights import read_state


def test_random_weights_are_seeded_and_leave_the_random_state_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = image_encoder(tmp_path).spec()
    assert torch.equal(before, torch.get_rng_state())
    assert a.key == image_encoder(tmp_path).spec().key
    assert a.key != image_encoder(tmp_path, seed=1).spec().key


@pytest.mark.parametrize(("name", "value"), [("size", 48), ("precision", "bfloat16")])
def test_what_an_embedding_depends_on_changes_its_key(tmp_path, name, value):
    changed = dataclasses.replace(TINY, **{name: value})
    assert image_encoder(tmp_path, changed).spec().key != image_encoder(tmp_path).spec().key


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"size": 32}, "3ff21c5e6a07be731a1ccf2c9e0877fd6476e956c027098cb8e9980bf8d11ecf"),
        (
            {"model": "test_vit", "flip": True, "size": "auto"},
            "8543f29139d16f929111c32df4ea8caa8bb9b49f1fd5474ffd3bbea0bd39169f",
        ),
    ],
)
def test_keys_are_those_under_which_features_are_filed_since_the_first_release(tmp_path, changes, key):
    encoder = image_encoder(tmp_path, dataclasses.replace(TINY, **changes))
    for tensor in encoder.state_dict().values():
        tensor.fill_(1)
    assert encoder.spec().key == key


def test_no_option_changes_what_an_encoder_is(project):
    from mmfeat.project.project import Project

    before = {name: project.identity(name).spec.key for name in ("image", "text")}
    other = Project(project.root, {"seed": "1"})
    assert {name: other.identity(name).spec.key for name in before} == before
    other.rehash()  # nor does it where nothing is remembered
    assert {name: other.identity(name).spec.key for name in before} == before
    path = project.root / "mmfeat.toml"
    path.write_text(path.read_text().replace("schema = 1", "schema = 1\nseed = 1"))
    after = {name: Project(project.root).identity(name).spec.key for name in before}
    assert all(after[name] != before[name] for name in before)


@pytest.mark.parametrize("what", ["__version__", "KEY_VERSION"])
def test_what_is_remembered_of_encoders_does_not_outlive_an_upgrade(project, monkeypatch, what):
    from mmfeat.encoders import resolve

    project.identity("text")
    builds = []
    build = resolve.build_encoder
    monkeypatch.setattr(resolve, "build_encoder", lambda *a, **k: builds.append(a) or build(*a, **k))
    project.identity("text")
    assert not builds
    monkeypatch.setattr(resolve, what, 99)
    project.identity("text")
    assert len(builds) == 1


def test_what_training_alone_reads_does_not_change_the_key(tmp_path):
    encoder = image_encoder(tmp_path)
    before = encoder.spec().key
    counters = [b for n, b in encoder.named_buffers() if n.endswith("num_batches_tracked")]
    assert counters
    counters[0] += 7
    assert encoder.spec().key == before
    next(encoder.parameters()).data[0] += 1e-3
    assert encoder.spec().key != before


def test_a_spec_survives_json(tmp_path):
    from mmfeat.store import EncoderSpec

    spec = image_encoder(tmp_path).spec()
    assert EncoderSpec.from_dict(json.loads(json.dumps(spec.as_dict()))).key == spec.key


def test_weights_from_a_file_are_those_of_the_file(tmp_path):
    import timm
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(9)
        model = timm.create_model("test_efficientnet", num_classes=3)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    encoders = [
        image_encoder(tmp_path, dataclasses.replace(TINY, pretrained=name)) for name in ("w.safetensors", "w.pth")
    ]
    assert encoders[0].spec().key == encoders[1].spec().key  # the classifier is left out, the container does not matter
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    x = (pixels / 255 - encoders[0].mean) / encoders[0].std
    with torch.inference_mode():
        expected = model.eval().forward_head(model.forward_features(x), pre_logits=True).numpy()
    np.testing.assert_allclose(encoders[0].encode({"pixels": pixels}, CPU).embeddings, expected, atol=1e-5)


def test_weights_of_another_model_say_what_does_not_fit(tmp_path):
    from safetensors.torch import save_file

    save_file({"conv_stem.weight": torch.zeros(1), "other": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match=r"missing .*unexpected .*other.*another shape") as error:
        image_encoder(tmp_path, dataclasses.replace(TINY, pretrained="w.safetensors"))
    assert "\n" not in str(error.value)


def test_a_pickle_is_never_run(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "w.pth").write_bytes(pickle.dumps({"x": Evil()}))
    with pytest.raises(EncoderError):
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model", ["efficientnet_b44", "resnt50"])
def test_a_wrong_name_names_the_nearest(tmp_path, model):
    with pytest.raises(EncoderError, match=r"Nearest: .*e"):
        image_encoder(tmp_path, dataclasses.replace(TINY, model=model))


@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_default_encoders_without_a_hub_are_one_line(tmp_path, modality, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    build, config = {
        "image": (build_image_encoder, ImageEncoderConfig()),
        "text": (build_text_encoder, TextEncoderConfig(model="google/none-such")),
    }[modality]
    with pytest.raises(EncoderError, match=r"not on disk and the hub is out of reach.*set: ") as error:
        build(modality, config, tmp_path, 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [{"model_type": "none-such"}, {"num_hidden_layers": "many"}, {"hidden_size": 0}, {"hidden_act": "none-such"}, None],
)
def test_a_folder_that_is_damaged_says_what_is_wrong_with_it(tmp_path, text_folder, damage):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(text_folder, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text("{" if damage is None else json.dumps({**settings, **damage}))
    with pytest.raises(EncoderError, match=r"encoder.words: .*(cannot be loaded|does not encode)") as error:
        build_text_encoder("words", TextEncoderConfig(model="./model", pretrained="random"), tmp_path, 0)
    assert "hub is out of reach" not in str(error.value)
    assert "\n" not in str(error.value)


def test_random_weights_ask_no_hub(tmp_path, text_folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("mmfeat.encoders.weights.hub_within_reach", lambda: pytest.fail("the hub was asked"))
    image_encoder(tmp_path)
    build_text_encoder("text", TextEncoderConfig(model=str(text_folder), pretrained="random"), tmp_path, 0)


def test_what_to_type_instead_goes_by_the_modality(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match=r'\[encoder.words\] set: model = "FOLDER"'):
        build_text_encoder("words", TextEncoderConfig(model="none-such"), tmp_path, 0)
    with pytest.raises(EncoderError, match=r'\[encoder.text\] set: pretrained = "FILE"'):
        build_image_encoder("text", ImageEncoderConfig(), tmp_path, 0)


@pytest.mark.parametrize(
    "change",
    [{"table": None}, {"table": 3}, {"spec": 3}, {"spec": {"modality": "text"}}, {"spec": {"x": 1}}, {"seconds": None}],
)
def test_a_damaged_record_of_a_checkpoint_is_one_line(extracted, change):
    from mmfeat.encoders.checkpoint import read_checkpoint

    folder = extracted.checkpoints / "text-1"
    record = json.loads((folder / "checkpoint.json").read_text())
    record = {key: value for key, value in {**record, **change}.items() if value is not None}
    (folder / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(EncoderError, match=r"checkpoint.json: damaged.*Remove the folder and run: mmfeat finetune"):
        read_checkpoint(folder)


@pytest.mark.parametrize("data", [None, b"", b"nonsense", "another"])
def test_a_damaged_output_of_a_checkpoint_is_one_line(extracted, data):
    from mmfeat.encoders.checkpoint import read_checkpoint

    file = extracted.checkpoints / "text-1" / "output.safetensors"
    if data == "another":
        from safetensors.numpy import save_file

        save_file({"weight": np.zeros((2, 64), np.float32), "bias": np.zeros(2, np.float32)}, file)
    elif data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    with pytest.raises(EncoderError, match=r"output.safetensors: damaged.*Remove the folder and run: mmfeat finetune"):
        read_checkpoint(file.parent).output()


@pytest.fixture
def fake_hub(tmp_path, monkeypatch, text_folder):
    """A hub folder on disk as the client leaves it, with the default encoders' names and random weights."""
    import timm
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel

    def snapshot(repository):
        folder = tmp_path / "hub" / ("models--" + repository.replace("/", "--"))
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        path = folder / "snapshots" / ("0" * 40)
        path.mkdir(parents=True)
        return path

    model = timm.create_model("test_efficientnet", num_classes=1000)
    cfg = timm.get_pretrained_cfg("test_efficientnet")
    save_file(model.state_dict(), snapshot(cfg.hf_hub_id) / "model.safetensors")
    folder = snapshot("google/bert_uncased_L-2_H-128_A-2")
    for file in text_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    AutoModel.from_config(AutoConfig.from_pretrained(text_folder)).save_pretrained(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return model


def test_pretrained_auto_reads_the_hubs_folder(tmp_path, fake_hub):
    encoder = image_encoder(tmp_path, dataclasses.replace(TINY, pretrained="auto"))
    got = encoder.network.state_dict()["conv_stem.weight"]
    assert torch.equal(got, fake_hub.state_dict()["conv_stem.weight"])


def test_from_pretrained_reads_the_hubs_folder(tmp_path, fake_hub):
    encoder = build_text_encoder("text", TextEncoderConfig(), tmp_path, 0)
    assert encoder.width == 64
    assert encoder.pooling == "mean"
    assert encoder.spec().key == build_text_encoder("text", TextEncoderConfig(), tmp_path, 7).spec().key


def test_moving_a_text_models_folder_changes_nothing(tmp_path, text_folder):
    import shutil

    shutil.copytree(text_folder, tmp_path / "elsewhere")
    config = TextEncoderConfig(model=str(text_folder), pretrained="random")
    a = build_text_encoder("text", config, tmp_path, 0)
    b = build_text_encoder("text", dataclasses.replace(config, model="./elsewhere"), tmp_path, 0)
    assert a.spec().key == b.spec().key
    b.encode(b.collate(["a star", "a much longer caption"]), CPU)
    assert a.spec().key == b.spec().key  # a call leaves padding in the tokenizer, which is no part of it


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_a_captions_embedding_does_not_depend_on_its_batch(tmp_path, text_folder, pooling):
    config = TextEncoderConfig(model=str(text_folder), pretrained="random", pooling=pooling)
    encoder = build_text_encoder("text", config, tmp_path, 0)
    alone = encoder.encode(encoder.collate(["a star"]), CPU).embeddings
    among = encoder.encode(
        encoder.collate(["a star", "there is a circle and a square and a moon " * 5]), CPU
    ).embeddings
    np.testing.assert_allclose(alone[0], among[0], atol=1e-5)
    assert not np.allclose(among[0], among[1], atol=1e-2)


def test_pooling_auto_is_what_a_sentence_transformers_folder_says(tmp_path, text_folder):
    import shutil

    folder = tmp_path / "st"
    shutil.copytree(text_folder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    encoder = build_text_encoder("text", TextEncoderConfig(model=str(folder), pretrained="random"), tmp_path, 0)
    assert encoder.pooling == "cls"


def test_strange_captions_are_encoded(tmp_path, text_folder):
    encoder = build_text_encoder("text", TextEncoderConfig(model=str(text_folder), pretrained="random"), tmp_path, 0)
    captions = ["x" * 100_000, "🙂🙃", "\udcff broken", "a " * 5000]
    embeddings = encoder.encode(encoder.collate([encoder.prepare(c) for c in captions]), CPU)
    assert np.isfinite(embeddings.embeddings).all()


def test_images_of_every_mode_become_rgb():
    transparent = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    data = io.BytesIO()
    transparent.save(data, "PNG")
    assert decode_image(data.getvalue()).getpixel((0, 0)) == (255, 255, 255)
    sixteen = Image.fromarray(np.full((8, 8), 40000, np.uint16))
    data = io.BytesIO()
    sixteen.save(data, "PNG")
    assert abs(decode_image(data.getvalue()).getpixel((0, 0))[0] - 40000 // 256) <= 1
    for mode, colour in (("CMYK", (0, 255, 255, 0)), ("L", 90), ("RGB", (9, 8, 7))):
        assert decode_image(jpeg(colour, mode=mode)).mode == "RGB"


def test_exif_orientation_is_followed():
    image = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    image.save(data, "JPEG", exif=exif)
    assert decode_image(data.getvalue()).size == (20, 40)


@pytest.mark.parametrize("data", [b"", b"no image", jpeg()[:200]], ids=["empty", "text", "truncated"])
def test_bytes_that_are_no_image_raise(data):
    with pytest.raises((OSError, ValueError)):
        decode_image(data)


def test_fine_tuning_resumed_is_the_undisturbed_one(project, monkeypatch):
    """Stopped after the first epoch and started again, it ends with the same bytes."""
    import shutil

    from mmfeat.encoders.finetuning import validated_epochs as module
    from mmfeat.project.project import Project
    from mmfeat.workflows.finetune import finetune

    def digests():
        (result,) = finetune(Project(project.root), ["text"]).encoders
        return (result.checkpoint.folder / "encoder.safetensors").read_bytes(), result.checkpoint.output().key

    straight = digests()
    shutil.rmtree(project.root / "checkpoints")
    keep = module.EncoderFit._keep

    def keep_and_stop(self):
        keep(self)
        if self.state.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.EncoderFit, "_keep", keep_and_stop)
    with pytest.raises(KeyboardInterrupt):
        digests()
    assert list((project.root / "checkpoints").glob(".resume-*"))
    monkeypatch.setattr(module.EncoderFit, "_keep", keep)
    assert digests() == straight
    assert not list((project.root / "checkpoints").glob(".resume-*"))


def test_fine_tuning_changes_the_key_of_its_encoder_alone(project):
    from mmfeat.project.project import Project
    from mmfeat.workflows.finetune import finetune

    before = {name: project.identity(name).spec.key for name in ("image", "text")}
    finetune(project, ["text"])
    after = {name: Project(project.root).identity(name).spec.key for name in ("image", "text")}
    assert before["image"] == after["image"]
    assert before["text"] != after["text"]


def test_estimating_changes_no_weight(project):
    from mmfeat.encoders.finetuning.validated_epochs import EncoderFit
    from mmfeat.encoders.resolve import build_encoder
    from mmfeat.training.encoder_training import samples_of

    encoder, _ = build_encoder(project.config, "image", project.checkpoints)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    samples = samples_of(project, "image", encoder)
    fit = EncoderFit(
        encoder,
        samples,
        project.config.finetune_of("image"),
        metric="samples-f1",
        rule=project.config.predict,
        seed=0,
        device=CPU,
        resume_file=project.root / "r",
        fingerprint="x",
    )
    assert fit.estimate() > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("precision", "arithmetic", "tf32"),
    [
        ("float32", "", False),
        ("float32", "float32", False),
        ("bfloat16", "", False),
        ("mixed", "float32", False),
        ("mixed", "tf32", True),
        ("mixed", "bfloat16", True),
        ("mixed", "float16", True),
    ],
)
def test_a_gpu_computes_in_tf32_only_where_the_precision_class_allows_it(tmp_path, precision, arithmetic, tf32):
    encoder = image_encoder(tmp_path, dataclasses.replace(TINY, precision=precision))
    flags = lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)  # noqa: E731
    before = flags()
    with encoder.autocast(torch.device("cuda"), arithmetic):
        assert flags() == (tf32, tf32)
    assert flags() == before
    with encoder.autocast(CPU, "float32"):
        assert flags() == before
