"""Code and files that a model's folder asks for: none of it runs, and nobody is asked."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers.command_line import COMMAND

import mmfeat
from mmfeat.common.errors import EncoderError, MmfeatError, RunError
from mmfeat.common.seals import read_sealed
from mmfeat.config.encoder_tables import TextEncoderConfig
from mmfeat.config.reader import load_config
from mmfeat.encoders.catalogue import describe_text
from mmfeat.encoders.families.transformer_text import build_text_encoder, load_tokenizer

PACKAGE = Path(mmfeat.__file__).parent
LOADERS = {"from_pretrained", "from_config"}

# Writes a file wherever any of it is imported, and works where that is allowed.
CODE = """\
from pathlib import Path
Path({mark!r}).open("a").write("ran ")
from transformers import BertConfig, BertModel, BertTokenizerFast
class OwnConfig(BertConfig):
    model_type = "of-its-own"
class OwnModel(BertModel):
    config_class = OwnConfig
class OwnTokenizer(BertTokenizerFast):
    pass
"""
CONFIG_MAP = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
TOKENIZER_MAP = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}


@pytest.fixture
def folder(tmp_path, small_source) -> Path:
    """A folder of a model that works, beside a file that its code would write."""
    made = tmp_path / "model"
    shutil.copytree(small_source / "text-encoder", made)
    load_tokenizer(made).save_pretrained(made)
    (made / "own.py").write_text(CODE.format(mark=str(tmp_path / "ran")), encoding="utf-8")
    return made


def change(file: Path, **values) -> None:
    stated = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**stated, **values}), encoding="utf-8")


def ask_for_code(folder: Path, how: str) -> None:
    """Name the code in a folder's configurations, in one of the ways that transformers knows."""
    if how in ("config", "both"):
        change(folder / "config.json", model_type="of-its-own", auto_map=CONFIG_MAP)
    if how in ("tokenizer", "both"):
        change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=TOKENIZER_MAP)
        change(folder / "config.json", model_type="eurobert")  # for which transformers names no tokenizer
    if how == "nested":  # a model within a model is built by transformers without the flag
        inner = {"model_type": "siglip_text_model", "auto_map": {"AutoModel": "own.OwnModel"}}
        change(folder / "config.json", model_type="llava", vision_config=inner, text_config={"model_type": "llama"})


WAYS = ["config", "tokenizer", "nested"]


