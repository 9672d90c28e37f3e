"""Models by name: the paper's, what is nearest to a wrong one, models of the wrong kind, and what is listed of each."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from helpers.command_line import run_cli
from helpers.encoders import CPU, TINY, image_encoder

from mmfeat.common.errors import ConfigError, EncoderError
from mmfeat.config.encoder_tables import ImageEncoderConfig, TextEncoderConfig
from mmfeat.encoders.families.image_network import build_image_encoder
from mmfeat.encoders.families.sentence_folders import after_pooling, stated_pooling
from mmfeat.encoders.families.transformer_text import build_text_encoder
from mmfeat.encoders.weights import load_strictly
from mmfeat.workflows.encoders import PAPER, encoders, models

WIDTHS = {
    "mobilenetv3_large_100": 1280,
    "shufflenet_v2_x2_0": 2048,
    "efficientnet_b0": 1280,
    "efficientnet_b1": 1280,
    "efficientnet_b2": 1408,
    "efficientnet_b3": 1536,
    "efficientnet_b4": 1792,
    "efficientnetv2_s": 1280,
    "google/bert_uncased_L-2_H-128_A-2": 128,
    "albert-base-v2": 768,
}


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "hub"


def build_text(folder, **changes):
    return build_text_encoder("text", TextEncoderConfig(**{"pretrained": "random", **changes}), folder, 0)


def in_hub(hub, name, files):
    """A model in the hub's folder, as its client leaves it."""
    folder = hub / ("models--" + name.replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    shutil.copytree(files, folder / "snapshots" / ("0" * 40))
    return folder / "snapshots" / ("0" * 40)


@pytest.mark.parametrize("model", PAPER["image"])
def test_every_image_encoder_of_the_paper_is_built_by_its_name(tmp_path, model):
    with torch.device("meta"):
        encoder = build_image_encoder("image", ImageEncoderConfig(model=model, pretrained="random"), tmp_path, 0)
    assert encoder.width == WIDTHS[model]


@pytest.mark.parametrize("model", [*PAPER["text"], "albert/albert-base-v2"])
def test_every_text_encoder_of_the_paper_is_built_by_its_name(tmp_path, empty_hub, text_folder, model):
    today = "albert/albert-base-v2" if "albert" in model else model
    in_hub(empty_hub, today, text_folder)
    encoder = build_text(tmp_path, model=model)
    assert encoder.own_files() == [empty_hub / ("models--" + today.replace("/", "--"))]
    assert encoder.encode(encoder.collate(["a star"]), CPU).embeddings.shape == (1, 64)


def test_a_name_without_weights_means_the_same_network_with_weights(tmp_path):
    with pytest.raises(EncoderError, match="'efficientnetv2_s' is not on disk"):
        image_encoder(tmp_path, ImageEncoderConfig(model="efficientnetv2_s"))
    (listed,) = (one for one in encoders(tmp_path).models if one.model == "efficientnetv2_s")
    assert listed.note == "is timm's tf_efficientnetv2_s"
    with pytest.raises(EncoderError, match=r"timm has no weights of efficientnetv2_l. Nearest.*: \S+, \S+, \S+$"):
        image_encoder(tmp_path, ImageEncoderConfig(model="efficientnetv2_l"))
    with pytest.raises(EncoderError, match=r"no weights 'best' of efficientnet_b0. It has: .*ra_in1k"):
        image_encoder(tmp_path, ImageEncoderConfig(model="efficientnet_b0.best"))


def test_an_architecture_that_has_no_weights_is_saved_and_made_again(tmp_path):
    from mmfeat.encoders.portable import load_encoder, save_encoder

    encoder = image_encoder(tmp_path, dataclasses.replace(TINY, model="mobilenetv2_035"))
    record = save_encoder(encoder, tmp_path / "saved")
    assert load_encoder("image", record, tmp_path / "saved").spec() == encoder.spec()


def test_the_papers_encoders_in_figures_without_any_weight(tmp_path, monkeypatch):
    listed = encoders(tmp_path)
    assert not listed.project
    found = {one.model: one for one in listed.models}
    assert {name: one.width for name, one in found.items()} == WIDTHS
    assert {one.weights for one in listed.models} == {"to fetch"}
    assert found["efficientnet_b4"].size_mb == pytest.approx(70.7, abs=0.1)
    assert found["efficientnet_b4"].takes == "320 px"
    assert found["google/bert_uncased_L-2_H-128_A-2"].parameters == 4_369_408  # 4.4 million, as its card says
    monkeypatch.setattr("mmfeat.encoders.catalogue.describe_image", lambda *_: pytest.fail("counted again"))
    assert encoders(tmp_path) == listed


def test_the_projects_encoders_are_listed_and_one_that_is_wrong_says_so(project_folder, tmp_path):
    file = project_folder / "mmfeat.toml"
    more = '[encoder.typo]\nmodality = "image"\nmodel = "efficientnet_bo"\n[encoder.words]\nmodality = "text"\nmodel = "tfidf"\n'
    file.write_text(file.read_text(encoding="utf-8") + more, encoding="utf-8")
    ours = encoders(project_folder / "runs").project
    assert list(ours) == ["image", "text", "typo", "words"]
    assert (ours["image"].takes, ours["image"].weights, ours["image"].source) == ("32 px", "random", "timm")
    assert (ours["text"].width, ours["text"].takes) == (64, "64 tokens")
    assert "Nearest: efficientnet_b" in ours["typo"].note
    assert ours["words"].width == 1024
    out = run_cli("encoders", cwd=tmp_path).stdout
    assert "is timm's tf_efficientnetv2_s" in out
    assert out.splitlines()[-1].endswith("Next: mmfeat encoders PATTERN")
    file.write_text("schema = 2", encoding="utf-8")
    with pytest.raises(ConfigError, match="schema"):
        encoders(project_folder)


def test_models_by_a_part_of_their_name(monkeypatch):
    assert [one.model for one in models("shufflenet").models] == [
        f"shufflenet_v2_x{n}" for n in ("0_5", "1_0", "1_5", "2_0")
    ]
    many = models("res*18")
    assert [one.model for one in many.models][:2] == ["resnet18", "torchvision:resnet18"]
    assert all(one.model.endswith("18") for one in many.models)
    monkeypatch.setattr("mmfeat.workflows.encoders.SHOWN", 2)
    assert len(models("resnet").models) == 2 < models("resnet").n_more
    (none,) = models("squeezenet1_1").models
    assert "has no pooled features" in none.note
    with pytest.raises(EncoderError, match=r"no model .* matches 'efficientnt_b0'. Nearest: efficientnet_b"):
        models("efficientnt_b0")


@pytest.mark.parametrize(
    "model", ["google/bert_uncased_L-2_H-128_A-2", "google/some-bert", "albert-base-v2", "./model"]
)
def test_a_text_model_for_images_says_what_to_write(tmp_path, text_folder, model):
    if model == "./model":
        shutil.copytree(text_folder, tmp_path / "model")
    with pytest.raises(EncoderError, match=r'encoder.image: .* is a text model .*modality = "text"'):
        image_encoder(tmp_path, dataclasses.replace(TINY, model=model))


@pytest.mark.parametrize(
    "model", ["efficientnet_b0", "shufflenet_v2_x2_0", "timm/resnet18.a1_in1k", "torchvision:resnet18"]
)
def test_an_image_model_for_texts_says_what_to_write(tmp_path, model):
    with pytest.raises(EncoderError, match=r'encoder.text: .* is an image model.*set: modality = "image"'):
        build_text(tmp_path, model=model)


def test_a_folder_of_images_for_texts_is_refused(tmp_path):
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(EncoderError, match=r"encoder.text: './vit' is an image model of transformers \(vit\)"):
        build_text(tmp_path, model="./vit")
    with pytest.raises(EncoderError, match=r"encoder.image: './vit' is a folder of transformers"):
        image_encoder(tmp_path, dataclasses.replace(TINY, model="./vit"))


def test_a_wrong_name_of_a_text_model_names_the_nearest(tmp_path):
    with pytest.raises(EncoderError, match="Nearest known names: google/bert_uncased_L-2_H-128_A-2") as error:
        build_text(tmp_path, model="google/bert_uncased_L2_H128")
    assert "\n" not in str(error.value)


def test_a_network_without_pooled_features_is_refused(tmp_path):
    with (
        torch.device("meta"),
        pytest.raises(EncoderError, match=r"qwen3_vit_88m_enc: returns features of shape \(1, "),
    ):
        image_encoder(tmp_path, ImageEncoderConfig(model="qwen3_vit_88m_enc", pretrained="random"))


@pytest.mark.parametrize(
    ("stated", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 64}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "cls", "embedding_dimension": 64}, "cls"),
        ({"pooling_mode": ["max"]}, "max"),
        ({"word_embedding_dimension": 64}, "mean"),
        ({"pooling_mode": ["cls", "mean"]}, None),
        ({"pooling_mode": "lasttoken"}, None),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, None),
        ({"pooling_mode_weightedmean_tokens": True}, None),
    ],
)
def test_pooling_is_what_either_layout_of_sentence_transformers_says(tmp_path, stated, pooling):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(stated))
    if pooling is None:
        with pytest.raises(EncoderError, match=r'pools by .*, which mmfeat does not support.*pooling = "mean"'):
            stated_pooling("text", str(tmp_path))
    else:
        assert stated_pooling("text", str(tmp_path)) == pooling


