"""The selected engine agrees with torch, is the fastest where it was measured, and stays the same on resuming."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from helpers.encoders import CPU, image_encoder

from mmfeat.common.errors import ConfigError, EncoderError
from mmfeat.encoders.batches import Encoded
from mmfeat.encoders.engines import engine, selection
from mmfeat.encoders.engines.agreement import disagreement
from mmfeat.encoders.engines.engine import Choice, Engine, engine_class
from mmfeat.encoders.engines.selection import EngineSelection

SECONDS = {"torch": 0.1, "onnxruntime": 0.001, "openvino": 0.05}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A cache of this test, and measurements of an instant."""
    monkeypatch.setattr(selection, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(selection, "SECONDS", 0.01)


@pytest.fixture
def fakes(monkeypatch):
    """Engines that compute as torch does, each slower than torch or faster by sleeping; a dict of faults by name."""
    faults: dict[str, str] = {}
    real = engine_class("torch")

    def fake(title: str) -> type[Engine]:
        class Fake(Engine):
            name, package = title, "torch"

            @classmethod
            def choices(cls, encoder, device):
                return [Choice(title, "float32")]

            def __init__(self, *args, **more):
                super().__init__(*args, **more)
                if faults.get(title) == "refuses":
                    raise RuntimeError("no such instruction\nat 0x0")
                self.torch = real(self.encoder, self.device, real.choices(self.encoder, self.device)[0])

            def encode(self, batch):
                if faults.get(title) == "breaks":
                    raise RuntimeError("no memory\nat 0x0")
                time.sleep(SECONDS[title])
                found = self.torch.encode(batch).embeddings
                return Encoded(found * 1.01 if faults.get(title) == "differs" else found)

        return Fake

    registered = {name: fake(name) for name in SECONDS}
    monkeypatch.setattr(engine, "_ENGINES", registered)
    return faults


def samples(n=40):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    return list(torch.from_numpy(pixels))


def select(tmp_path, n_rows=10**6, asked="auto", **more):
    encoder = image_encoder(tmp_path).eval()
    return EngineSelection(encoder, CPU, asked).select(n_rows, samples, **more)


def test_long_work_takes_the_fastest_and_remembers_it(fakes, tmp_path, monkeypatch):
    found = select(tmp_path)
    assert found.engine.choice == Choice("onnxruntime", "float32")
    assert found.summary.startswith("onnxruntime (float32), batches of 16: ")
    assert "; openvino " in found.summary
    monkeypatch.setitem(SECONDS, "openvino", 0.0)  # timing must not change the results of resumed work
    again = select(tmp_path, n_rows=3)
    assert (again.engine.choice, again.summary) == (found.engine.choice, "")
    assert select(tmp_path, tune=True).engine.choice.engine in ("openvino", "onnxruntime")


@pytest.mark.parametrize("n_rows", [0, 100, 300])
def test_short_work_takes_torch_without_a_measurement(fakes, tmp_path, n_rows):
    found = select(tmp_path, n_rows=n_rows)
    assert (found.engine.choice.engine, found.measured) == ("torch", ())


def test_work_that_another_engine_began_continues_with_it(fakes, tmp_path):
    assert select(tmp_path, n_rows=300, earlier=["openvino float32"]).engine.choice.engine == "openvino"


def test_of_other_versions_nothing_is_remembered(fakes, tmp_path, monkeypatch):
    assert select(tmp_path).measured
    monkeypatch.setattr(Engine, "version", classmethod(lambda cls: f"{cls.name} 99"))
    assert select(tmp_path).measured


@pytest.mark.parametrize("fault", ["refuses", "differs"])
def test_an_engine_that_fails_or_disagrees_is_left_out_with_one_line(fakes, tmp_path, capsys, fault):
    fakes["onnxruntime"] = fault
    assert select(tmp_path).engine.choice.engine == "openvino"
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert lines[0].startswith("test_efficientnet: onnxruntime (float32) is left out: ")


@pytest.mark.parametrize("fault", ["refuses", "differs"])
def test_an_engine_that_was_asked_for_and_fails_is_an_error(fakes, tmp_path, fault):
    fakes["openvino"] = fault
    with pytest.raises(EncoderError, match=r"^test_efficientnet: openvino \(float32\): ") as caught:
        select(tmp_path, n_rows=50, asked="openvino")
    assert "\n" not in str(caught.value)


def test_an_engine_that_cannot_execute_the_encoder_is_refused(fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_class("openvino"), "choices", classmethod(lambda cls, *_: []))
    with pytest.raises(
        ConfigError, match="engine 'openvino' cannot execute test_efficientnet with precision 'float32'"
    ):
        select(tmp_path, asked="openvino")


def test_a_remembered_engine_that_fails_now_is_measured_again(fakes, tmp_path, capsys):
    assert select(tmp_path).engine.choice.engine == "onnxruntime"
    fakes["onnxruntime"] = "refuses"
    assert select(tmp_path).engine.choice.engine == "openvino"
    assert "test_efficientnet: onnxruntime cannot be used: no such instruction" in capsys.readouterr().err


def test_a_torch_of_two_memory_layouts_is_left_in_the_fastest(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_ENGINES", {"torch": engine_class("torch")})
    encoder = image_encoder(tmp_path).eval()
    found = EngineSelection(encoder, CPU).select(10**7, samples)
    assert {one.choice.settings["channels_last"] for one in found.measured} == {True, False}
    assert found.engine.choice == found.measured[0].choice


def test_a_measurement_names_an_engine_that_is_not_installed(fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_class("onnxruntime"), "exported", True)
    assert "pip install" not in select(tmp_path).summary
    monkeypatch.setattr(engine_class("openvino"), "extra", "openvino")
    monkeypatch.setattr(engine_class("openvino"), "modules", ("no_such_module",))
    assert select(tmp_path, tune=True).summary.endswith(". For openvino: pip install 'mmfeat[openvino]'")


def test_torch_that_was_asked_for_reads_no_sample_and_measures_nothing(tmp_path):
    def refuse():
        raise AssertionError("a sample was read")

    encoder = image_encoder(tmp_path).eval()
    found = EngineSelection(encoder, CPU, "torch").select(10**7, refuse)
    assert (found.engine.choice, found.measured) == (Choice("torch", "float32", {"channels_last": True}), ())


def encoded(engine, start, n=16):
    """Embeddings of some of the samples, by an engine."""
    return engine.encode(engine.encoder.collate(samples()[start : start + n])).embeddings


def test_an_engine_measured_on_generated_samples_is_on_trial_until_it_agrees_on_real_ones(fakes, tmp_path, monkeypatch):
    found = select(tmp_path, generated=True)
    assert found.engine.choice == Choice("onnxruntime", "float32")
    assert select(tmp_path, n_rows=3).engine.choice.engine == "torch"  # whoever has real samples selects for himself
    again = select(tmp_path, generated=True)  # remembered for the next server
    assert (again.engine.choice.engine, again.summary) == ("onnxruntime", "")
    wanted = [encoded(select(tmp_path, asked="torch").engine, start) for start in (0, 16, 24)]
    calls = []
    monkeypatch.setattr(time, "sleep", calls.append)
    assert np.array_equal(encoded(again.engine, 0), wanted[0])
    assert np.array_equal(encoded(again.engine, 16), wanted[1])
    assert calls == [0.1, 0.001, 0.1, 0.001]  # torch and the engine, 32 samples
    assert np.array_equal(encoded(again.engine, 24), wanted[2])
    assert calls[4:] == [0.001]
    assert select(tmp_path, n_rows=3).engine.choice.engine == "onnxruntime"


@pytest.mark.parametrize("fault", ["breaks", "differs"])
def test_an_engine_that_fails_its_trial_answers_nothing_and_the_next_is_tried(fakes, tmp_path, capsys, fault):
    found = select(tmp_path, generated=True)
    wanted = encoded(select(tmp_path, asked="torch").engine, 0)
    fakes["onnxruntime"] = fault
    for _ in range(5):
        assert np.array_equal(encoded(found.engine, 0), wanted)
    assert found.engine.choice.engine == "openvino"
    assert select(tmp_path, n_rows=3).engine.choice.engine == "openvino"
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert lines[0].startswith("test_efficientnet: onnxruntime (float32) is left out: ")


def test_of_generated_samples_the_median_cosine_of_fast_arithmetic_does_not_count():
    reference = np.random.default_rng(0).normal(size=(64, 100))
    near = reference + np.random.default_rng(1).normal(size=(64, 100)) * 0.06
    assert "in the median" in disagreement(near, reference, "bfloat16")
    assert not disagreement(near, reference, "bfloat16", generated=True)
    assert disagreement(near, reference, "float32", generated=True)
    assert disagreement(near + 3 * (near[:, :1] > 0), reference, "bfloat16", generated=True)
