"""What a command writes for its user: never over an input or the project, nor over what mmfeat has not made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmfeat.common.errors import OutputError
from mmfeat.config.reader import load_config
from mmfeat.report.outputs import Outputs, _Records

TOML = """\
schema = 1
[data]
source = "data/all.csv"
images = "data/photos"
classes = "classes.csv"
[store]
path = "kept"
[finetune]
synonyms = "words.txt"
"""
KEPT = (
    "mmfeat.toml",
    "manifest.parquet",
    "corrections.csv",
    "init.log",
    "classes.csv",
    "words.txt",
    "data/all.csv",
    "data/photos/a.jpg",
)
KEPT += (
    "runs/linear-1/run.json",
    "checkpoints/image-1/x",
    "kept/part",
    "reviews/applied-1/x",
    ".mmfeat/digests.parquet",
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A project's folder with a file of each kind."""
    for name in KEPT:
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text(TOML if name == "mmfeat.toml" else "kept", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "p")
    return tmp_path / "p"


def outputs(folder: Path, overwrite: bool = False, inputs=()) -> Outputs:
    return Outputs(load_config(folder / "mmfeat.toml"), inputs, overwrite)


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("project", [True, False])
def test_a_file_of_the_project_is_never_written_over(folder, name, project):
    """Whoever writes: a command in the project, or one that knows of none; by any name of the file."""
    here = outputs(folder, overwrite=True) if project else Outputs(overwrite=True)
    (folder / "link").symlink_to(folder / name)
    os.link(folder / name, folder / "hard")
    for path in (name, folder / name, f"runs/../{name}", "link", "hard"):
        with pytest.raises(OutputError, match="never written over"):
            here.write(path, "x")
    assert (folder / name).read_bytes() == (TOML.encode() if name == "mmfeat.toml" else b"kept")


def test_names_that_the_project_would_read_are_kept_free(folder):
    (folder / "corrections.csv").unlink()
    for name in ("corrections.csv", "Corrections.CSV"):
        with pytest.raises(OutputError, match="never written over"):
            outputs(folder, overwrite=True).check(name)
    assert outputs(folder).write("data/new.csv", "x")  # beside the source, where nothing was
    assert outputs(folder).write("data/new.csv", "y")


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_written_over(tmp_path, overwrite):
    table, photos, model = tmp_path / "new.csv", tmp_path / "photos", tmp_path / "model"
    table.write_text("kept", encoding="utf-8")
    for place, name in ((photos, "a.png"), (model, "mmfeat.json")):
        place.mkdir()
        (place / name).write_text("kept", encoding="utf-8")
    (tmp_path / "hard.csv").hardlink_to(table)
    (tmp_path / "link.csv").symlink_to(table)
    here = Outputs(None, [str(table), str(photos), str(model), ""], overwrite)
    for path in (table, tmp_path / "hard.csv", tmp_path / "link.csv", photos / "a.png", model / "mmfeat.json"):
        with pytest.raises(OutputError, match="an input of this command"):
            here.write(path, "x")
    assert here.write(photos / "predictions.csv", "x")  # no picture


@pytest.mark.parametrize("project", [True, False])
def test_what_mmfeat_made_is_replaced_and_what_a_person_changed_is_not(folder, tmp_path, project):
    where = folder if project else tmp_path
    file = where / "o.csv"

    def write(data: str, overwrite: bool = False) -> bool:
        return (outputs(folder, overwrite) if project else Outputs(None, (), overwrite)).write(file, data)

    file.write_text("a person's", encoding="utf-8")
    with pytest.raises(OutputError, match=r"o.csv: exists, and was not written by mmfeat\. .*--overwrite"):
        write("1")
    assert file.read_text(encoding="utf-8") == "a person's"
    assert write("1", overwrite=True)
    assert not write("1")  # typed again
    assert write("2")
    file.write_text("2, and a word", encoding="utf-8")
    with pytest.raises(OutputError, match=r"o.csv: has been changed since mmfeat wrote it\. .*--overwrite"):
        write("3")
    assert write("3", overwrite=True)
    file.unlink()
    assert write("4")


