"""`mmfeat init` again: groups, corrections, the difference; killed, or two at once."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.interruption import DyingRename, Killed
from helpers.tables import split_of, table

from mmfeat.common.errors import DataError
from mmfeat.common.files import HOST, TEMPORARY
from mmfeat.config.reader import load_config
from mmfeat.config.schema import FILE_NAME
from mmfeat.project import initialisation as module
from mmfeat.project.initialisation import init


def grouped(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """A table of (id, labels, group)."""
    lines = ["id,caption,labels,product", *(f"{i},about {i},{labels},{group}" for i, labels, group in rows)]
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "t.csv"


def products(n: int) -> list[tuple[str, str, str]]:
    """Rows of products: two labelled and one unlabelled of each, and as many rows without one."""
    return [
        row
        for i in range(n)
        for row in ((f"a{i}", "cat", f"p{i}"), (f"b{i}", "dog", f"p{i}"), (f"c{i}", "", f"p{i}"), (f"d{i}", "cat", ""))
    ]


def test_rows_of_one_group_stand_in_one_split_also_when_they_come_later(tmp_path):
    made = init(tmp_path, str(grouped(tmp_path, products(40))), val=0.25, test=0.25, group_column="product")
    assert load_config(tmp_path / FILE_NAME).data.group == "product"
    assert "group = 'product'" in made.summary
    assert "identical images together, groups too" in made.summary
    before = split_of(tmp_path)
    assert len({(before[f"a{i}"], before[f"b{i}"]) for i in range(40)}) == 3
    later = products(60) + [(f"e{i}", "dog", f"p{i}") for i in range(60)]
    grouped(tmp_path, later)
    init(tmp_path)
    after = split_of(tmp_path)
    for i in range(60):
        assert len({after[f"{row}{i}"] for row in "abce"}) == 1
    assert {i: after[i] for i in before} == before
    assert init(tmp_path).unchanged
    new = [after[f"a{i}"] for i in range(40, 60)]
    assert new.count("test")
    assert new.count("val")


def test_a_new_row_that_would_join_two_splits_names_them_and_nothing_is_written(tmp_path):
    init(tmp_path, str(grouped(tmp_path, products(40))), val=0.25, group_column="product")
    split = split_of(tmp_path)
    train = next(i for i in range(40) if split[f"a{i}"] == "train")
    val = next(i for i in range(40) if split[f"a{i}"] == "val")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != "t.csv"}
    joined = [row if row[0] != f"a{val}" else (row[0], row[1], f"p{train}") for row in products(40)]
    grouped(tmp_path, joined)
    with pytest.raises(DataError) as error:
        init(tmp_path)
    assert f"has the same group 'p{train}' as" in str(error.value)
    assert f"'a{val}' (val)" in str(error.value)
    assert "remove manifest.parquet to split again" in str(error.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != "t.csv"} == before


def test_a_group_column_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no column 'produkt' for group.*Nearest: 'product'. Use: --group COLUMN"):
        init(tmp_path, str(grouped(tmp_path, products(3))), group_column="produkt")


# -- again: corrections and the difference


def test_corrections_outlive_every_init_and_are_counted(tmp_path):
    path = table(tmp_path, 40)
    init(tmp_path, str(path))
    split = split_of(tmp_path)
    (tmp_path / "corrections.csv").write_text("id,labels\nr0,dog\nr1,dog\nr2,\n")
    made = init(tmp_path)
    assert "by hand        3   in corrections.csv, 2 of them differ from the source" in made.summary
    assert "changed        2   rows' labels: 'r0', 'r2'" in made.summary
    assert made.manifest.labels[:3].tolist() == [[0, 1], [0, 1], [0, 0]]
    assert split_of(tmp_path) == split
    assert init(tmp_path).unchanged
    table(tmp_path, 50)
    made = init(tmp_path)
    assert made.manifest.labels[:3].tolist() == [[0, 1], [0, 1], [0, 0]]
    assert "by hand        3" in made.summary
    assert "changed" not in made.summary
    (tmp_path / "corrections.csv").unlink()
    made = init(tmp_path)
    assert made.manifest.labels[:3].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert "by hand" not in made.summary


def test_a_class_that_only_corrections_have_is_said_with_the_nearest(tmp_path):
    (tmp_path / "corrections.csv").write_text("id,labels\nr0,dgo\n")
    made = init(tmp_path, str(table(tmp_path)))
    assert made.manifest.classes == ("cat", "dgo", "dog")
    assert "class 'dgo' is only in corrections.csv, in no row of the source (nearest: 'dog')" in made.summary
    (tmp_path / "c.csv").write_text("label\ncat\ndog\n")
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(
        DataError, match=r"corrections.csv:2: label 'dgo' is not in the class list of 2. Nearest: 'dog'"
    ):
        init(tmp_path, str(tmp_path / "t.csv"), classes=str(tmp_path / "c.csv"))


def test_corrections_that_leave_no_label_are_an_error(tmp_path):
    (tmp_path / "corrections.csv").write_text("id,labels\nr0,\n")
    with pytest.raises(DataError, match=r"corrections.csv: leaves no row with a label"):
        init(tmp_path, str(table(tmp_path, 1)))


def test_the_difference_is_said_once_and_stays_in_the_log(tmp_path):
    path = table(tmp_path, 40)
    made = init(tmp_path, str(path))
    assert "Since" not in made.summary
    assert not (tmp_path / "init.log").exists()
    lines = path.read_text().splitlines()
    lines = [line.replace("caption 3,", "another 3,") for line in lines if not line.startswith("r5,")]
    path.write_text("\n".join([*lines, "r77,x,cow", "r78,x,dog"]) + "\n")
    made = init(tmp_path)
    assert made.written == ["manifest.parquet", "init.log"]
    for line in (
        "new            2   rows: 'r77', 'r78'",
        "gone           1   row: 'r5'",
        "changed        1   caption: 'r3'",
        "new            1   class: 'cow'",
    ):
        assert f"\n  {line}" in made.summary
    log = (tmp_path / "init.log").read_text()
    assert log.splitlines() == [
        "Changed since the manifest of before:",
        "class 'cow': new",
        "row 'r77': new",
        "row 'r78': new",
        "row 'r5': gone",
        "caption of 'r3': 'caption 3', now 'another 3'",
    ]
    again = init(tmp_path)
    assert again.unchanged
    assert "Since" not in again.summary
    assert (tmp_path / "init.log").read_text() == log
    (tmp_path / "manifest.parquet").unlink()
    assert init(tmp_path).removed == ["init.log"]


@pytest.mark.parametrize(
    ("made", "change", "after"),
    [
        ([], "r99,x,cow", "mmfeat status"),
        (["features"], "r99,x,cow", "mmfeat extract"),
        (["features", "checkpoints/text-1/checkpoint.json"], "r99,x,cow", "mmfeat finetune"),
        (["features", "checkpoints/text-1/checkpoint.json"], "r99,x,cat", "mmfeat extract"),
        (["features", "runs/linear-1/run.json"], "r99,x,cow", "mmfeat fuse"),
        (["features", "runs/linear-1/run.json"], "r2,caption 2,dog", "mmfeat status"),  # its record cannot be read
        (["features"], "r2,caption 2,dog", "mmfeat status"),
    ],
)
def test_what_to_type_next_is_what_follows(tmp_path, made, change, after):
    path = table(tmp_path)
    assert init(tmp_path, str(path)).after == "mmfeat status"
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).mkdir() if name == "features" else (tmp_path / name).write_text('{"frozen": false}')
    lines = [line for line in path.read_text().splitlines() if line.split(",")[0] != change.split(",")[0]]
    path.write_text("\n".join([*lines, change]) + "\n")
    assert init(tmp_path).after == after
    assert init(tmp_path).after == "mmfeat status"


# -- killed, or two at once


@pytest.mark.parametrize("fails", range(4))
@pytest.mark.parametrize("first", [True, False])
def test_init_killed_midway_leaves_a_whole_manifest_and_another_completes(tmp_path, monkeypatch, fails, first):
    """Killed before the renaming of its first, second ... file."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    for place in (whole, folder):
        place.mkdir()
        path = table(place, 40, images=True)
        if not first:
            init(place, str(path), val=0.25)
            table(place, 60, images=True)
        (place / "images" / "7.png").unlink()
    arguments = {"val": 0.25} if first else {}
    init(whole, str(whole / "t.csv"), **arguments)
    before = split_of(folder) if not first else None
    killed = DyingRename(os.replace, fails)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # a killed process tidies nothing
        with contextlib.suppress(Killed):
            init(folder, str(folder / "t.csv"), **arguments)
    assert killed.n_calls
    if (folder / "manifest.parquet").exists():
        now = split_of(folder)
        assert now == split_of(whole) or now == before
    else:
        assert before is None
        assert not (folder / FILE_NAME).exists()
    if (folder / FILE_NAME).exists():  # a project is there when its mmfeat.toml is
        assert (folder / "manifest.parquet").exists()
    init(folder, str(folder / "t.csv"), **arguments)
    assert split_of(folder) == split_of(whole)
    for name in ("init.log", FILE_NAME):
        assert (folder / name).read_text() == (whole / name).read_text()