@pytest.fixture
def terminal(monkeypatch):
    """Somebody who answers yes to everything."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    yield asked
    assert asked == []


def build(folder: Path, trusted: bool = False, pretrained: str = "random"):
    table = TextEncoderConfig(model=str(folder), pretrained=pretrained, trust_remote_code=trusted)
    return build_text_encoder("text", table, folder, 0)


@pytest.mark.parametrize("pretrained", ["random", "auto"])
@pytest.mark.parametrize("how", WAYS)
def test_a_model_that_needs_its_own_code_is_refused_in_one_line(folder, how, pretrained, terminal):
    ask_for_code(folder, how)
    with pytest.raises(EncoderError) as error:
        build(folder, pretrained=pretrained)
    if how != "nested" or pretrained == "random":  # of auto, the weights are missed before
        assert "trust_remote_code = true" in str(error.value)
        assert "own.Own" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize("how", ["config", "nested"])
def test_what_an_encoder_would_be_is_told_without_its_code(folder, how, terminal):
    ask_for_code(folder, how)
    with pytest.raises(EncoderError, match="trust_remote_code = true"):
        describe_text(TextEncoderConfig(model=str(folder)), folder)
    assert not (folder.parent / "ran").exists()


def test_a_tokenizer_alone_runs_no_code(folder, terminal):
    ask_for_code(folder, "tokenizer")
    with pytest.raises(EncoderError, match=r"auto_map in tokenizer_config\.json: "):
        load_tokenizer(folder)
    assert not (folder.parent / "ran").exists()


def test_code_that_transformers_has_itself_is_not_needed_and_changes_no_key(folder, terminal):
    before = build(folder).spec().key
    change(folder / "config.json", auto_map=CONFIG_MAP)
    change(folder / "tokenizer_config.json", auto_map=TOKENIZER_MAP)
    encoder = build(folder)
    assert type(encoder.network).__module__.startswith("transformers.")
    assert not (folder.parent / "ran").exists()
    assert len(before) == len(encoder.spec().key)


def test_code_runs_where_the_table_says_so_and_is_part_of_the_key_and_never_exported(folder, tmp_path, monkeypatch):
    from mmfeat.encoders.portable import save_encoder, save_preparation

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    ask_for_code(folder, "config")
    encoder = build(folder, trusted=True)
    assert (folder.parent / "ran").exists()
    assert type(encoder.network).__name__ == "OwnModel"
    before = encoder.spec().key
    for write in (save_encoder, save_preparation):
        with pytest.raises(EncoderError, match=r"encoder.words: runs code.*an exported model never does"):
            write(encoder, tmp_path / "words")
    code = folder / "own.py"
    code.write_text(code.read_text() + "# another\n")
    assert build(folder, trusted=True).spec().key != before
    assert describe_text(TextEncoderConfig(model=str(folder), trust_remote_code=True), folder).width == encoder.width


def test_the_table_takes_true_or_false(tmp_path):
    (tmp_path / "mmfeat.toml").write_text('[encoder.text]\nmodel = "x"\ntrust_remote_code = true\n')
    assert load_config(tmp_path / "mmfeat.toml").encoder["text"].trust_remote_code is True
    (tmp_path / "mmfeat.toml").write_text('[encoder.text]\nmodel = "x"\ntrust_remote_code = "yes"\n')
    with pytest.raises(MmfeatError, match="must be true or false"):
        load_config(tmp_path / "mmfeat.toml")


@pytest.mark.parametrize("how", WAYS)
def test_an_export_that_was_sealed_again_runs_no_code(exported, tmp_path, how, terminal):
    from mmfeat import Predictor
    from mmfeat.common.seals import seal_folder
    from mmfeat.predictor.folder import RECORD

    model = tmp_path / "model"
    shutil.copytree(exported, model)
    inside = model / "encoders" / "text"
    (inside / "own.py").write_text(CODE.format(mark=str(tmp_path / "ran")), encoding="utf-8")
    ask_for_code(inside, how)
    record = read_sealed(model / RECORD)
    (model / RECORD).unlink()
    seal_folder(model, RECORD, {key: value for key, value in record.items() if key != "files"})
    with pytest.raises(
        RunError, match=r"needs its own code, which an exported model must not run\. Export the model again"
    ):
        Predictor.load(model)
    assert not (tmp_path / "ran").exists()


COMMANDS = [
    ["status"],
    ["encoders"],
    ["extract"],
    ["finetune"],
    ["finetune", "--freeze"],
    ["fuse"],
    ["store", "gc"],
    ["store", "status"],
    ["store", "verify"],
    ["compare", "encoders", "image", "text"],
    ["evaluate", "text"],
    ["runs"],
    ["sweep"],
    ["selftrain"],
    ["predict", "text"],
    ["export", "text", "out"],
    ["init"],
]


def answering_yes(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess:
    """A command, in a process of its own, with `yes` on standard input and a terminal that is none."""
    command = [COMMAND, *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        input="y\n" * 1000,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        timeout=300,
    )


def project_of(folder: Path, source: Path) -> Path:
    from helpers.projects import TINY

    from mmfeat.project.initialisation import init

    root = folder.parent / "project"
    root.mkdir()
    text = TINY.format(source=json.dumps(str(source)), text=json.dumps(str(folder)))
    (root / "mmfeat.toml").write_text(text, encoding="utf-8")
    init(root)
    return root


def test_store_gc_runs_no_code_though_yes_is_answered(folder, small_source):
    root = project_of(folder, small_source)
    ask_for_code(folder, "config")
    done = answering_yes(["store", "gc"], root)
    assert "Traceback" not in done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not (folder.parent / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["config", "tokenizer"])
def test_no_command_runs_code(folder, small_source, how, terminal, monkeypatch):
    from mmfeat.cli import group

    root = project_of(folder, small_source)
    ask_for_code(folder, how)
    monkeypatch.chdir(root)
    for arguments in COMMANDS:
        done = CliRunner().invoke(group, arguments, input="y\n" * 1000)
        assert done.exception is None or isinstance(done.exception, MmfeatError | SystemExit), arguments
        assert not (folder.parent / "ran").exists(), arguments


def calls(file: Path):
    """All calls of a module with the last name of what is called."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield name, {keyword.arg: keyword.value for keyword in node.keywords}, f"{file.name}:{node.lineno}"


