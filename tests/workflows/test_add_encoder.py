"""`mmfeat encoders add` writes one table into mmfeat.toml; `fuse` names encoders that it does not read."""

from __future__ import annotations

import tomllib

import pytest
from helpers.command_line import run_cli
from hypothesis import given
from hypothesis import strategies as st

import mmfeat as mf
from mmfeat.common.errors import ConfigError, EncoderError
from mmfeat.config.toml_edits import with_encoder
from mmfeat.project.project import Project
from mmfeat.workflows.add_encoder import add_encoder
from mmfeat.workflows.fuse import fuse

TEXT = """\
# a comment
schema = 1

[encoder.image]   # mine
model = "test_efficientnet"   # of timm

[encoder.text]
model = "./text"

# the store
[store]
path = "features"

[fuse]
inputs = ["image", "text"]   # both
seeds = 2
"""


def test_a_table_is_added_and_everything_else_stays():
    values = {"modality": "image", "model": "resnet18"}
    new = with_encoder(TEXT, "small", values, inputs=("image", "text", "small"))
    raw, old = tomllib.loads(new), tomllib.loads(TEXT)
    assert raw["encoder"] == {**old["encoder"], "small": values}
    assert raw["fuse"] == {"inputs": ["image", "text", "small"], "seeds": 2}
    assert raw["store"] == old["store"]
    for line in TEXT.splitlines():
        assert line in new or line.startswith("inputs")
    assert 'inputs = ["image", "text", "small"]   # both' in new
    assert new.index("[encoder.text]") < new.index("[encoder.small]") < new.index("[store]")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "schema = 1\n",
        "[fuse]\nseeds = 1\n[encoder.image]\n[store]\n[encoder.text]\n",
        "encoder.image.size = 32\nencoder.text.max_length = 8\n",
        "[encoder]\nimage = {size = 32}\ntext = {}\n",
        TEXT.replace("\n", "\r\n"),
        TEXT.rstrip("\n"),
    ],
)
def test_every_layout_of_a_file_keeps_its_values(text):
    old, new = tomllib.loads(text), tomllib.loads(with_encoder(text, "x", {"model": "tfidf"}, inputs=("image", "x")))
    before = old.pop("encoder", {"image": {}, "text": {}})  # the defaults, which the first table would replace
    assert new.pop("encoder") == {**before, "x": {"model": "tfidf"}}
    assert new["fuse"].pop("inputs") == ["image", "x"]
    old.get("fuse", {}).pop("inputs", None)
    new["fuse"] = new["fuse"] or old.get("fuse", {})
    assert new == {"fuse": {}, **old}


