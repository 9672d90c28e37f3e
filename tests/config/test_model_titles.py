"""A model in a folder has one name in every output, and never one that says nothing."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.command_line import run_cli

import mmfeat as mf
from mmfeat.config.model_titles import folder_title


@pytest.mark.parametrize(
    ("path", "stated", "title"),
    [
        ("minilm", None, "minilm"),
        ("minilm/", "x/other", "minilm"),
        ("minilm/model", None, "minilm"),
        ("minilm/Model", "sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("minilm/checkpoint-500", "./model", "minilm"),
        ("minilm/0_Transformer", None, "minilm"),
        ("models--org--tiny-bert/snapshots/" + "0a" * 20, None, "tiny-bert"),
        ("minilm/model", 5, "minilm"),
    ],
)
def test_the_title_of_a_folder(tmp_path, path, stated, title):
    folder = tmp_path / path
    folder.mkdir(parents=True)
    if stated is not None:
        (folder / "config.json").write_text(json.dumps({"_name_or_path": stated}))
    assert folder_title(folder) == title


MATTER = "---\nlanguage: en\n# a comment\n---\n\n"


@pytest.mark.parametrize(
    ("path", "readme", "title"),
    [
        ("gt_minilm/model", f"{MATTER}# all-MiniLM-L6-v2\nThis is a model\n# Further", "all-MiniLM-L6-v2"),
        ("gt_minilm/model", "# sentence-transformers/all-MiniLM-L6-v2 \r\n", "all-MiniLM-L6-v2"),
        ("gt_minilm/model", f"{MATTER}# SentenceTransformer based on MiniLM\n# x", "gt_minilm"),
        ("gt_minilm/model", None, "gt_minilm"),
        ("weights/model", None, "MiniLM-L6-H384-uncased"),
        ("weights/model", "# model", "MiniLM-L6-H384-uncased"),
        ("my-minilm", "# all-MiniLM-L6-v2", "my-minilm"),
    ],
)
def test_the_title_of_a_sentence_transformers_folder_is_not_that_of_its_base_model(tmp_path, path, readme, title):
    folder = tmp_path / path
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_name_or_path": "nreimers/MiniLM-L6-H384-uncased"}))
    (folder / "modules.json").write_text("[]")
    if readme is not None:
        (folder / "README.md").write_text(readme)
    assert folder_title(folder) == title


def test_a_damaged_config_is_no_name(tmp_path):
    (tmp_path / "minilm" / "model").mkdir(parents=True)
    (tmp_path / "minilm" / "model" / "config.json").write_bytes(b"\xff[")
    assert folder_title(tmp_path / "minilm" / "model") == "minilm"


def test_every_output_calls_a_folder_the_same(project_folder, text_folder, tmp_path):
    shutil.copytree(text_folder, project_folder / "tiny-words" / "model")
    file = project_folder / "mmfeat.toml"
    file.write_text(file.read_text().replace(json.dumps(str(text_folder)), '"./tiny-words/model"'))

    def said(*words: str) -> str:
        return run_cli(*words, cwd=project_folder).stdout

    outputs = [said("finetune", "text", "--dry-run"), said("finetune", "--freeze"), said("extract"), said("status")]
    outputs += [said("encoders"), said("runs"), repr(mf.Project(project_folder, progress=False))]
    outputs.append(said("compare", "encoders", "image", "text", "--freeze"))
    said("export", "text", str(tmp_path / "model"))
    outputs.append((tmp_path / "model" / "README.md").read_text())
    shown = [text for text in outputs if "tiny-words" in text]
    assert len(shown) >= len(outputs) - 1  # extract names encoders alone
    assert not [text for text in outputs if "tiny-words/model" in text]
