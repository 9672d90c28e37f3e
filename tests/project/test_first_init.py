"""The first `init` of data with unusual names: one message with all columns, images by their cells, encoders by options."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

import mmfeat as mf
from mmfeat.common.errors import ConfigError, DataError, EncoderError
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project

HEADER = ("item", "shot", "what_is_seen", "keywords", "subset")


def listing(folder: Path, labels=("cat|traffic light", "traffic light", "cat", ""), n: int = 8, header=HEADER) -> str:
    """A table with these labels in turn, and its pictures."""
    rows = []
    for i in range(n):
        Image.new("RGB", (8, 8), (i * 20, 0, 9)).save(folder / f"photo {i}.png")
        caption = f"a picture of things that are seen, number {i}"
        rows.append((f"P{i}", f"photo {i}.png", caption, labels[i % len(labels)], ("train", "dev")[i % 2]))
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(folder / "t.csv")


NAMED = {"labels_column": "keywords", "caption_column": "what_is_seen", "separator": "|"}


def test_all_columns_that_are_not_found_are_in_one_message(tmp_path):
    with pytest.raises(DataError) as error:
        init(tmp_path, listing(tmp_path), id_column="itm", group_column="shop")
    said = str(error.value)
    assert "no column 'itm' for id; no column 'shop' for group; no column of labels found" in said
    assert "Columns: 'item', 'shot', 'what_is_seen', 'keywords', 'subset'." in said
    assert "Nearest: 'item'." in said
    assert "Use: --id COLUMN --group COLUMN --labels keywords --separator '|'" in said
    assert "(perhaps also --caption what_is_seen --split-column subset)" in said
    assert "\n" not in said


def test_neither_images_nor_captions_and_no_labels_are_one_message(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "".join(
            f"{line}\n" for line in ["a,words of it,kind", *(f"{i},one two three four five {i},x" for i in range(4))]
        )
    )
    with pytest.raises(DataError) as error:
        init(tmp_path, str(path))
    said = str(error.value)
    assert "no column of images or captions found; no column of labels found" in said
    assert "--caption 'words of it' --labels kind" in said


def test_names_of_images_are_recognised_by_their_cells(tmp_path):
    made = init(tmp_path, listing(tmp_path), **NAMED)
    assert "image = 'shot'" in made.summary
    assert "8   0 missing" in made.summary
    assert 'image     = "shot"' in (tmp_path / "mmfeat.toml").read_text()
    assert init(tmp_path).unchanged


def test_two_columns_of_file_names_are_not_guessed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("front,back,caption,labels\na.jpg,b.jpg,x,cat\nc.jpg,d.jpg,y,dog\n")
    assert "image = " not in init(tmp_path, str(path)).summary


def test_columns_that_may_serve_are_named_with_the_setting(tmp_path):
    made = init(tmp_path, listing(tmp_path), labels_column="keywords", separator="|")
    line = next(line for line in made.summary.splitlines() if "not used" in line)
    assert 'perhaps: caption = "what_is_seen" under [data] and column = "subset" under [split] in mmfeat.toml' in line
    file = tmp_path / "mmfeat.toml"
    file.write_text(file.read_text().replace('caption   = ""', 'caption   = "what_is_seen" #'))
    assert "caption = 'what_is_seen'" in init(tmp_path).summary


@pytest.mark.parametrize(
    ("labels", "mark"),
    [
        (("cat|traffic light", "traffic light", "cat"), "|"),
        (("cat, dog", "dog", "cat"), ","),
        (("red car; bus", "bus", "red car"), ";"),
    ],
)
def test_cells_with_several_labels_are_refused_until_the_separator_is_chosen(tmp_path, labels, mark):
    source, options = listing(tmp_path, labels), {**NAMED, "separator": None}
    with pytest.raises(DataError) as error:
        init(tmp_path, source, **options)
    said = str(error.value)
    assert (
        f"cells of column 'keywords' hold '{mark}', as in '{labels[0]}' (t.csv:2). Split at it, there are 2 labels"
        in said
    )
    assert said.endswith(f"Use: --separator '{mark}' or --separator ' '")
    assert not (tmp_path / "mmfeat.toml").exists()
    init(tmp_path, source, **{**options, "separator": mark})
    assert len(Project(tmp_path).manifest.classes) == 2


def test_a_separator_that_was_chosen_is_taken_as_it_is(tmp_path):
    made = init(tmp_path, listing(tmp_path), **{**NAMED, "separator": " "})
    assert 'If it separates labels, set separator = "|" under [data] in mmfeat.toml, then: mmfeat init' in made.summary


def test_a_column_that_is_gone_from_an_existing_project_is_named_in_its_file(tmp_path):
    source = listing(tmp_path)
    init(tmp_path, source, **NAMED)
    listing(tmp_path, header=("item", "shot", "seen", "keywords", "subset"))
    with pytest.raises(
        DataError,
        match=r'no column .what_is_seen. for caption.*Use: caption = "COLUMN" under \[data\].* in mmfeat.toml, then: mmfeat init$',
    ):
        init(tmp_path)


def test_identical_images_are_listed(tmp_path):
    source = listing(tmp_path)
    for i in (3, 5):
        (tmp_path / f"photo {i}.png").write_bytes((tmp_path / "photo 1.png").read_bytes())
    made = init(tmp_path, source, **NAMED)
    assert "2 exact copies, 0 copies with other metadata (listed in init.log)" in made.summary
    log = (tmp_path / "init.log").read_text()
    assert "the same file: image of 'photo 1.png', image of 'photo 3.png', image of 'photo 5.png'\n" in log


def test_encoders_are_chosen_by_options(tmp_path, text_folder):
    source = listing(tmp_path)
    options = {
        "image_encoder": "test_vit",
        "image_weights": "random",
        "text_encoder": str(text_folder),
        "text_weights": "random",
    }
    (tmp_path / "p").mkdir()
    init(tmp_path / "p", source, **NAMED, **options)
    tables = Project(tmp_path / "p").config.encoder
    assert (tables["image"].model, tables["image"].pretrained) == ("test_vit", "random")
    assert (tables["text"].pretrained, Path(tables["text"].model).name) == ("random", text_folder.name)
    init(tmp_path / "p", None, image_encoder="test_vit")  # agrees
    with pytest.raises(ConfigError, match=r'mmfeat.toml says encoder.image.model = "test_vit". Change it there'):
        init(tmp_path / "p", None, image_encoder="resnet18")
    project = mf.init(
        tmp_path / "q",
        source,
        labels="keywords",
        caption="what_is_seen",
        separator="|",
        text_encoder="tfidf",
        progress=False,
    )
    assert project.config.encoder["text"].kind == "tfidf"
    assert project.config.encoder["image"].model == "efficientnet_b4"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"image_encoder": "efficientnt_b0"},
            "encoder.image: neither timm nor torchvision has a model 'efficientnt_b0'",
        ),
        ({"image_encoder": "test_vit", "image_weights": "nowhere.pth"}, "encoder.image: no weights at .*nowhere.pth"),
        ({"text_encoder": "./nowhere"}, "encoder.text: .*nowhere"),
        (
            {"image_column": "", "image_encoder": "test_vit", "no_images": True},
            "--image-encoder: the data have no images",
        ),
    ],
)
def test_an_encoder_that_cannot_be_used_is_one_line_before_anything_is_written(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    source = listing(tmp_path)
    if options.pop("no_images", False):
        (tmp_path / "t.csv").write_text("caption,labels\nx,cat\ny,dog\n")
        named = {}
    else:
        named = NAMED
    with pytest.raises((EncoderError, ConfigError), match=says) as error:
        init(tmp_path, source, **named, **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mmfeat.toml").exists()


def test_an_unknown_argument_is_an_error_of_python(tmp_path):
    with pytest.raises(TypeError, match="init\\(\\) has no argument 'labels'"):
        init(tmp_path, "t.csv", labels="x")