def test_pooling_can_be_chosen_and_what_comes_after_it_is_said(tmp_path, empty_hub, text_folder):
    place = in_hub(empty_hub, "some/sentences", text_folder)
    kinds = {"": "Transformer", "pool": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "pool").mkdir()
    (place / "pool" / "config.json").write_text(json.dumps({"pooling_mode": "lasttoken"}))
    with pytest.raises(EncoderError, match="lasttoken"):
        build_text(tmp_path, model="some/sentences")
    assert build_text(tmp_path, model="some/sentences", pooling="cls").pooling == "cls"
    assert after_pooling("some/sentences") == ["Dense", "Normalize"]


def test_a_tokenizer_that_never_pads_still_makes_batches(tmp_path, text_folder):
    """As those of decoders: no padding token, and a batch of captions of different lengths."""
    shutil.copytree(text_folder, tmp_path / "gpt")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = tmp_path / "gpt" / name
        if file.is_file():
            kept = {key: value for key, value in json.loads(file.read_text()).items() if key != "pad_token"}
            file.write_text(json.dumps(kept))
    size = json.loads((text_folder / "config.json").read_text())["vocab_size"]
    settings = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": size, "n_positions": 64}
    (tmp_path / "gpt" / "config.json").write_text(json.dumps(settings))
    encoder = build_text(tmp_path, model="./gpt")
    alone, _ = encoder.encode(encoder.collate(["a star", "a circle and a square and a moon"]), CPU).embeddings
    assert alone == pytest.approx(encoder.encode(encoder.collate(["a star"]), CPU).embeddings[0], abs=1e-5)


