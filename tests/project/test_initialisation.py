"""`mmfeat init`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.tables import split_of, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmfeat.api.demo import demo
from mmfeat.common.errors import ConfigError, DataError, MmfeatError
from mmfeat.config.reader import load_config
from mmfeat.config.schema import FILE_NAME
from mmfeat.data.images.image_sources import image_sources
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project


def shares(folder: Path, **values: float) -> None:
    """Write other shares into mmfeat.toml."""
    lines = (folder / FILE_NAME).read_text(encoding="utf-8").splitlines(keepends=True)
    for name, value in values.items():
        (at,) = (i for i, line in enumerate(lines) if line.startswith(f"{name} ") or line.startswith(f"{name}="))
        lines[at] = f"{name} = {value}\n"
    (folder / FILE_NAME).write_text("".join(lines), encoding="utf-8")


# -- splits


def test_val_rows_stay_val_when_the_shares_change(tmp_path):
    init(tmp_path, str(table(tmp_path)), val=0.25)
    before = split_of(tmp_path)
    shares(tmp_path, val=0, test=0.3)
    init(tmp_path)
    assert split_of(tmp_path) == before


def test_val_may_be_dealt_later_from_train(tmp_path):
    init(tmp_path, str(table(tmp_path)), val=0, test=0.25)
    before = split_of(tmp_path)
    assert "val" not in before.values()
    shares(tmp_path, val=0.2)
    made = init(tmp_path)
    after = split_of(tmp_path)
    assert [i for i in before if before[i] == "test"] == [i for i in after if after[i] == "test"]
    assert list(after.values()).count("val") == 6
    assert "6 rows moved from train to val" in made.summary
    again = init(tmp_path)
    assert again.unchanged
    assert "from now on" not in again.summary
    assert split_of(tmp_path) == after


def test_test_is_never_dealt_from_rows_that_were_used(tmp_path):
    init(tmp_path, str(table(tmp_path)), val=0.25)
    before = split_of(tmp_path)
    shares(tmp_path, test=0.3)
    made = init(tmp_path)
    assert made.unchanged
    assert split_of(tmp_path) == before
    assert "No row is test, although [split] test = 0.3" in made.summary
    assert "remove manifest.parquet" in made.summary
    table(tmp_path, 60)
    made = init(tmp_path)
    after = split_of(tmp_path)
    assert {i: after[i] for i in before} == before
    assert list(after.values()).count("test") == 6
    assert "No row is test" not in made.summary


def test_rows_without_ids_keep_their_split_when_a_row_is_put_before_them(tmp_path):
    path = table(tmp_path, ids=False)
    path.write_text(path.read_text() + "caption 3,dog\n")
    made = init(tmp_path, str(path), val=0.25)
    assert "ids       computed from the captions" in made.summary
    before, captions = split_of(tmp_path), made.manifest.captions
    assert len(before) == 41
    header, _, rest = path.read_text().partition("\n")
    path.write_text(f"{header}\nanother,cat\n{rest}")
    after = init(tmp_path).manifest
    assert after.captions[1:].tolist() == captions.tolist()
    assert [split_of(tmp_path)[i] for i in after.ids[1:]] == list(before.values())


# -- what is written

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    separator=TEXT.filter(str.strip), column=st.text("é🙂\"\\'\x1b\x7f#=[] a", min_size=1).map(str.strip).filter(bool)
)
def test_what_was_asked_for_reads_back_from_the_file(tmp_path_factory, separator, column):
    import csv

    folder = tmp_path_factory.mktemp("init")
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[column, "labels"], ["a", "x"], ["b", "y"]])
    init(folder, str(folder / "t.csv"), caption_column=column, separator=separator)
    config = load_config(folder / FILE_NAME)
    assert (config.data.caption, config.data.separator) == (column, separator)
    assert init(folder).unchanged


def test_odd_names_of_files_read_back(tmp_path):
    folder = tmp_path / '🙂 "x" \\y'
    folder.mkdir()
    (folder / "clässes 🙂.csv").write_text("label\ncat\ndog\n", encoding="utf-8")
    init(folder, str(table(folder, images=True)), classes=str(folder / "clässes 🙂.csv"))
    config = load_config(folder / FILE_NAME)
    assert config.path(config.data.classes) == folder / "clässes 🙂.csv"
    assert init(folder).unchanged


@pytest.mark.parametrize(("images", "captions"), [(True, True), (True, False), (False, True)])
def test_only_the_encoders_that_the_source_can_feed_are_written(tmp_path, images, captions):
    init(tmp_path, str(table(tmp_path, images=images, captions=captions)))
    config = load_config(tmp_path / FILE_NAME)
    names = ["image"] * images + ["text"] * captions
    assert list(config.encoder) == names
    assert list(config.fuse.inputs) == names
    assert config.fuse.head == ("crossattn" if len(names) == 2 else "linear")


def test_images_in_the_projects_own_folder_are_named_from_there(tmp_path):
    path = table(tmp_path, images=True)
    for file in (tmp_path / "images").iterdir():
        file.rename(tmp_path / file.name)
    (tmp_path / "images").rmdir()
    init(tmp_path, str(path))
    assert load_config(tmp_path / FILE_NAME).data.images == (".",)
    assert tomllib.loads((tmp_path / FILE_NAME).read_text())["data"]["source"] == "t.csv"
    assert "missing" in init(tmp_path).summary


def test_blank_cells_are_counted_apart_and_an_empty_log_goes(tmp_path):
    path = table(tmp_path, images=True)
    text = path.read_text()
    path.write_text(text.replace("r3,3.png", "r3,").replace("r4,4.png", "r4,none.png"))
    made = init(tmp_path, str(path))
    assert (
        "38   1 missing (listed in init.log), 0 exact copies, 0 copies with other metadata, 1 blank cell"
        in made.summary
    )
    assert (tmp_path / "init.log").read_text() == "image of 'r4': no such image\n"
    (tmp_path / "images" / "4.png").rename(tmp_path / "images" / "none.png")
    made = init(tmp_path)
    assert made.removed == ["init.log"]
    assert not (tmp_path / "init.log").exists()
    assert init(tmp_path).unchanged
    path.write_text(text.replace("r3,3.png", "r3,").replace("r4,4.png", "r4,none.png"))
    assert "39   0 missing, 0 exact copies, 0 copies with other metadata, 1 blank cell" in init(tmp_path).summary


def test_one_of_something_is_singular(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,caption,labels\na,x,cat\nb,y,\n")
    assert "from 1 row ('cat')" in init(tmp_path, str(path), val=0).summary


# -- what is refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"images": ("nowhere",)}, "no column names them. Use: --image COLUMN"),
        ({"separator": ""}, "option data.separator: data.separator is empty"),
        ({"seed": 2**63}, "option seed: seed = 9223372036854775808. Use a number from 0 to 9223372036854775807"),
        ({"seed": -1}, "option seed"),
        ({"val": float("nan")}, "option split.val"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line_and_nothing_is_written(tmp_path, arguments, says):
    path = table(tmp_path)
    with pytest.raises(MmfeatError) as error:
        init(tmp_path, str(path), **arguments)
    assert says in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_demo_with_a_seed_that_cannot_be_leaves_nothing(tmp_path, seed):
    with pytest.raises(ConfigError, match="option seed"):
        demo(tmp_path / "demo", seed)
    assert not list(tmp_path.iterdir())


def test_images_that_are_nowhere_say_where_to_name_others(tmp_path):
    path = table(tmp_path, images=True)
    with pytest.raises(DataError, match=r"nothing at .*Give a folder, zip or tar files as --images"):
        init(tmp_path, str(path), images=(str(tmp_path / "nowhere"),))
    init(tmp_path, str(path), images=(str(tmp_path / "images"),))
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"nothing at .*as images under \[data\] in mmfeat.toml"):
        Project(tmp_path).row_keys("image")


def test_a_source_that_is_gone_is_said_and_its_folder_is_not_searched(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    init(tmp_path / "project", str(table(tmp_path, images=True)))
    file = tmp_path / "project" / FILE_NAME
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("images ")))
    (tmp_path / "t.csv").unlink()
    with pytest.raises(DataError, match=r"t.csv: the source does not exist"):
        image_sources(load_config(file))


def test_where_no_row_names_an_image_none_is_looked_for(tmp_path):
    init(tmp_path, str(table(tmp_path)))
    (tmp_path / "t.csv").unlink()
    keys = Project(tmp_path).row_keys("image")
    assert not keys.present.any()
    assert not Project(tmp_path).sources.containers


@pytest.mark.parametrize("labels", [["²", "3"], ["--5", "5"], ["9" * 5000, "1"], ["٣", "1"]])
def test_labels_that_only_look_like_numbers_are_names(tmp_path, labels):
    (tmp_path / "t.csv").write_text("id,caption,labels\na,x," + "\nb,y,".join(labels) + "\n", encoding="utf-8")
    assert set(init(tmp_path, str(tmp_path / "t.csv")).manifest.classes) == set(labels)


def test_labels_that_are_numbers_are_in_their_order(tmp_path):
    (tmp_path / "t.csv").write_text("id,caption,labels\na,x,10 9 -2\nb,y,1\n", encoding="utf-8")
    assert init(tmp_path, str(tmp_path / "t.csv")).manifest.classes == ("-2", "1", "9", "10")
    assert np.array_equal(Project(tmp_path).manifest.labels[0], [1, 0, 1, 1])
    json.dumps(Project(tmp_path).config.values())


# -- other sources and more columns


def written(folder: Path) -> dict:
    return tomllib.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["data"]


def test_label_columns_are_found_said_and_written(tmp_path):
    (tmp_path / "t.csv").write_text("id,title,description,beach,dog\na,x,y,1,\nb,x,,0,1\nc,z,,,\nd,z,,0,0\n")
    made = init(tmp_path, str(tmp_path / "t.csv"), caption_column=("title", "description"), val=0)
    assert "caption = 'title' + 'description', labels = 'beach' + 'dog'" in made.summary
    assert "3 labelled (1 without a positive), 1 unlabelled" in made.summary
    assert (
        "blank is unknown, since there are explicit negatives: 83% of the labelled rows' labels are known"
        in made.summary
    )
    data = written(tmp_path)
    assert (data["labels"], data["absent"]) == (["beach", "dog"], "unknown")
    assert data["caption"] == ["title", "description"]
    assert made.manifest.captions.tolist() == ["x\ny", "x", "z", "z"]
    assert init(tmp_path).unchanged
    assert init(tmp_path, labels_column=("beach", "dog"), absent="unknown").unchanged
    with pytest.raises(ConfigError, match=r'says data.labels = \["beach", "dog"\]'):
        init(tmp_path, labels_column=("dog",))


def test_absent_is_resolved_by_what_is_found_or_asked_for(tmp_path):
    (tmp_path / "t.csv").write_text("id,caption,beach,dog\na,x,1,\nb,x,,1\n")
    assert "blank is negative" in init(tmp_path, str(tmp_path / "t.csv"), val=0).summary
    assert written(tmp_path)["absent"] == "negative"
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(DataError, match=r"requires explicit negatives"):
        init(tmp_path, str(tmp_path / "t.csv"), absent="unknown")


def test_coco_gets_a_separator_that_no_category_has_in_its_name(tmp_path):
    categories = [{"id": 1, "name": "traffic light"}, {"id": 2, "name": "dog"}]
    images = [{"id": i, "file_name": f"{i}.png"} for i in (1, 2)]
    annotations = [{"image_id": 1, "category_id": 1}, {"image_id": 1, "category_id": 2}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_x.json").write_text(json.dumps(content))
    (tmp_path / "x").mkdir()
    for i in (1, 2):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "x" / f"{i}.png")
    made = init(tmp_path, str(tmp_path / "annotations"), labels_column=("traffic light", "2"), val=0)
    data = written(tmp_path)
    assert (data["separator"], data["labels"]) == (",", ["traffic light", "2"])
    assert made.manifest.labels.tolist() == [[1, 1], [0, 0]]
    assert Project(tmp_path).row_keys("image").present.all()
    assert init(tmp_path).unchanged


def test_a_group_is_written(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,caption,labels,shop\na,x,cat,s\nb,y,dog,s\n")
    made = init(tmp_path, str(path), group_column="shop", val=0)
    assert "group = 'shop'" in made.summary
    assert written(tmp_path)["group"] == "shop"
    assert init(tmp_path).unchanged


@pytest.mark.parametrize(
    ("cells", "options", "says"),
    [
        (("a b", "c"), {}, "are separated by spaces; if they contain spaces, set another separator"),
        (("a b,c", "c"), {"separator": ","}, "are separated by ','"),
        (("1 2", "2"), {}, None),
        (("a", "b"), {}, None),
        (("0", "1"), {}, 'if they mean negative and positive: labels = ["labels"]'),
    ],
)
def test_how_labels_were_split_is_said_where_it_matters(tmp_path, cells, options, says):
    (tmp_path / "t.csv").write_text('id,caption,labels\na,x,"{}"\nb,y,"{}"\n'.format(*cells))
    summary = init(tmp_path, str(tmp_path / "t.csv"), val=0, **options).summary
    assert says in summary if says else "  labels  " not in summary


def test_a_single_column_in_a_list_is_one_of_0_and_1(tmp_path):
    (tmp_path / "t.csv").write_text("id,caption,beach\na,x,1\nb,y,0\n")
    (tmp_path / FILE_NAME).write_text('[data]\nsource = "t.csv"\nlabels = ["beach"]\n[split]\nval = 0\n')
    manifest = init(tmp_path).manifest
    assert (manifest.classes, manifest.labels.tolist()) == (("beach",), [[1], [0]])


# -- images that are not found


def test_images_none_of_which_is_found_say_what_was_looked_for(tmp_path):
    path = table(tmp_path, images=True)
    (tmp_path / "other").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "other" / "x.png")
    with pytest.raises(DataError, match=r"none of 40 names like '0.png' found in .*other: 1 image there, like 'x.png'"):
        init(tmp_path, str(path), images=(str(tmp_path / "other"),))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image in .*empty \(looked for .jpg"):
        init(tmp_path, str(path), images=(str(tmp_path / "images"), str(tmp_path / "empty")))
    assert not (tmp_path / FILE_NAME).exists()


def test_captions_alone_will_do_where_there_is_no_image_file_at_all(tmp_path):
    path = table(tmp_path, images=True)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    made = init(tmp_path, str(path))
    assert "only captions are used" in made.summary
    assert list(load_config(tmp_path / FILE_NAME).encoder) == ["text"]
    assert init(tmp_path).unchanged
    path.write_text("image,labels\n0.png,x\n1.png,x\n")
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(DataError, match=r"none of 2 names like '0.png' found in .*: there is no image at all"):
        init(tmp_path, str(path))


def test_a_manifest_with_several_columns_of_a_role_has_a_newer_format(tmp_path):
    import pyarrow.parquet as pq

    (tmp_path / "t.csv").write_text("id,caption,beach,dog\na,x,1,0\nb,y,0,1\n")
    init(tmp_path, str(tmp_path / "t.csv"), val=0)
    assert pq.read_schema(tmp_path / "manifest.parquet").metadata[b"mmfeat_format"] == b"2"
    (tmp_path / "one").mkdir()
    init(tmp_path / "one", str(table(tmp_path / "one")))
    assert pq.read_schema(tmp_path / "one" / "manifest.parquet").metadata[b"mmfeat_format"] == b"1"


def pictures(folder, *names):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        Image.new("RGB", (8, 8), (k * 9, 0, 0)).save(folder / name)


def rows_of_table(n=8):
    return "".join(f"{i},a caption of {i},{'cat' if i % 2 else 'dog'}\n" for i in range(n))


def test_ids_name_the_images_beside_a_table_that_has_no_column_of_images(tmp_path):
    pictures(tmp_path / "data" / "pics", *(f"{i}.jpg" for i in range(8)))
    (tmp_path / "data" / "t.csv").write_text("id,caption,labels\n" + rows_of_table(), encoding="utf-8")
    found = init(tmp_path / "p", str(tmp_path / "data" / "t.csv"))
    assert found.manifest.images.tolist() == [str(i) for i in range(8)]
    assert {"image", "text"} == set(load_config(tmp_path / "p" / "mmfeat.toml").encoder)
    assert init(tmp_path / "p").unchanged


def test_images_that_nothing_names_are_said(tmp_path):
    pictures(tmp_path / "data", "other.jpg")
    (tmp_path / "data" / "t.csv").write_text("id,caption,labels\n" + rows_of_table(), encoding="utf-8")
    found = init(tmp_path / "p", str(tmp_path / "data" / "t.csv"))
    assert "no column names them. To use them, set image under [data]" in found.summary
    assert not found.manifest.images.any()


def test_an_archive_that_cannot_be_read_in_place_is_an_error_and_not_a_project_without_images(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption,labels\n" + rows_of_table(), encoding="utf-8")
    (tmp_path / "photos.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"photos.tar.gz cannot be read in place"):
        init(tmp_path / "p", str(tmp_path / "t.csv"))


def test_columns_that_serve_as_nothing_are_said(tmp_path):
    text = "id,title,description,labels,price\n" + "".join(f"{i},a,long text {i},{i % 2},3\n" for i in range(8))
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    summary = init(tmp_path / "p", str(tmp_path / "t.csv")).summary
    assert (
        "not used  'description', 'price'; joined captions: caption = [\"title\", \"description\"] under [data]"
        in summary
    )


def test_two_columns_of_labels_are_not_guessed(tmp_path):
    (tmp_path / "t.csv").write_text("id,caption,labels,tags\n0,a,b,c\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"columns 'labels' and 'tags' may both serve as labels. Use: --labels COLUMN"):
        init(tmp_path / "p", str(tmp_path / "t.csv"))


def test_samples_that_no_encoder_reads_are_said(tmp_path):
    pictures(tmp_path / "pics", *(f"{i}.jpg" for i in range(8)))
    (tmp_path / "t.csv").write_text("id,caption,labels\n" + rows_of_table(), encoding="utf-8")
    init(tmp_path / "p", str(tmp_path / "t.csv"), images=(str(tmp_path / "pics"),), image_column="id")
    toml = tmp_path / "p" / "mmfeat.toml"
    text = toml.read_text(encoding="utf-8").replace("[encoder.image]", "[encoder.text2]\nmodality = 'text'\n[ignored]")
    start, end = text.index("[encoder.text2]"), text.index("[encoder.text]")
    toml.write_text((text[:start] + text[end:]).replace('["image", "text"]', '["text"]'), encoding="utf-8")
    assert "No encoder reads the images: mmfeat.toml has no [encoder.image]" in init(tmp_path / "p").summary


def test_inputs_and_head_that_are_left_out_fit_the_encoders(tmp_path):
    (tmp_path / "mmfeat.toml").write_text("schema = 1\n[encoder.text]\n", encoding="utf-8")
    fuse = load_config(tmp_path / "mmfeat.toml").fuse
    assert (fuse.inputs, fuse.head) == (("text",), "linear")


def test_semicolons_are_told_even_where_a_caption_has_a_comma(tmp_path):
    (tmp_path / "t.csv").write_text("id;caption;labels\n1;a, b;cat\n2;c;cat\n", encoding="utf-8")
    assert init(tmp_path / "p", str(tmp_path / "t.csv")).manifest.captions.tolist() == ["a, b", "c"]


def test_whole_numbers_with_a_point_are_one_class_with_those_without(tmp_path):
    text = "id,caption,labels\n" + "".join(f"{i},a,{'1' if i % 2 else '1.0'}\n" for i in range(6)) + "9,a,2.0\n"
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert init(tmp_path / "p", str(tmp_path / "t.csv")).manifest.classes == ("1", "2")