def test_every_loader_in_the_package_says_whether_code_may_run():
    found = [(name, given, where) for file in PACKAGE.rglob("*.py") for name, given, where in calls(file)]
    loaders = [(name, given, where) for name, given, where in found if name in LOADERS]
    assert len(loaders) >= 7
    assert [where for _, given, where in loaders if "trust_remote_code" not in given] == []
    truths = [where for _, given, where in loaders if getattr(given["trust_remote_code"], "value", None) is True]
    assert truths == []
    unpickled = [
        where
        for name, given, where in found
        if (name == "load" and "map_location" in given)
        and getattr(given.get("weights_only"), "value", None) is not True
    ]
    assert unpickled == []


def test_nothing_in_the_package_unpickles_or_evaluates():
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "dill", "joblib", "cloudpickle"} & {name.split(".")[0] for name in names}, file
    for file in PACKAGE.rglob("*.py"):
        for name, _, where in calls(file):
            assert name not in ("eval_", "exec", "get_class_from_dynamic_module"), where


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("adapter_config.json", {"base_model_name_or_path": "other/model"}, "contains an adapter"),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised weights"),
        ("config.json", {"attn_implementation": "someone/kernel"}, "sets attn_implementation = 'someone/kernel'"),
        ("config.json", {"text_config": {"_attn_implementation": "someone/kernel"}}, "sets _attn_implementation"),
        ("tokenizer_config.json", {"tokenizer_file": "../elsewhere.json"}, "tokenizer_file names a file outside"),
        ("tokenizer_config.json", {"vocab_file": "{outside}"}, "vocab_file names a file outside"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../elsewhere.json"}}, "names a file outside"),
    ],
)
def test_a_folder_that_points_elsewhere_is_refused_in_one_line(folder, file, values, message):
    outside = folder.parent / "elsewhere.json"
    outside.write_text("{}")
    change(folder / file, **{k: v.format(outside=outside) if isinstance(v, str) else v for k, v in values.items()})
    with pytest.raises(EncoderError, match=message) as error:
        build(folder)
    assert "\n" not in str(error.value)


def test_files_in_the_folder_and_those_that_are_nowhere_are_fine(folder):
    change(
        folder / "tokenizer_config.json", tokenizer_file="/nowhere/tokenizer.json", special_tokens_map_file="/etc/hosts"
    )
    change(folder / "config.json", quantization_config=None)
    change(folder / "model.safetensors.index.json", weight_map={"a": "model.safetensors"})
    assert build(folder).width


def test_timm_is_given_names_of_its_own_alone(tmp_path):
    from mmfeat.config.encoder_tables import ImageEncoderConfig
    from mmfeat.encoders.families.image_network import build_image_encoder

    for model in ("hf-hub:someone/model", "local-dir:.", "hf_hub:a/b", "resnet18.hf-hub:a/b", "resnet18.local-dir:."):
        with pytest.raises(EncoderError):
            build_image_encoder("image", ImageEncoderConfig(model=model, pretrained="random"), tmp_path, 0)


def test_weights_that_unpickle_are_refused(tmp_path):
    from mmfeat.encoders.weights import read_state

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"a": Evil()}, tmp_path / "a.pth")
    with pytest.raises(EncoderError, match="cannot be read as weights"):
        read_state(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()
    assert importlib.util.find_spec("mmfeat.encoders.foreign")
