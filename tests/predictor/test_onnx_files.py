"""A model as ONNX: what onnxruntime makes of it equals torch, for any items; what is missing is said in one line."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.projects import TUNED
from torch import nn

from mmfeat import Predictor
from mmfeat.common.errors import ConfigError, DataError, EncoderError, RunError
from mmfeat.common.seals import read_sealed, seal_folder
from mmfeat.encoders.families.tfidf import TfidfEncoder
from mmfeat.encoders.onnx_graphs import keep_as_float16
from mmfeat.encoders.portable import load_preparation
from mmfeat.encoders.preparation import ImagePreparation
from mmfeat.predictor.loaded_networks import OnnxNetworks
from mmfeat.predictor.onnx_files import save_encoder_onnx, save_heads_onnx
from mmfeat.project.project import Project
from mmfeat.runs.composition import Composition, ProbePart
from mmfeat.workflows.export import export

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FEW = np.random.default_rng(0).integers(0, 256, (7, 40, 56, 3), dtype=np.uint8)
WORDS = ["two dogs", "a red bench", None, "one", "a bench " * 60, "", "cat"]


@pytest.fixture(scope="module")
def by_onnx(exported_onnx) -> Predictor:
    return Predictor.load(exported_onnx)


@pytest.fixture(scope="module")
def by_torch(trained, tmp_path_factory) -> Predictor:
    return Predictor.load(export(Project(trained, TUNED), "fm3-1", tmp_path_factory.mktemp("torch") / "model").folder)


def same(found, wanted, tolerance=1e-4) -> None:
    assert np.array_equal(found.known, wanted.known)
    assert np.abs(found.probs - wanted.probs).max(initial=0) < tolerance
    for name in ("image", "text"):
        assert np.allclose(found.unimodal[name], wanted.unimodal[name], atol=tolerance, equal_nan=True)


def test_the_folder_has_been_compared_with_torch_and_the_cache(exported_onnx):
    checked = json.loads((exported_onnx.parent / "checked.json").read_text(encoding="utf-8"))
    assert min(checked["n_checked"], checked["n_run"]) > 0
    assert max(checked["runtime_difference"], checked["difference"]) < 1e-4
    names = {path.name for path in exported_onnx.rglob("*") if path.is_file()}
    assert {"model.onnx", "heads.onnx", "mmfeat.json", "tokenizer.json"} <= names
    assert not any(name.endswith(".safetensors") for name in names)
    assert str(exported_onnx.parent).encode() not in b"".join(p.read_bytes() for p in exported_onnx.rglob("*.onnx"))


@pytest.mark.parametrize("n", [1, 3, 7])
def test_it_equals_torch_whatever_is_there(by_onnx, by_torch, n):
    assert isinstance(by_onnx.networks, OnnxNetworks)
    images, captions = list(FEW[:n]), WORDS[:n]
    images[n // 2] = None
    for one, other in ((images, captions), (images, None), (None, captions), (None, [None] * n)):
        same(by_onnx.predict(one, other), by_torch.predict(one, other))
    same(by_onnx.predict(images, captions, batch_size=2), by_torch.predict(images, captions))


def test_no_item_gives_no_prediction(by_onnx):
    assert by_onnx.predict([], []).probs.shape == (0, len(by_onnx.classes))


def test_threads_get_what_one_caller_gets(by_onnx):
    wanted = [by_onnx.predict(FEW[i], WORDS[i]).probabilities for i in range(7)]
    with ThreadPoolExecutor(7) as pool:
        found = list(pool.map(lambda i: by_onnx.predict(FEW[i % 7], WORDS[i % 7]).probabilities, range(35)))
    for i, one in enumerate(found):
        assert one == pytest.approx(wanted[i % 7], abs=1e-5)


def test_float16_halves_the_weights_and_hardly_moves_the_embeddings(exported_onnx, tmp_path):
    import onnxruntime

    file = exported_onnx / "encoders" / "text" / "model.onnx"
    model = onnx.load(file)
    keep_as_float16(onnx, model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.75 * file.stat().st_size  # the rest is the graph
    inputs = {"input_ids": np.array([[2, 5, 6, 3]]), "attention_mask": np.ones((1, 4), np.int64)}
    whole, half = (onnxruntime.InferenceSession(f).run(None, inputs)[0] for f in (file, tmp_path / "half.onnx"))
    assert 0 < np.abs(whole - half).max() < 0.01
    large = onnx.numpy_helper.from_array(np.full(2048, 1e5, np.float32), "wide")
    with pytest.raises(EncoderError, match="float16 cannot hold wide"):
        keep_as_float16(onnx, onnx.helper.make_graph([], "g", [], [], [large]))


def test_one_encoders_output_alone_is_a_graph_too(tmp_path):
    import onnxruntime

    part = ProbePart("image", 4, 3)
    nn.init.normal_(part.prior)
    composition = Composition({"image": part}, "image", 3)
    save_heads_onnx(composition, {"image": 4}, tmp_path / "heads.onnx", dtype="float32")
    engine = OnnxNetworks(
        {}, heads=onnxruntime.InferenceSession(tmp_path / "heads.onnx"), preparations={}, device=torch.device("cpu")
    )
    x, there = (
        np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32),
        np.array([True, False, True, True, False]),
    )
    found = engine.compose({"image": x}, {"image": there})
    wanted, known = composition({"image": torch.from_numpy(x)}, {"image": torch.from_numpy(there)})
    assert np.allclose(found.logits, wanted.detach(), atol=1e-6)
    assert np.array_equal(found.known, known)
    assert np.allclose(found.unimodal["image"], found.logits)


class Unfollowable(nn.Module):
    """A network whose way depends on the values that it sees."""

    kind, modality, architecture, width, pooling, precision = "image", "image", "odd-net", 3, "mean", "float32"

    def __init__(self):
        super().__init__()
        config = {
            "input_size": (3, 8, 8),
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        }
        self.preparation = ImagePreparation(config)

    def forward(self, batch):
        pixels = batch["pixels"].float()
        return pixels.mean((2, 3)) if pixels.sum().item() > 100 else pixels.amax((2, 3))


def test_a_network_that_cannot_be_written_is_one_line_with_its_name(tmp_path, capfd):
    with pytest.raises(
        EncoderError, match=r"^encoder\.eye: odd-net cannot be written as ONNX: .*--format torch$"
    ) as caught:
        save_encoder_onnx("eye", Unfollowable(), tmp_path / "eye", dtype="float32")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def copied(exported_onnx, tmp_path):
    return shutil.copytree(exported_onnx, tmp_path / "copy")


def test_an_incomplete_folder_is_refused(copied):
    (copied / "encoders" / "image" / "model.onnx").unlink()
    with pytest.raises(RunError, match=r"incomplete: encoders/image/model\.onnx is missing"):
        Predictor.load(copied)


def test_a_file_that_is_no_graph_is_one_line(copied):
    (copied / "heads.onnx").write_bytes(b"no graph at all")
    record = read_sealed(copied / "mmfeat.json")
    (copied / "mmfeat.json").unlink()
    seal_folder(copied, "mmfeat.json", record)
    with pytest.raises(RunError, match="cannot be loaded by this version: ") as caught:
        Predictor.load(copied)
    assert "\n" not in str(caught.value)


def test_without_the_extra_it_is_said_what_to_install(exported_onnx, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmfeat\[onnx\]'"):
        Predictor.load(exported_onnx)
    with pytest.raises(ConfigError, match=r"pip install 'mmfeat\[onnx\]'"):
        export(Project(trained), "fm3-1", tmp_path / "model", format="onnx")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(exported_onnx, device):
    with pytest.raises(ConfigError, match=rf"device = '{device}'"):
        Predictor.load(exported_onnx, device)


def test_what_is_no_image_is_said_as_by_torch(by_onnx):
    with pytest.raises(DataError, match="image 0"):
        by_onnx.predict([b"no image"], ["a caption"])


def test_words_are_counted_as_by_torch(tmp_path):
    import onnxruntime

    encoder = TfidfEncoder.fit(["two dogs on a bench", "a red bench", "two red cats on a bench"], 9, 1)
    record = save_encoder_onnx("words", encoder, tmp_path, dtype="float32")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    preparation = load_preparation(record, tmp_path)
    for captions in (["two red red benches, two dogs on it", "none", "bench"], ["bench"], ["none"] * 5):
        batch = preparation.collate([preparation.prepare(caption) for caption in captions])
        found = session.run(None, {name: values.numpy() for name, values in batch.items()})[0]
        assert found == pytest.approx(encoder.encode(batch, torch.device("cpu")).embeddings, abs=1e-6)
