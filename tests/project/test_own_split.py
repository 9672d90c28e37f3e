"""A split that the data bring: names or folds in a column, files of ids; what moves, and who has seen it."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import mmfeat as mf
from mmfeat.common.errors import ConfigError, DataError
from mmfeat.data.manifest import Manifest
from mmfeat.data.tables.split_cells import split_of_cell
from mmfeat.project.initialisation import init


def table(folder: Path, rows: list[tuple], header=("id", "caption", "labels", "part")) -> str:
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(folder / "t.csv")


def labelled(parts: list[str]) -> list[tuple]:
    """Rows r0, r1 ... with these parts and labels."""
    return [(f"r{i}", f"caption {i}", ("cat", "dog", "cat dog")[i % 3], part) for i, part in enumerate(parts)]


def split_of(folder: Path) -> dict[str, str]:
    manifest = Manifest.load(folder / "manifest.parquet")
    return dict(zip(manifest.ids.tolist(), manifest.split.tolist(), strict=True))


def rows_of(folder: Path, which: str) -> list[str]:
    manifest = Manifest.load(folder / "manifest.parquet")
    return manifest.ids[manifest.rows(which)].tolist()


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "mmfeat.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("Train", "train"),
        (" TRAINING ", "train"),
        ("dev", "val"),
        ("Validation", "val"),
        ("eval", "val"),
        ("TEST", "test"),
        ("unlabeled", "unlabelled"),
        ("", ""),
        ("3", "3"),
        ("3.0", "3"),
        ("07", "7"),
        ("100", None),
        ("-1", None),
        ("1.5", None),
        ("true", None),
        ("trian", None),
    ],
)
def test_cells_are_read_in_every_usual_spelling(text, split):
    assert split_of_cell(text) == split


def test_rows_have_the_split_of_their_column(tmp_path):
    parts = ["Training", "train", "dev", "VAL", "Test", "", "unlabelled"]
    rows = [*labelled(parts), ("u1", "no label", "", "val"), ("u2", "none", "", "")]
    made = init(tmp_path, table(tmp_path, rows), split_column="part")
    assert rows_of(tmp_path, "train") == ["r0", "r1", "r5"]
    assert rows_of(tmp_path, "val") == ["r2", "r3"]
    assert rows_of(tmp_path, "test") == ["r4"]
    assert rows_of(tmp_path, "unlabelled") == ["r6", "u1", "u2"]
    assert "split     3 train, 2 val, 1 test: by column 'part'" in made.summary
    assert "1 row with labels is unlabelled by column 'part': its labels are not used" in made.summary
    assert "1 labelled row without a split in column 'part': 1 train" in made.summary
    assert "1 row of val or test in column 'part' without labels: unlabelled" in made.summary
    assert 'column    = "part"' in (tmp_path / "mmfeat.toml").read_text()
    assert init(tmp_path).unchanged


@pytest.mark.parametrize("cell", ["trian", "100", "-1", "0.5", "yes"])
def test_a_cell_that_is_no_split_is_named_with_its_row(tmp_path, cell):
    with pytest.raises(DataError) as error:
        init(tmp_path, table(tmp_path, labelled(["train", "val", cell])), split_column="part")
    said = str(error.value)
    assert (
        f"t.csv:4: column 'part' holds '{cell}'. Write one of: train, val, test, unlabelled, or a fold's number" in said
    )
    assert not (tmp_path / "mmfeat.toml").exists()


def test_a_column_that_is_not_there_is_named_with_its_option(tmp_path):
    with pytest.raises(DataError, match=r"no column 'prt' for split.*Nearest: 'part'. Use: --split-column COLUMN"):
        init(tmp_path, table(tmp_path, labelled(["train", "val"])), split_column="prt")


def test_a_fold_is_val_and_another_may_be_test(tmp_path):
    parts = [str(i % 4) for i in range(12)]
    made = init(tmp_path, table(tmp_path, labelled(parts)), split_column="part", test_fold=3)
    assert "by column 'part': fold 0 is val and fold 3 is test of 4 folds" in made.summary
    assert rows_of(tmp_path, "val") == ["r0", "r4", "r8"]
    assert rows_of(tmp_path, "test") == ["r3", "r7", "r11"]
    assert Manifest.load(tmp_path / "manifest.parquet").folds.tolist() == [i % 4 for i in range(12)]
    edit(tmp_path, "val_fold  = 0", "val_fold  = 1")
    made = init(tmp_path)
    assert "3 rows moved from val to train, 3 rows moved from train to val" in made.summary
    assert rows_of(tmp_path, "val") == ["r1", "r5", "r9"]


def test_a_fold_that_is_not_there_is_named(tmp_path):
    source = table(tmp_path, labelled(["1", "2", "3"]))
    with pytest.raises(DataError, match=r"split.val_fold = 0, and column 'part' has the folds 1, 2, 3.*--val-fold 1"):
        init(tmp_path, source, split_column="part")
    with pytest.raises(ConfigError, match=r"split.val_fold and split.test_fold are both 1. Use two folds"):
        init(tmp_path, source, split_column="part", val_fold=1, test_fold=1)


@pytest.mark.parametrize("how", ["column", "file"])
def test_without_val_rows_they_are_taken_from_train_and_stay(tmp_path, how):
    parts = ["train"] * 16 + ["test"] * 4
    source = table(tmp_path, labelled(parts))
    (tmp_path / "test.txt").write_text("".join(f"r{i}\n" for i in range(16, 20)))
    options = {"split_column": "part"} if how == "column" else {"test_ids": str(tmp_path / "test.txt")}
    made = init(tmp_path, source, val=0.25, **options)
    assert "val taken from train, stratified, seed 0" in made.summary
    val = rows_of(tmp_path, "val")
    assert len(val) == 4
    assert rows_of(tmp_path, "test") == ["r16", "r17", "r18", "r19"]
    assert init(tmp_path).unchanged
    rows = labelled(parts)
    table(tmp_path, [("new", "one more", "cat", "train"), *rows])
    init(tmp_path)
    assert set(val) <= set(rows_of(tmp_path, "val"))
    assert rows_of(tmp_path, "test") == ["r16", "r17", "r18", "r19"]


def test_files_of_ids(tmp_path):
    source = table(tmp_path, labelled([""] * 6))
    (tmp_path / "val.csv").write_text("id\nr1\nr4\n")
    (tmp_path / "test.txt").write_text("r5\n")
    made = init(tmp_path, source, val_ids=str(tmp_path / "val.csv"), test_ids=str(tmp_path / "test.txt"))
    assert "by val.csv and test.txt" in made.summary
    assert (rows_of(tmp_path, "val"), rows_of(tmp_path, "test")) == (["r1", "r4"], ["r5"])
    text = (tmp_path / "mmfeat.toml").read_text()
    assert 'val_ids = "val.csv"' in text
    assert 'test_ids = "test.txt"' in text
    (tmp_path / "train.txt").write_text("r0\n")
    edit(tmp_path, 'val_ids = "val.csv"', 'val_ids = "val.csv"\ntrain_ids = "train.txt"')
    made = init(tmp_path)
    assert "2 rows with labels are unlabelled by train.txt and val.csv and test.txt" in made.summary
    assert rows_of(tmp_path, "train") == ["r0"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"val": "r1\nr99\n"}, r"val.txt: id 2, 'r99', is no row of the source"),
        ({"val": "r1\n", "test": "r2\nr1\n"}, r"test.txt: row 'r1' is in val.txt too. Leave it out of one of them"),
        ({"val": ""}, r"val.txt: the id of row 1 is blank"),
    ],
)
def test_a_wrong_file_of_ids_is_one_line(tmp_path, files, says):
    source = table(tmp_path, labelled([""] * 4))
    for name, text in files.items():
        (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        init(tmp_path, source, **{f"{name}_ids": str(tmp_path / f"{name}.txt") for name in files})


def test_a_column_and_a_file_contradict_each_other(tmp_path):
    (tmp_path / "val.txt").write_text("r1\n")
    with pytest.raises(ConfigError, match=r"split.column and split.val_ids are both set. Leave one of them out"):
        init(tmp_path, table(tmp_path, labelled(["train"] * 3)), split_column="part", val_ids=str(tmp_path / "val.txt"))


def test_groups_in_two_splits_keep_the_given_split_and_are_listed(tmp_path):
    rows = [
        ("a", "x", "cat", "train", "g1"),
        ("b", "y", "dog", "val", "g1"),
        ("c", "z", "cat", "train", "g2"),
        ("d", "w", "dog", "test", "g1"),
        ("u", "no label", "", "", "g1"),
    ]
    source = table(tmp_path, rows, header=("id", "caption", "labels", "part", "shop"))
    made = init(tmp_path, source, split_column="part", group_column="shop")
    assert made.summary.count("in two splits") == 1
    assert "1 group in two splits (listed in init.log)" in made.summary
    assert "group 'g1': has rows in train and val and test" in (tmp_path / "init.log").read_text()
    # the unlabelled row is near val and test, so it never gets a pseudo-label
    assert split_of(tmp_path) == {"a": "train", "b": "val", "c": "train", "d": "test", "u": "test"}


def test_a_pool_of_train_rows_in_the_group_of_a_test_row_does_not_become_test(tmp_path):
    rows = [(f"r{i}", f"c {i}", ["cat", "dog"][i % 2], "test" if i == 0 else "train", f"g{i // 4}") for i in range(12)]
    source = table(tmp_path, rows, header=("id", "caption", "labels", "part", "shop"))
    init(tmp_path, source, split_column="part", group_column="shop", val=0.3)
    assert rows_of(tmp_path, "test") == ["r0"]
    splits = split_of(tmp_path)
    assert len({splits[f"r{i}"] for i in (1, 2, 3)}) == 1  # the rest of the group stays together
    assert init(tmp_path).unchanged


def test_a_row_keeps_its_split_unless_the_data_say_otherwise(tmp_path):
    source = table(tmp_path, labelled(["train"] * 18 + ["test"] * 2))
    init(tmp_path, source, val=0.2)  # by shares
    before = split_of(tmp_path)
    edit(tmp_path, '#column    = "split"', 'column = "part" #')
    made = init(tmp_path)
    after = split_of(tmp_path)
    assert {i for i in after if after[i] == "test"} == {"r18", "r19"}
    assert all(after[i] == before[i] for i in after if after[i] != "test")
    assert "moved from" in made.summary


def test_a_correction_labels_a_row_that_is_given_as_unlabelled(tmp_path):
    source = table(tmp_path, labelled(["train", "train", "val", "unlabelled", "unlabelled"]))
    init(tmp_path, source, split_column="part")
    assert rows_of(tmp_path, "unlabelled") == ["r3", "r4"]
    (tmp_path / "corrections.csv").write_text("id,labels\nr3,dog\n")
    init(tmp_path)
    assert rows_of(tmp_path, "train") == ["r0", "r1", "r3"]
    assert rows_of(tmp_path, "unlabelled") == ["r4"]


def test_models_that_were_trained_on_rows_that_are_val_now_are_named_and_not_ranked(own):
    from mmfeat.project.project import Project
    from mmfeat.project.staleness import state_of
    from mmfeat.runs.run import all_runs

    manifest = own.manifest
    moved = manifest.ids[manifest.rows("train")][:5].tolist()
    (own.root / "val.txt").write_text("\n".join([*moved, *manifest.ids[manifest.rows("val")]]) + "\n")
    edit(own.root, "val = 0.25", 'val = 0.25\nval_ids = "val.txt"')
    made = init(own.root)
    line = next(line for line in made.summary.splitlines() if "Trained on rows that are now val" in line)
    for name in ("image-1 (5 rows)", "text-1 (5 rows)", "crossattn-1 (5 rows)", "fm3-1 (5 rows)"):
        assert name in line
    assert "5 rows moved from train to val" in made.summary
    assert made.after == "mmfeat finetune --freeze"
    now = Project(own.root)
    assert all("trained on rows that are val now" in state_of(now, run) for run in all_runs(now.runs_folder))


def test_folds_of_the_data_are_those_of_fuse(own):
    from mmfeat.project.project import Project
    from mmfeat.training.head_folds import Folds

    ids = own.manifest.ids
    folds = np.arange(len(ids), dtype=np.int16) % 3 * 2
    labelled_rows = np.concatenate([own.manifest.rows("train"), own.manifest.rows("val")])
    given = own.derived(
        manifest=dataclasses.replace(own.manifest, folds=folds, columns={**own.manifest.columns, "split": "fold"}),
        settings={"fuse.folds": 3},
    )
    found = Folds(given)
    assert found.of_rows(labelled_rows).tolist() == (labelled_rows % 3).tolist()
    assert "given_folds" in found.made_from()
    assert "given_folds" not in Folds(own.derived(settings={"fuse.folds": 3})).made_from()
    with pytest.raises(DataError, match=r"fuse.folds = 5, and column 'fold' has 3 folds .*Use: --folds 3"):
        Folds(given.derived(settings={"fuse.folds": 5}))
    folds[labelled_rows[0]] = -1
    assert Folds(given).given is None
    assert isinstance(Project(own.root).manifest.folds, type(None))


def test_python_has_the_same_options(tmp_path):
    source = table(tmp_path, labelled(["0", "1", "2", "0", "1", "2"]))
    project = mf.init(tmp_path / "p", source, split_column="part", val_fold=2, progress=False)
    manifest = project.manifest
    assert manifest.ids[manifest.rows("val")].tolist() == ["r2", "r5"]
    (tmp_path / "v.txt").write_text("r0\n")
    project = mf.init(tmp_path / "q", source, val_ids=tmp_path / "v.txt", progress=False)
    assert project.manifest.ids[project.manifest.rows("val")].tolist() == ["r0"]
    assert re.search(r'val_ids = ".*v\.txt"', (tmp_path / "q" / "mmfeat.toml").read_text())


def test_with_a_vocabulary_the_command_to_train_again_fine_tunes_nothing(tmp_path):
    """A vocabulary is fitted without labels, as a frozen encoder is."""
    from mmfeat.project.project import Project
    from mmfeat.workflows.finetune import finetune

    source = table(tmp_path, labelled([str(i % 3) for i in range(18)]))
    init(tmp_path, source, split_column="part", text_encoder="tfidf")
    finetune(Project(tmp_path), freeze=True)
    edit(tmp_path, "val_fold  = 0", "val_fold  = 1")
    made = init(tmp_path)
    assert "Trained on rows that are now val or test: text-1 (6 rows)" in made.summary
    assert made.after == "mmfeat finetune --freeze"
    table(tmp_path, [*labelled([str(i % 3) for i in range(18)]), ("new", "x", "bird", "2")])
    assert "starting with: mmfeat finetune --freeze" in init(tmp_path).summary  # a new class