def test_what_a_killed_init_left_is_removed(tmp_path):
    path = table(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f"{TEMPORARY}{HOST}-{dead.pid}-x-manifest.parquet", f"{TEMPORARY}{HOST}-{os.getpid()}-x-manifest.parquet"]
    (tmp_path / "deeper").mkdir()
    for name in [*names, f"deeper/{names[0]}"]:
        (tmp_path / name).write_text("x")
    init(tmp_path, str(path))
    assert [(tmp_path / name).exists() for name in [*names, f"deeper/{names[0]}"]] == [False, True, True]


def test_two_at_once_leave_one_whole_manifest(tmp_path):
    path = table(tmp_path, 300)
    for n in (300, 400):
        table(tmp_path, n)
        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(init, tmp_path, str(path)) for _ in range(8)]
        for future in made:
            if error := future.exception():
                assert isinstance(error, DataError)
                assert "meanwhile" in str(error)
        assert len(split_of(tmp_path)) == n
        assert not list(tmp_path.glob(".tmp-*"))
    assert init(tmp_path).unchanged


def test_a_manifest_that_another_init_wrote_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    init(tmp_path, str(table(tmp_path, 40)), val=0.25)
    original = module.build_manifest

    def slow(*arguments):
        """While this one reckons, another takes in more rows."""
        found = original(*arguments)
        monkeypatch.setattr(module, "build_manifest", original)
        table(tmp_path, 60)
        init(tmp_path)
        return found

    table(tmp_path, 50)
    monkeypatch.setattr(module, "build_manifest", slow)
    with pytest.raises(DataError, match=r"another mmfeat init wrote it in the meantime. Run again: mmfeat init"):
        init(tmp_path)
    assert len(split_of(tmp_path)) == 60