@given(model=st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_any_name_reads_back(model):
    assert tomllib.loads(with_encoder(TEXT, "x", {"model": model}))["encoder"]["x"] == {"model": model}


def test_an_encoder_is_added_and_used(project_folder):
    text = (project_folder / "mmfeat.toml").read_text()
    added = add_encoder(Project(project_folder), "second", "test_vit", weights="random", as_input=True)
    assert added.inputs == ("image", "text", "second")
    assert "second: test_vit, 64-d" in added.about
    assert added.after == "mmfeat extract second"
    config = Project(project_folder).config
    assert (config.encoder["second"].model, config.encoder["second"].modality) == ("test_vit", "image")
    assert config.encoder["second"].pretrained == "random"
    assert config.encoder["second"].reduced_decoding  # as in the table that init writes
    assert not config.encoder["image"].reduced_decoding
    new = (project_folder / "mmfeat.toml").read_text()
    assert all(line in new for line in text.splitlines() if not line.startswith("inputs"))


def test_a_vocabulary_needs_to_be_fitted_first(project_folder):
    added = add_encoder(Project(project_folder), "words", "tfidf")
    assert added.after == "mmfeat finetune words"
    assert Project(project_folder).config.fuse.inputs == ("image", "text")
    assert 'modality = "text"' in (project_folder / "mmfeat.toml").read_text()


def test_a_folder_is_written_relative_to_the_project(project_folder, text_folder, monkeypatch):
    import shutil

    shutil.copytree(text_folder, project_folder / "own")
    monkeypatch.chdir(project_folder.parent)
    add_encoder(Project(project_folder), "tiny", f"{project_folder.name}/own", weights="random")
    assert Project(project_folder).config.encoder["tiny"].model == "./own"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"name": "image", "model": "test_vit"}, "encoder 'image' is already in mmfeat.toml. Choose another name"),
        ({"name": "fm1", "model": "test_vit"}, "'fm1' is the name of a recipe or of a run. Choose another name"),
        ({"name": "a", "model": "efficientnt_b0"}, "efficientnt_b0: no known model. Nearest: efficientnet_b0"),
        ({"name": "a", "model": "efficientnt_b0", "modality": "image"}, "encoder.a: neither timm nor torchvision has"),
        ({"name": "a", "model": "test_vit", "modality": "sound"}, "no modality 'sound'. Use one of: image, text"),
        ({"name": "a", "model": "x", "modality": "other"}, "are imported: mmfeat store import a FILE"),
        ({"name": "a", "model": "test_vit", "weights": "no.pth"}, "encoder.a: no weights at .*no.pth"),
        ({"name": "a", "model": "test_vit", "weights": "bad.pth"}, "bad.pth: cannot be read as weights"),
        ({"name": "a", "model": "./nowhere"}, "encoder.a: .*nowhere"),
        ({"name": "a", "model": "tfidf", "weights": "random"}, "unknown key 'encoder.a.pretrained'"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_changes_nothing(project_folder, monkeypatch, words, says):
    monkeypatch.chdir(project_folder)
    (project_folder / "bad.pth").write_bytes(b"no weights")
    before = (project_folder / "mmfeat.toml").read_bytes()
    with pytest.raises((ConfigError, EncoderError), match=says) as error:
        add_encoder(Project(project_folder), **words)
    assert "\n" not in str(error.value)
    assert (project_folder / "mmfeat.toml").read_bytes() == before
    assert not list(project_folder.glob(".*mmfeat.toml*"))


def test_the_commands_and_the_method_do_the_same(project_folder):
    done = run_cli("encoders", "add", "second", "--model", "test_vit", "--weights", "random", cwd=project_folder)
    assert "not among fuse.inputs = image, text" in done.stdout
    assert "Added [encoder.second] to mmfeat.toml. Next: mmfeat extract second" in done.stdout
    project = mf.Project(project_folder, progress=False)
    added = project.encoders_add("third", model="test_vit", weights="random", input=True)
    assert "fuse.inputs = image, text, third" in repr(added)
    assert set(project.encoders().project) == {"image", "text", "second", "third"}
    listed = run_cli("encoders", cwd=project_folder).stdout
    assert listed == run_cli("encoders", "list", cwd=project_folder).stdout
    assert "third" in listed
    done = run_cli("encoders", "add", "fourth", cwd=project_folder, check=False)
    assert done.returncode == 2
    assert "--model is missing" in done.stderr


def test_fuse_names_encoders_that_are_cached_and_not_among_its_inputs(extracted):
    folder = extracted.root
    add_encoder(Project(folder), "second", "test_vit", weights="random")
    add_encoder(Project(folder), "third", "test_vit", weights="random")
    assert fuse(Project(folder), "linear").idle == []
    from mmfeat.project.encoding import extract

    extract(Project(folder), ["second"])
    made = fuse(Project(folder), "linear")
    assert made.idle == ["second"]
    line = "Cached, but not among the inputs: second. To use all: --inputs image,text,second"
    assert made.about_idle == line
    assert line in repr(made)
    assert line in run_cli("fuse", "--head", "linear", cwd=folder).stdout
    assert line not in run_cli("fuse", "--head", "linear", "--inputs", "image,text", cwd=folder).stdout
