"""What a project remembers of its samples: once images are gone, every encoder finds the features of what was seen last."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command_line import run_cli
from PIL import Image

from mmfeat.data.seen import load_before, load_seen, note_seen
from mmfeat.project.encoding import ExtractionOptions, extract
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.workflows.status import status

SECOND = '\n[encoder.b]\nmodality = "image"\nmodel = "test_efficientnet"\npretrained = "random"\nsize = 48\n'


def keys_for(*numbers: int) -> np.ndarray:
    return np.array([[number] * 32 for number in numbers], np.uint8).reshape(-1, 32)


def ids_for(*names: str) -> np.ndarray:
    return np.array(names, dtype=object)


# The memory


def test_what_is_known_stays_and_what_changed_is_replaced(tmp_path):
    file = tmp_path / ".mmfeat" / "seen-image.parquet"
    note_seen(file, ids_for("a", "b", "c"), keys_for(1, 2, 3), present=np.array([True, True, False]))
    note_seen(
        file, ids_for("c", "b", "x"), keys_for(3, 9, 4), present=np.array([True, True, True])
    )  # a is not asked for
    note_seen(file, ids_for("a", "b", "c"), keys_for(0, 0, 0), present=np.zeros(3, dtype=bool))  # all are gone
    keys, known = load_seen(file, ids_for("x", "a", "no", "b", "c"))
    np.testing.assert_array_equal(keys, keys_for(4, 1, 0, 9, 3))
    assert known.tolist() == [True, True, False, True, True]
    keys, known = load_before(file, ids_for("a", "b", "c"))
    np.testing.assert_array_equal(keys, keys_for(0, 2, 0))
    assert known.tolist() == [False, True, False]


def test_nothing_is_written_where_nothing_is_new(tmp_path):
    file = tmp_path / "seen.parquet"
    note_seen(file, ids_for("a"), keys_for(1), present=np.ones(1, dtype=bool))
    file.chmod(0o444)
    before = file.stat()
    note_seen(file, ids_for("a"), keys_for(1), present=np.ones(1, dtype=bool))
    assert file.stat().st_ino == before.st_ino


def test_a_memory_of_the_first_version_is_read(tmp_path):
    file = tmp_path / "seen.parquet"
    digests = pa.array([bytes([1] * 32), bytes([2] * 32)], pa.binary(32))
    pq.write_table(pa.table({"id": ["a", "b"], "digest": digests}).replace_schema_metadata({"format": "1"}), file)
    note_seen(file, ids_for("b"), keys_for(5), present=np.ones(1, dtype=bool))
    np.testing.assert_array_equal(load_seen(file, ids_for("a", "b"))[0], keys_for(1, 5))
    np.testing.assert_array_equal(load_before(file, ids_for("a", "b"))[0], keys_for(0, 2))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"odd" * 50])
def test_a_damaged_memory_knows_nothing_and_is_written_again(tmp_path, content):
    file = tmp_path / "seen.parquet"
    file.write_bytes(content)
    assert not load_seen(file, ids_for("a"))[1].any()
    note_seen(file, ids_for("a"), keys_for(1), present=np.ones(1, dtype=bool))
    assert load_seen(file, ids_for("a"))[1].all()


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(tmp_path):
    (tmp_path / "file").write_text("")
    note_seen(tmp_path / "file" / "seen.parquet", ids_for("a"), keys_for(1), present=np.ones(1, dtype=bool))


# A project


@pytest.fixture
def pictured(project, tmp_path):
    """A project whose images lie in a folder, with a second image encoder `b`."""
    source = tmp_path / "source"
    shutil.copytree(project.config.path(project.config.data.source), source)
    with zipfile.ZipFile(source / "images.zip") as archive:
        archive.extractall(source)
    (source / "images.zip").unlink()
    file = project.root / "mmfeat.toml"
    text = file.read_text(encoding="utf-8").replace(project.config.data.source, str(source))
    file.write_text(text + SECOND, encoding="utf-8")
    init(project.root)
    return Project(project.root)


def images_of(project: Project):
    return project.config.path(project.config.data.source) / "images"


def hide(project: Project) -> None:
    images_of(project).rename(project.root.parent / "gone")  # out of the source's folder


def test_another_encoder_s_shard_forgets_nothing(pictured):
    n = pictured.manifest.n_samples
    extract(Project(pictured.root), ["image"])
    whole = Project(pictured.root).feature_table(["image"]).embeddings["image"][:]
    extract(Project(pictured.root), ["b"], options=ExtractionOptions(shard=(1, 4)))
    hide(pictured)
    table = Project(pictured.root).feature_table(["image"])
    assert table.present["image"].sum() == n
    np.testing.assert_array_equal(table.embeddings["image"][:], whole)
    there = Project(pictured.root).feature_table(["b"]).present["b"].sum()
    assert 0 < there < n / 2  # what it has, and nothing more


def test_each_encoder_has_what_it_encoded_whatever_the_order(pictured):
    n = pictured.manifest.n_samples
    for k in (2, 1):
        extract(Project(pictured.root), ["b"], options=ExtractionOptions(shard=(k, 2)))
    extract(Project(pictured.root), ["image"], rows=np.arange(5))
    hide(pictured)
    assert Project(pictured.root).feature_table(["b"]).present["b"].sum() == n
    assert Project(pictured.root).feature_table(["image"]).present["image"].sum() == 5
    done = run_cli("fuse", "--head", "linear", "--inputs", "b", cwd=pictured.root)
    assert "80 rows lost the image" in done.stderr


def test_a_changed_picture_that_is_in_the_store_already_is_the_one_that_counts(pictured):
    """Nothing is encoded when an older picture comes back, and its features are those of now all the same."""
    file = images_of(pictured) / str(pictured.manifest.images[3])
    first = file.read_bytes()
    extract(Project(pictured.root), ["image"])
    of_first = Project(pictured.root).feature_table(["image"]).embeddings["image"][3]
    Image.new("RGB", (40, 40), "red").save(file)
    extract(Project(pictured.root), ["image"])
    of_second = Project(pictured.root).feature_table(["image"]).embeddings["image"][3]
    assert not np.array_equal(of_first, of_second)
    file.write_bytes(first)
    assert extract(Project(pictured.root), ["image"]).encoders[0].encoded == 0
    hide(pictured)
    np.testing.assert_array_equal(Project(pictured.root).feature_table(["image"]).embeddings["image"][3], of_first)


def test_a_picture_that_no_encoder_has_as_it_was_last_is_absent_and_not_the_older_one(pictured, capsys):
    file = images_of(pictured) / str(pictured.manifest.images[3])
    extract(Project(pictured.root), ["image", "b"])
    Image.new("RGB", (40, 40), "red").save(file)
    extract(Project(pictured.root), ["b"])
    hide(pictured)
    project = Project(pictured.root)
    assert not project.feature_table(["image"]).present["image"][3]
    assert project.feature_table(["image", "b"]).present["b"].all()
    assert capsys.readouterr().err.count("1 row of these left out: no cached features") == 1


def test_status_says_what_changed_until_it_is_encoded(pictured):
    extract(Project(pictured.root))
    Image.new("RGB", (40, 40), "red").save(images_of(pictured) / str(pictured.manifest.images[3]))
    for _ in range(2):  # looking does not make it new
        one = {s.name: s for s in status(Project(pictured.root)).encoders}
        assert [(one[n].stale, one[n].missing, one[n].why) for n in ("image", "b")] == [(1, 0, "1 image changed")] * 2
    extract(Project(pictured.root), ["image"])
    one = {s.name: s for s in status(Project(pictured.root)).encoders}
    assert one["image"].why == ""
    assert one["b"].why == "1 image changed"
    assert "1 image changed" in run_cli("status", cwd=pictured.root).stdout


def test_a_memory_that_was_deleted_is_there_again_after_any_look(pictured):
    extract(Project(pictured.root), ["image"])
    shutil.rmtree(pictured.root / ".mmfeat")
    status(Project(pictured.root))
    hide(pictured)
    assert Project(pictured.root).feature_table(["image"]).present["image"].all()
    shutil.rmtree(pictured.root / ".mmfeat")
    assert not Project(pictured.root).feature_table(["image"]).present["image"].any()  # it is all that knows of them


def test_samples_that_are_not_the_project_s_leave_nothing(own_folder, tmp_path):
    folder = own_folder
    before = {path.name for path in (folder / ".mmfeat").iterdir()}
    seen = load_seen(folder / ".mmfeat" / "seen-text.parquet", Project(folder).manifest.ids)[1].sum()
    (tmp_path / "new.csv").write_text("id,caption\nq1,a red circle\nq2,a square\n")
    run_cli("predict", str(tmp_path / "new.csv"), cwd=folder)
    assert {path.name for path in (folder / ".mmfeat").iterdir()} <= before | {"digests.parquet", "outputs"}
    project = Project(folder)
    assert load_seen(project.samples.seen("text"), project.manifest.ids)[1].sum() == seen
    assert not load_seen(project.samples.seen("text"), ids_for("q1", "q2"))[1].any()