def test_a_file_that_says_the_same_needs_no_word(tmp_path):
    (tmp_path / "o.csv").write_text("1", encoding="utf-8")
    assert not Outputs().write(tmp_path / "o.csv", "1")
    assert Outputs().write(tmp_path / "o.csv", "2")


def test_the_record_moves_with_the_project_and_is_known_to_who_works_without_it(folder):
    outputs(folder).write(folder / "o.csv", "1")
    assert list((folder / ".mmfeat" / "outputs").iterdir())
    assert not list(folder.glob(".o.csv*"))
    moved = folder.rename(folder.with_name("q"))
    assert outputs(moved).write(moved / "o.csv", "2")
    assert Outputs().write(moved / "o.csv", "3")


def test_a_folder_or_a_device_is_no_file(tmp_path):
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, what in (
        (tmp_path / "d", "a folder"),
        (tmp_path / "pipe", "not a plain file"),
        ("/dev/null", "not a plain file"),
    ):
        with pytest.raises(OutputError, match=f"is {what}"):
            Outputs(overwrite=True).write(path, "x")


def test_a_record_that_cannot_be_written_or_read_stops_nothing(folder):
    (folder / ".mmfeat" / "outputs").write_text("no folder", encoding="utf-8")
    assert outputs(folder).write("o.csv", "1")
    with pytest.raises(OutputError, match="--overwrite"):
        outputs(folder).write("o.csv", "2")
    (folder / ".mmfeat" / "outputs").unlink()
    assert outputs(folder, overwrite=True).write("o.csv", "2")
    for record in (folder / ".mmfeat" / "outputs").iterdir():
        record.write_text('{"made": [1, null, "x"', encoding="utf-8")
    with pytest.raises(OutputError, match="--overwrite"):
        outputs(folder).write("o.csv", "3")


def test_own_places_take_what_an_earlier_version_made_but_nothing_that_was_changed(folder):
    file = folder / "runs" / "linear-1" / "evaluation-val.csv"
    file.write_text("of an earlier version", encoding="utf-8")
    here = outputs(folder)
    assert here.write(file, "1", own=True, earlier=True)
    file.write_text("changed", encoding="utf-8")
    with pytest.raises(OutputError, match="has been changed"):
        here.write(file, "2", own=True, earlier=True)


KILLED = """
import os, sys
from mmfeat.report.outputs import Outputs, _Records
n, real = int(sys.argv[1]), os.replace
def replace(*names):
    global n
    n -= 1
    if n < 0:
        os._exit(9)
    real(*names)
os.replace = replace
Outputs().write("o.csv", sys.argv[2])
"""


def test_killed_at_any_rename_it_is_written_when_typed_again(tmp_path):
    for before in ("", "1"):
        codes = []
        for n in range(4):
            for name in ("o.csv", ".o.csv.mmfeat.json"):
                (tmp_path / name).unlink(missing_ok=True)
            if before:
                subprocess.run([sys.executable, "-c", KILLED, "99", before], cwd=tmp_path, check=True)
            codes.append(
                subprocess.run([sys.executable, "-c", KILLED, str(n), "2"], cwd=tmp_path, check=False).returncode
            )
            assert not (tmp_path / "o.csv").exists() or (tmp_path / "o.csv").read_text(encoding="utf-8") in (
                before,
                "2",
            )
            subprocess.run([sys.executable, "-c", KILLED, "99", "3"], cwd=tmp_path, check=True)
            assert (tmp_path / "o.csv").read_text(encoding="utf-8") == "3"
        assert 9 in codes
        assert codes[-1] == 0


def test_digests_that_several_processes_keep_at_once_are_all_kept(tmp_path):
    """A file is then still known, whichever of them wrote it last."""
    code = (
        "import sys; from pathlib import Path; from mmfeat.report.outputs import _Records\n"
        "for n in range(12): _Records([Path('kept/record.json')]).add(Path('table.csv'), f'{sys.argv[1]}-{n}')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(n)], cwd=tmp_path) for n in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    kept = _Records([tmp_path / "kept" / "record.json"]).digests()
    assert sorted(kept) == sorted(f"{one}-{n}" for one in range(4) for n in range(12))