class Foreign(torch.nn.Module):
    """Two tensors that are wanted."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 2, bias=False)
        self.norm = torch.nn.Linear(2, 1, bias=False)


WANTED = {"first.weight": torch.ones(2, 3), "norm.weight": torch.ones(1, 2)}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "bert.", "module.0.auto_model."])
def test_tensors_are_found_behind_any_prefix_and_classifiers_beside_them_are_left(tmp_path, prefix):
    state = {prefix + name: tensor for name, tensor in WANTED.items()}
    above = prefix.partition(".")[0] + "." if prefix.count(".") > 1 else ""
    network = Foreign()
    load_strictly(network, {**state, f"{above}cls.bias": torch.zeros(1)}, tmp_path, unused=("cls.",))
    assert all(torch.equal(tensor, WANTED[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(EncoderError, match=r"1 unexpected \(other.bias\)"):
        load_strictly(network, {**state, "other.bias": torch.zeros(1)}, tmp_path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"first.weight": torch.ones(2, 3)}, r"1 missing \(norm.weight\)$"),
        ({**WANTED, "first.weight": torch.ones(3, 3)}, r"1 of another shape \(first.weight \(3, 3\) for \(2, 3\)\)$"),
        (
            {f"{who}.{name}": t for who in ("student", "teacher") for name, t in WANTED.items()},
            r"several networks .*student\., teacher\.",
        ),
        (
            {"a": torch.ones(2, 3), "b": torch.ones(1, 2), "c": torch.ones(5, 1), "d": torch.ones(5)},
            r"2 missing .*; 4 unexpected .*shapes match in order: save them under the model's names",
        ),
        ({"b": torch.ones(1, 2), "a": torch.ones(2, 3)}, r"2 missing .*; 2 unexpected \(b, a\)$"),
    ],
)
def test_weights_that_do_not_fit_say_how(tmp_path, state, message):
    network = Foreign()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(EncoderError, match=message):
        load_strictly(network, state, tmp_path / "w.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
