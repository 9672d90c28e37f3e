"""A Predictor executes its encoders by any engine with the same predictions, and by default takes the fastest one known."""

from __future__ import annotations

import numpy as np
import pytest

from mmfeat import Predictor
from mmfeat.common.errors import ConfigError
from mmfeat.encoders.engines import engine_class, graphs, selection
from mmfeat.predictor import predictor as predictor_module

FEW = list(np.random.default_rng(0).integers(0, 256, (7, 40, 56, 3), dtype=np.uint8))
WORDS = ["two dogs", "a red bench", None, "one", "a bench " * 60, "", "cat"]


@pytest.fixture(autouse=True)
def own_caches(monkeypatch, tmp_path_factory):
    """Graphs of the whole session, choices of this test."""
    folder = tmp_path_factory.mktemp("choices")
    monkeypatch.setattr(selection, "user_cache_path", lambda name: folder / name)
    monkeypatch.setattr(graphs, "user_cache_path", lambda name: tmp_path_factory.getbasetemp() / "graphs" / name)
    monkeypatch.setattr(selection, "SECONDS", 0.01)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_every_engine_predicts_as_torch_does(exported, name):
    if not engine_class(name).installed():
        pytest.skip(f"{name} is not installed")
    wanted = Predictor.load(exported, engine="torch").predict(FEW, WORDS)
    model = Predictor.load(exported, engine=name)
    found = model.predict(FEW, WORDS)
    assert model.networks.engines == {"image": f"{name} float32", "text": f"{name} float32"}
    assert np.abs(found.probs - wanted.probs).max() < 1e-4
    assert np.abs(model.predict(FEW[0], WORDS[0]).probabilities["star"] - wanted[0].probabilities["star"]) < 1e-4


def test_few_items_are_predicted_by_torch(exported):
    model = Predictor.load(exported)
    model.predict(FEW, WORDS)
    assert set(model.networks.engines.values()) == {"torch float32"}


def test_a_long_call_measures_the_engines_and_the_next_model_knows(exported, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(predictor_module, "LONG", 0.0)
    monkeypatch.setattr(selection, "_FEW", 5)
    wanted = Predictor.load(exported, engine="torch").predict(FEW, WORDS)
    model = Predictor.load(exported)
    model.predict(FEW[:2], WORDS[:2])
    found = model.predict(FEW, WORDS)
    assert np.abs(found.probs - wanted.probs).max() < 1e-4
    again = Predictor.load(exported)
    again.predict(FEW[0])
    assert again.networks.engines["image"] == model.networks.engines["image"]


def test_a_server_that_starts_measures_on_made_up_samples(exported):
    model = Predictor.load(exported)
    engines = model.select_engines()
    assert set(engines) == {"image", "text"}
    assert model.select_engines() == engines
    assert len(model.predict(FEW, WORDS)) == 7


def test_an_engine_measured_on_made_up_samples_is_known_to_others_once_it_agreed_on_real_ones(exported, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(selection, "_rate", lambda engine, *_: float(engine.choice.engine == "onnxruntime"))
    wanted = Predictor.load(exported, engine="torch").predict(FEW * 6, WORDS * 6)
    server = Predictor.load(exported)
    engines = server.select_engines()
    assert engines["image"] == "onnxruntime float32"
    other = Predictor.load(exported)
    other.predict(FEW[0])
    assert other.networks.engines["image"] == "torch float32"
    assert np.abs(server.predict(FEW * 6, WORDS * 6).probs - wanted.probs).max() < 1e-4
    other = Predictor.load(exported)
    other.predict(FEW[0])
    assert other.networks.engines["image"] == engines["image"]


def test_an_unknown_engine_is_one_line(exported, exported_onnx):
    with pytest.raises(
        ConfigError, match=r"^engine = 'tensorrt'\. Use one of: auto, torch, compile, onnxruntime, openvino$"
    ):
        Predictor.load(exported, engine="tensorrt")
    with pytest.raises(ConfigError, match="was exported for onnxruntime, and engine 'torch' executes models for torch"):
        Predictor.load(exported_onnx, engine="torch")
    assert Predictor.load(exported_onnx, engine="onnxruntime").networks.engines["image"] == "onnxruntime float32"
