"""A mistaken `mmfeat init`, and the corrected command after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.edits import invoked
from PIL import Image

from mmfeat.common.errors import ConfigError
from mmfeat.config.reader import load_config
from mmfeat.config.schema import FILE_NAME
from mmfeat.data.manifest import Manifest
from mmfeat.project.initialisation import init
from mmfeat.project.starting_over import STARTED_OVER


def photographs(folder: Path) -> str:
    """A table whose images lie in another folder, with two columns that may be labels."""
    (folder / "photos").mkdir()
    (folder / "other").mkdir()
    lines = ["id,photo,words,tags,kind"]
    for i in range(30):
        Image.fromarray(np.full((4, 4, 3), i * 8, np.uint8)).save(folder / "photos" / f"{i}.png")
        Image.fromarray(np.full((4, 4, 3), 255 - i * 8, np.uint8)).save(folder / "other" / f"{i}.png")
        lines.append(f"r{i},{i}.png,about {i},{'cat|dog' if i % 3 else 'cat'},k{i % 2}")
    (folder / "data").mkdir()
    (folder / "data" / "t.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "data" / "t.csv")


RIGHT = {
    "caption_column": "words",
    "labels_column": "tags",
    "separator": "|",
    "image_column": "photo",
    "images": ("photos",),
    "image_encoder": "resnet18",
    "image_weights": "random",
}
MISTAKES = {
    "labels": {"labels_column": "kind"},
    "captions": {"caption_column": "tags", "labels_column": "kind"},
    "separator": {"separator": ";"},
    "images": {"images": ("other",)},
    "encoder": {"image_encoder": "resnet34"},
    "share": {"val": 0.3},
    "captions alone": {"images": (), "image_encoder": None, "image_weights": None},
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_the_corrected_command_makes_the_project_that_it_would_have_made_at_first(tmp_path, monkeypatch, mistake):
    made = {}
    for name, commands in {"at first": [RIGHT], "after a mistake": [RIGHT | mistake, RIGHT | {"val": 0.1}]}.items():
        (root := tmp_path / name).mkdir()
        source = photographs(root)
        monkeypatch.chdir(root)
        for options in commands:
            result = init(root, source, **options)
        made[name] = (root / FILE_NAME).read_text().replace(name, ""), Manifest.load(root / "manifest.parquet")
        assert (STARTED_OVER in result.summary) == (len(commands) > 1)
        assert init(root).unchanged
    (toml, manifest), (wanted, first) = made["after a mistake"], made["at first"]
    assert toml == wanted
    for part in ("ids", "images", "captions", "labels", "split"):
        np.testing.assert_array_equal(getattr(manifest, part), getattr(first, part))


def test_an_option_that_is_left_out_is_taken_back(tmp_path, monkeypatch):
    source = photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    wanted = init(tmp_path, source, **RIGHT).manifest
    assert init(tmp_path, source, **RIGHT).unchanged
    init(tmp_path, source, **RIGHT | {"val": 0.3, "seed": 7})
    assert load_config(tmp_path / FILE_NAME).seed == 7
    assert init(tmp_path).unchanged
    result = init(tmp_path, source, **RIGHT)
    assert STARTED_OVER in result.summary
    assert (load_config(tmp_path / FILE_NAME).seed, result.manifest.split.tolist()) == (0, wanted.split.tolist())
    (tmp_path / ".mmfeat" / "init.json").unlink()  # as in a project of an earlier version
    assert init(tmp_path, source).unchanged


@pytest.mark.parametrize("edit", ["file", "runs/a", "checkpoints/a", "features/a", "corrections.csv"])
def test_nothing_that_a_user_made_is_replaced(tmp_path, monkeypatch, edit):
    source = photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    init(tmp_path, source, **RIGHT | {"labels_column": "kind"})
    toml = tmp_path / FILE_NAME
    if edit == "file":
        toml.write_text(toml.read_text() + "# mine\n")
    else:
        (tmp_path / edit).parent.mkdir(exist_ok=True)
        (tmp_path / edit).write_text("x")
    before = toml.read_bytes()
    with pytest.raises(ConfigError, match=r'says data.labels = "kind". Change it there, then run: mmfeat init'):
        init(tmp_path, source, **RIGHT)
    assert toml.read_bytes() == before


def test_without_its_source_a_command_changes_nothing(tmp_path, monkeypatch):
    source = photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    init(tmp_path, source, **RIGHT)
    with pytest.raises(ConfigError, match=r"says data.labels"):
        init(tmp_path, labels_column="kind")
    assert load_config(tmp_path / FILE_NAME).data.labels == "tags"


def test_the_command_line_says_that_it_starts_over(tmp_path):
    source = photographs(tmp_path)
    command = ["init", source, "--images", str(tmp_path / "photos"), "--image", "photo", "--caption", "words"]
    invoked(tmp_path, *command, "--labels", "kind")
    done = invoked(tmp_path, *command, "--labels", "tags", "--separator", "|")
    assert "mmfeat.toml is replaced: nobody had changed it" in done.output
    assert "2 classes" in done.output or "cat" in done.output
