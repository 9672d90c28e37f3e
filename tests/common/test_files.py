"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from mmfeat.common.files import (
    HOST,
    TEMPORARY,
    atomic_path,
    digest_json,
    publish_folder,
    staging_folder,
    write_json,
)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as temporary:
        temporary.write_text("{")
        raise RuntimeError("half way")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_staged_folder_is_published_whole_under_the_next_free_number_or_goes(tmp_path):
    for number in (1, 2):
        with staging_folder(tmp_path) as staged:
            (staged / "x").write_text(str(number))
            assert publish_folder(staged, tmp_path, "run").name == f"run-{number}"
    with pytest.raises(RuntimeError), staging_folder(tmp_path) as staged:
        (staged / "x").write_text("half")
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run-1", "run-2"]


def test_a_number_is_never_below_one_that_is_taken(tmp_path):
    """The highest number is the latest, also where an earlier folder was removed."""
    (tmp_path / "run-3").mkdir()
    (tmp_path / "run-x-9").mkdir()
    with staging_folder(tmp_path) as staged:
        assert publish_folder(staged, tmp_path, "run").name == "run-4"


def test_only_leftovers_that_nobody_writes_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tmp_path / f"{TEMPORARY}{HOST}-{ended.pid}-aaaa-x"
    alive = tmp_path / f"{TEMPORARY}{HOST}-{os.getpid()}-bbbb-x"
    elsewhere = tmp_path / f"{TEMPORARY}{'0' * 8}-{ended.pid}-cccc-x"
    old = tmp_path / f"{TEMPORARY}{'0' * 8}-{ended.pid}-dddd-x"
    theirs = tmp_path / f"{TEMPORARY}of-another-program"
    for path in (dead, alive, elsewhere, old, theirs):
        path.write_text("half")
    os.utime(old, (0, 0))
    os.utime(theirs, (0, 0))
    with staging_folder(tmp_path):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {alive.name, elsewhere.name, theirs.name}


def test_equal_values_have_equal_digests():
    assert digest_json({"b": [1, 2.5], "a": "é"}) == digest_json({"a": "é", "b": [1, 2.5]})
    assert digest_json({"a": 1}) != digest_json({"a": "1"})
