"""Engines compute the embeddings of torch, for any batch, with and without tokens."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.encoders import CPU, TINY, image_encoder

from mmfeat.common.errors import ConfigError, EncoderError
from mmfeat.config.schema import ENGINES, TextEncoderConfig
from mmfeat.encoders.engines import engine_class, engines, graphs
from mmfeat.encoders.engines.agreement import disagreement
from mmfeat.encoders.engines.engine import Choice
from mmfeat.encoders.families.tfidf import TfidfEncoder
from mmfeat.encoders.families.transformer_text import build_text_encoder

MIXED = dataclasses.replace(TINY, precision="mixed")
FAST = ("torch", "onnxruntime", "openvino")  # compiling takes a minute


@pytest.fixture(scope="module")
def graph_cache(tmp_path_factory):
    """A cache of graphs for this module."""
    folder = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "user_cache_path", lambda name: folder / name)
        yield folder


def text_encoder(text_folder, precision="float32"):
    config = TextEncoderConfig(model=str(text_folder), pretrained="random", precision=precision)
    return build_text_encoder("text", config, text_folder, 0)


def pictures(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"pixels": torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8))}


def opened(name, encoder, tokens=0, arithmetic=None):
    pytest.importorskip(engine_class(name).modules[0] if engine_class(name).modules else "torch")
    choices = engine_class(name).choices(encoder, CPU)
    choice = next(one for one in choices if arithmetic in (None, one.arithmetic))
    return engine_class(name)(encoder, CPU, choice, tokens=tokens)


def test_the_settings_list_all_engines_and_torch_is_the_first():
    assert tuple(engines()) == ENGINES
    assert ENGINES[0] == "torch"


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("tokens", [0, 2])
def test_images_get_the_embeddings_and_tokens_of_torch(name, tokens, graph_cache, tmp_path):
    encoder = image_encoder(tmp_path).eval()
    engine = opened(name, encoder, tokens)
    for n in (1, 2, 5):
        wanted, found = encoder.encode(pictures(n), CPU, tokens), engine.encode(pictures(n))
        assert disagreement(found.embeddings, wanted.embeddings, "float32") == ""
        assert found.embeddings.dtype == np.float32
        if tokens:
            np.testing.assert_allclose(found.tokens, wanted.tokens, atol=1e-4)
            assert found.lengths.tolist() == wanted.lengths.tolist()


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("tokens", [0, 4])
def test_captions_of_any_length_get_the_embeddings_and_tokens_of_torch(name, tokens, graph_cache, text_folder):
    encoder = text_encoder(text_folder).eval()
    engine = opened(name, encoder, tokens)
    for captions in (["a circle"], ["a red star above a moon", "a"], ["a star " * 60, "moon", "a circle and"]):
        batch = encoder.collate(captions)
        wanted, found = encoder.encode(batch, CPU, tokens), engine.encode(batch)
        assert disagreement(found.embeddings, wanted.embeddings, "float32") == ""
        if tokens:
            there = np.arange(tokens) < wanted.lengths[:, None]
            assert found.lengths.tolist() == wanted.lengths.tolist()
            np.testing.assert_allclose(found.tokens[there], wanted.tokens[there], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_compiled_networks_agree(precision, tmp_path):
    encoder = image_encoder(tmp_path, dataclasses.replace(TINY, precision=precision)).eval()
    engine = opened("compile", encoder)
    wanted = image_encoder(tmp_path).eval().encode(pictures(4), CPU).embeddings
    assert disagreement(engine.encode(pictures(4)).embeddings, wanted, engine.choice.arithmetic) == ""


@pytest.mark.parametrize("name", FAST)
def test_every_arithmetic_of_mixed_is_close_to_float32(name, graph_cache, tmp_path):
    encoder = image_encoder(tmp_path, MIXED).eval()
    wanted = image_encoder(tmp_path).eval().encode(pictures(8), CPU).embeddings
    if not engine_class(name).installed():
        pytest.skip(f"{name} is not installed")
    choices = engine_class(name).choices(encoder, CPU)
    assert "float32" in {choice.arithmetic for choice in choices}
    for choice in choices:
        found = engine_class(name)(encoder, CPU, choice).encode(pictures(8)).embeddings
        assert disagreement(found, wanted, choice.arithmetic) == ""


def test_the_key_names_the_precision_class_and_nothing_of_the_engine(tmp_path):
    keys = {
        one: image_encoder(tmp_path, dataclasses.replace(TINY, precision=one)).spec() for one in ("float32", "mixed")
    }
    assert keys["float32"].numerics == {"precision": "float32"}
    assert keys["mixed"].numerics == {"precision": "mixed"}


def test_old_precisions_are_executed_by_torch_alone(tmp_path):
    encoder = image_encoder(tmp_path, dataclasses.replace(TINY, precision="bfloat16"))
    offered = {name for name in FAST if engine_class(name).installed() and engine_class(name).choices(encoder, CPU)}
    assert offered == {"torch"}


def test_an_encoder_without_a_network_is_executed_by_torch_alone():
    encoder = TfidfEncoder(["dog", "cat"], torch.ones(2), 1)
    offered = {name for name, engine in engines().items() if engine.installed() and engine.choices(encoder, CPU)}
    assert offered == {"torch"}


def test_captions_are_padded_to_few_lengths_and_never_beyond_the_longest(text_folder):
    encoder = text_encoder(text_folder)
    lengths = set()
    for n in range(1, 90):
        batch = encoder.with_few_shapes(encoder.collate(["a " * n]))
        lengths.add(batch["input_ids"].shape[1])
        assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert len(lengths) <= 8
    assert max(lengths) == encoder.preparation.most


def test_a_graph_is_exported_once_and_again_where_it_is_damaged(monkeypatch, tmp_path):
    monkeypatch.setattr(graphs, "user_cache_path", lambda name: tmp_path / name)
    exported = []
    write = graphs.write_encoder_graph
    monkeypatch.setattr(graphs, "write_encoder_graph", lambda *a, **k: (exported.append(1), write(*a, **k)))
    encoder = image_encoder(tmp_path).eval()
    file = graphs.encoder_graph(encoder)
    assert graphs.encoder_graph(image_encoder(tmp_path).eval()) == file
    assert len(exported) == 1
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert graphs.encoder_graph(encoder) == file
    assert len(exported) == 2
    other = image_encoder(tmp_path, seed=1).eval()
    assert graphs.encoder_graph(other) != file
    monkeypatch.setattr(graphs, "KEPT", 1)
    last = graphs.encoder_graph(image_encoder(tmp_path, seed=2).eval())
    assert [folder.name for folder in last.parent.parent.iterdir()] == [last.parent.name]


def test_processes_that_export_at_once_end_with_one_whole_graph(monkeypatch, tmp_path):
    monkeypatch.setattr(graphs, "user_cache_path", lambda name: tmp_path / name)
    together = threading.Barrier(3)

    def write(encoder, file, tokens):
        together.wait(10)
        file.write_bytes(b"graph")

    monkeypatch.setattr(graphs, "write_encoder_graph", write)
    encoders = [image_encoder(tmp_path).eval() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        files = set(pool.map(graphs.encoder_graph, encoders))
    assert [file.read_bytes() for file in files] == [b"graph"]
    assert len(list(next(iter(files)).parent.parent.iterdir())) == 1


def test_a_network_that_cannot_be_exported_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(graphs, "user_cache_path", lambda name: tmp_path / name)

    def refuse(*_, **__):
        raise RuntimeError("no such operator\nin line 3")

    monkeypatch.setattr(graphs, "write_encoder_graph", refuse)
    with pytest.raises(EncoderError, match=r"^test_efficientnet cannot be exported: no such operator in line 3$"):
        graphs.encoder_graph(image_encoder(tmp_path).eval())


def test_an_engine_that_is_not_installed_says_what_to_type(monkeypatch):
    monkeypatch.setattr(engines()["openvino"], "modules", ("no_such_module",))
    with pytest.raises(
        ConfigError, match=r"^engine 'openvino' is not installed. Run: pip install 'mmfeat\[openvino\]'$"
    ):
        engine_class("openvino")


@pytest.mark.parametrize(
    ("change", "arithmetic", "said"),
    [
        (lambda a: a, "float32", ""),
        (lambda a: a * (1 + 5e-5), "float32", ""),
        (lambda a: a * 1.001, "float32", "differs from torch"),
        (lambda a: a * 1.001, "bfloat16", ""),
        (lambda a: np.where(np.arange(len(a))[:, None] == 0, -a, a), "bfloat16", "cosine"),
        (lambda a: a * np.nan, "bfloat16", "not finite"),
        (lambda a: a[:, :3], "float32", "shape"),
    ],
)
def test_disagreement_follows_the_precision_class(change, arithmetic, said):
    reference = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    found = disagreement(change(reference), reference, arithmetic)
    assert (said in found) if said else found == ""


def test_a_choice_is_described_with_its_settings():
    assert str(Choice("torch", "bfloat16", {"channels_last": False})) == "torch (bfloat16, channels-last off)"
    assert Choice("openvino", "bfloat16").record == "openvino bfloat16"


@pytest.mark.parametrize(
    ("library", "use"),
    [
        (
            "onnxruntime",
            "from mmfeat.encoders.engines.onnxruntime_engine import session\n"
            "session(Path('model.onnx'), ['CPUExecutionProvider'])",
        ),
        (
            "openvino",
            "from mmfeat.encoders.engines.openvino_engine import _core\n_core().compile_model('model.onnx', 'CPU')\n"
            "import sys; assert 'openvino_telemetry' not in sys.modules",
        ),
    ],
)
def test_libraries_send_no_usage_data(tmp_path, library, use):
    """They would write events or an identifier into the user's folders as soon as they are imported."""
    pytest.importorskip("onnx")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    code = (
        "import onnx; from pathlib import Path; from onnx import TensorProto, helper\n"
        "value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])\n"
        "graph = helper.make_graph([helper.make_node('Identity', ['a'], ['b'])], 'g', [value('a')], [value('b')])\n"
        "onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9), 'model.onnx')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", code + use], cwd=tmp_path, env=environment, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_an_engine_does_not_inherit_the_memory_layout_of_another(tmp_path):
    """A compiled network would be measured in the layout that torch was measured in last."""
    encoder = image_encoder(tmp_path).eval()
    engine_class("torch")(encoder, CPU, Choice("torch", "float32", {"channels_last": False}))
    assert encoder._memory_format == torch.contiguous_format
    engine_class("compile")(encoder, CPU, Choice("compile", "float32"))
    assert encoder._memory_format == torch.channels_last


def test_openvino_computes_the_same_for_many_batches_at_a_time(graph_cache, monkeypatch):
    engine = opened("openvino", image_encoder(TINY))
    module = sys.modules[type(engine).__module__]
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    many = engine.for_many()
    assert (engine.at_once, many.at_once) == (1, 2)
    assert many.for_many() is many
    batches = [pictures(5, seed) for seed in range(6)]
    with ThreadPoolExecutor(many.at_once) as pool:
        found = [one.embeddings for one in pool.map(many.encode, batches)]
    for batch, embeddings in zip(batches, found, strict=True):
        np.testing.assert_allclose(embeddings, engine.encode(batch).embeddings, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    assert engine.for_many() is engine


def test_other_engines_encode_one_batch_at_a_time(graph_cache):
    engine = opened("onnxruntime", image_encoder(TINY))
    assert engine.for_many() is engine
    assert engine.at_once == 1
