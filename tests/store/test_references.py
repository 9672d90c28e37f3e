"""Who refers to what in a store: no reference is ever lost, and nothing that is referred to is removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import fakes
from helpers.command_line import COMMAND, run_cli
from helpers.edits import edited
from helpers.embeddings import ids_of, in_use, values_of, written
from helpers.fakes import SPEC, TOKENS, embedding_of, keys_of, run, sample_of

from mmfeat.common.errors import StoreError
from mmfeat.common.files import DAY, digest_json
from mmfeat.common.seals import write_sealed
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.store import FeatureStore, garbage, references
from mmfeat.store.garbage import find_garbage, remove_garbage
from mmfeat.store.merge import merge_segments
from mmfeat.store.references import all_references, new_references, note_reference, settle_references
from mmfeat.store.uncommitted import uncommitted_files
from mmfeat.store.verify import verify_encoder
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.store import find_unreferenced, remove_unreferenced, verify_store
from mmfeat.workflows.store_import import import_embeddings

pytestmark = pytest.mark.usefixtures("cache")


# Notes


def test_no_process_takes_away_another_s_reference(tmp_path):
    """Twelve writers of one project, each with references of its own, at once."""
    store, project = tmp_path / "features", tmp_path / "project"
    keys = [[f"{writer:02d}{number:062d}" for number in range(8)] for writer in range(12)]
    begin = threading.Barrier(12)

    def write(mine: list[str]) -> None:
        begin.wait()
        for key in mine:
            note_reference(store, project, key, "tokens-2", None)

    threads = [threading.Thread(target=write, args=(mine,)) for mine in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (found,) = all_references(store)
    assert found.encoders == {key: {"tokens-2"} for mine in keys for key in mine}


def test_projects_that_refer_at_once_keep_what_each_needs(extracted):
    """What a second process of the same project notes while the first is at work stays noted."""
    first, second = Project(extracted.root), Project(extracted.root)
    first.refer("a" * 64, "x")
    second.refer("b" * 64)
    first.refer("a" * 64, "y")
    (found,) = all_references(extracted.store.path)
    assert found.encoders["a" * 64] == {"x", "y"}
    assert found.encoders["b" * 64] == set()


def test_a_reference_is_written_once(tmp_path):
    note_reference(tmp_path, tmp_path / "project", "a" * 64, "kind")
    before = {path: path.stat().st_ino for path in (tmp_path / "projects").iterdir()}
    assert len(before) == 2
    note_reference(tmp_path, tmp_path / "project", "a" * 64, "kind")
    assert {path: path.stat().st_ino for path in (tmp_path / "projects").iterdir()} == before
    victim = next(iter(before))
    victim.write_text("{}")
    with pytest.raises(StoreError, match="damaged"):
        all_references(tmp_path)
    note_reference(tmp_path, tmp_path / "project", "a" * 64, "kind")
    assert all_references(tmp_path)[0].encoders == {"a" * 64: {"kind"}}


def first_version(store, project, encoders: dict[str, list[str]]):
    """One file with all of a project's references, as the first version wrote it."""
    one = new_references(project)
    path = store / "projects" / f"{digest_json([one.host, one.project])[:16]}.json"
    values = {"format": 1, "project": one.project, "host": one.host, "noted": "2026-01-01T00:00:00Z"}
    write_sealed(path, {**values, "encoders": encoders})
    return path


def test_files_of_the_first_version_count_and_give_way_to_new_ones(tmp_path):
    store, project = tmp_path / "features", tmp_path / "project"
    old = first_version(store, project, {"a" * 64: ["k"], "b" * 64: []})
    note_reference(store, project, "c" * 64)
    (found,) = all_references(store)
    assert found.encoders == {"a" * 64: {"k"}, "b" * 64: set(), "c" * 64: set()}
    own = new_references(project)
    own.add("a" * 64, "k")
    settled = settle_references(store, own)
    assert len(all_references(store)[0].encoders) == 3  # gc may be told not to
    settled.drop()
    assert not old.exists()
    assert all_references(store)[0].encoders == {"a" * 64: {"k"}}


def test_the_first_version_can_read_what_is_written_now(tmp_path):
    """On a shared disk it may be the one that tidies up: each file is one of its own."""
    note_reference(tmp_path, tmp_path / "p", "a" * 64, "k")
    note_reference(tmp_path, tmp_path / "p", "b" * 64, imported="clip")
    for path in (tmp_path / "projects").glob("*.json"):
        values = json.loads(path.read_text())
        assert values["format"] == 1
        assert {"project", "host", "noted", "encoders", "seal"} <= set(values)


def test_what_is_noted_while_gc_looks_is_not_dropped(tmp_path):
    store, project = tmp_path / "features", tmp_path / "project"
    note_reference(store, project, "a" * 64)
    settled = settle_references(store, new_references(project))
    note_reference(store, project, "b" * 64)
    settled.drop()
    assert all_references(store)[0].encoders == {"b" * 64: set()}


def test_a_full_disk_drops_no_reference(tmp_path, monkeypatch):
    store, project = tmp_path / "features", tmp_path / "project"
    old = first_version(store, project, {"a" * 64: []})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    own = new_references(project)
    own.add("a" * 64)
    with monkeypatch.context() as patch:
        patch.setattr(references, "write_sealed", refuse)
        settle_references(store, own).drop()
    assert old.exists()
    assert all_references(store)[0].encoders == {"a" * 64: set()}


# Imports


def aged(store, seconds: float) -> None:
    """Make every note older."""
    for path in (store / "projects").glob("*.json"):
        values = json.loads(path.read_text())
        values.pop("seal")
        values["noted"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))
        write_sealed(path, values)


def test_an_import_whose_table_is_not_pasted_yet_stays(project, tmp_path):
    ids = ids_of(project)
    made = import_embeddings(project, "clip", *written(tmp_path, ids, values_of(len(ids))))
    done = run_cli("store", "gc", "--yes", cwd=project.root)
    assert "Kept, although mmfeat.toml does not name it yet: the import clip" in done.stdout
    assert "nothing to remove" in done.stdout
    aged(project.store.path, 29 * DAY)
    assert find_unreferenced(Project(project.root)).garbage == []
    named = in_use(Project(project.root), made.table)
    assert named.feature_table(["clip"]).present["clip"].all()


def test_an_import_that_nobody_ever_named_goes_in_the_end(project, tmp_path):
    ids = ids_of(project)
    import_embeddings(project, "clip", *written(tmp_path, ids, values_of(len(ids))))
    aged(project.store.path, 31 * DAY)
    (one,) = find_unreferenced(Project(project.root)).garbage
    assert one.name.startswith("clip-")


def test_an_import_that_was_named_and_is_not_any_more_goes(project, tmp_path):
    ids = ids_of(project)
    made = import_embeddings(project, "clip", *written(tmp_path, ids, values_of(len(ids))))
    before = (project.root / "mmfeat.toml").read_text(encoding="utf-8")
    extract(in_use(project, made.table), ["clip"])
    (project.root / "mmfeat.toml").write_text(before, encoding="utf-8")
    result = find_unreferenced(Project(project.root))
    assert [one.name[:5] for one in result.garbage] == ["clip-"]
    assert result.settled.waiting == []


def test_another_project_s_gc_keeps_a_fresh_import(extracted, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(extracted.root, second, ignore=shutil.ignore_patterns("features", "runs", ".mmfeat", "checkpoints"))
    with (second / "mmfeat.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n[store]\npath = {json.dumps(str(extracted.store.path))}\n")
    ids = ids_of(extracted)
    import_embeddings(extracted, "clip", *written(tmp_path, ids, values_of(len(ids))))
    result = find_unreferenced(Project(second))
    assert result.garbage == []
    assert len(result.others) == 1  # one line for each project, however many files it has


# An interrupted self-training


def test_the_checkpoints_of_an_interrupted_self_training_are_referred_to(extracted):
    larger = edited(extracted, "size = 32", "size = 64\ntokens = 2")
    finetune(larger, ["image"], freeze=True)
    extract(Project(larger.root), ["image"])
    (checkpoint,) = [p for p in larger.checkpoints.glob("image-*") if p.name == "image-2"]
    folder = larger.runs_folder / ".resume-selftrain" / "0123456789abcdef" / "encoders-2" / "checkpoints"
    folder.mkdir(parents=True)
    checkpoint.rename(folder / "image-1")
    project = edited(larger, "size = 64\ntokens = 2", "size = 32")
    assert find_unreferenced(project).garbage == []
    shutil.rmtree(larger.runs_folder / ".resume-selftrain")
    (one,) = find_unreferenced(Project(project.root)).garbage
    assert one.name.startswith("test_efficientnet-")


# At once


def store_of(folder, n: int = 20) -> FeatureStore:
    store = FeatureStore(folder)
    run(store, n, tokens=TOKENS)
    return store


def assert_whole(folder, n: int = 20) -> None:
    features = FeatureStore(folder).encoder(SPEC)
    found = features.lookup(keys_of(n))
    assert found.good.all()
    np.testing.assert_array_equal(features.embeddings(found)[:], [embedding_of(sample_of(i)) for i in range(n)])
    assert verify_encoder(features.folder, lambda _: None).problems == []


def test_what_is_referred_to_after_gc_has_looked_stays(tmp_path):
    folder, nobody = tmp_path / "features", new_references(tmp_path)
    store_of(folder)
    found = find_garbage(folder, [])
    assert len(found) == 1
    note_reference(folder, tmp_path / "other", SPEC.key, f"tokens-{TOKENS}")
    assert remove_garbage(folder, found, nobody) == 0
    assert_whole(folder)
    other = new_references(tmp_path / "third")
    other.add(SPEC.key)
    (tokens,) = find_garbage(folder, [other])
    assert tokens.kind == f"tokens-{TOKENS}"
    assert remove_garbage(folder, [tokens], nobody) == 0
    assert FeatureStore(folder).encoder(SPEC).lookup_tokens(TOKENS, keys_of(20)).good.all()


@pytest.mark.parametrize("begun", [False, True])
def test_what_is_referred_to_while_gc_removes_it_is_put_back(tmp_path, monkeypatch, begun):
    """Somebody looked at the folder just before it was renamed, and adds rows to it after."""
    folder = tmp_path / "features"
    store = store_of(folder)
    writer = store.encoder(SPEC)
    found = find_garbage(folder, [])

    def noted(path):
        note_reference(folder, tmp_path / "other", SPEC.key)
        if begun:
            values = np.stack([embedding_of(sample_of(i)) for i in (20, 21)])
            writer.append(keys_of(22)[20:], values, ["", ""], meta={})
        return all_references(path)

    monkeypatch.setattr(garbage, "all_references", noted)
    assert remove_garbage(folder, found, new_references(tmp_path)) == 0
    assert_whole(folder, 22 if begun else 20)
    assert not list(folder.glob(".tmp-*"))


def test_a_reference_that_cannot_be_read_stops_the_removal(tmp_path):
    folder = tmp_path / "features"
    store_of(folder)
    found = find_garbage(folder, [])
    (folder / "projects").mkdir()
    (folder / "projects" / "odd.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        remove_garbage(folder, found, new_references(tmp_path))
    assert_whole(folder)


@pytest.mark.slow
def test_two_imports_and_gc_at_once(project, tmp_path):
    ids = ids_of(project)
    file, names = written(tmp_path, ids, values_of(len(ids)))
    importing = [COMMAND, "store", "import", "clip", str(file), "--ids", str(names)]
    commands = [importing, importing, [COMMAND, "store", "gc", "--yes"], [COMMAND, "store", "gc", "--yes"]]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(one, cwd=project.root, stdout=pipe, stderr=pipe, text=True) for one in commands]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * 4, outputs
    lines = outputs[0][0].splitlines()
    start = lines.index("[encoder.clip]")
    named = in_use(Project(project.root), "\n".join(lines[start : start + 3]))
    assert named.feature_table(["clip"]).present["clip"].all()
    assert verify_store(named).problems == []
    remove_unreferenced(named, find_unreferenced(named))
    assert uncommitted_files(next(named.store.path.glob("clip-*"))) == []


# Files without a commit

KILLED = """
import os, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from helpers.fakes import SPEC, TOKENS, run
from mmfeat.store import FeatureStore
from mmfeat.store import segments
from mmfeat.store.merge import merge_segments
store = FeatureStore(sys.argv[2])
what, write = sys.argv[3], segments.write_commit
if what in ("merged", "logits"):
    for n in (8, 16):
        run(store, n)
def killed(folder, commit):
    if what in commit.kind or what == "merged" and commit.rows == 16 or what == "logits" and commit.file.startswith(what):
        os._exit(9)
    write(folder, commit)
segments.write_commit = killed
if what == "merged":
    merge_segments(store.encoder(SPEC))
elif what == "logits":
    store.encoder(SPEC).complete_logits("ab" * 32, ["x"], lambda e: e[:, :1])
else:
    run(store, 16, tokens=TOKENS)
"""


@pytest.mark.parametrize("what", ["embeddings", "tokens", "logits", "merged"])
def test_a_file_whose_writer_was_killed_before_its_commit_goes_with_the_next_writing_and_with_gc(tmp_path, what):
    folder = tmp_path / "features"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(fakes.__file__).parents[1]), str(folder), what],
        check=False,
        env=environment,
    )
    assert done.returncode == 9
    encoder = FeatureStore(folder).encoder(SPEC).folder
    (left,) = uncommitted_files(encoder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    own = new_references(tmp_path)
    own.add(SPEC.key, f"tokens-{TOKENS}", "ab" * 32)
    found = find_garbage(copy, [own])
    assert [path.name for one in found for path in one.paths] == [left.name]
    remove_garbage(copy, found, own)
    assert uncommitted_files(next(copy.glob("fake-*"))) == []
    run(FeatureStore(folder), 16, tokens=TOKENS)
    assert not left.exists()
    merge_segments(FeatureStore(folder).encoder(SPEC))
    assert_whole(folder, 16)


def test_an_interrupted_import_leaves_nothing_when_it_is_typed_again(project, tmp_path):
    ids = ids_of(project)
    files = [str(path) for path in written(tmp_path, ids, values_of(len(ids)))]
    code = (
        "import os, sys\nfrom mmfeat.store import segments\nsegments.write_commit = lambda *_: os._exit(9)\n"
        "from mmfeat.project.project import Project\nfrom mmfeat.workflows.store_import import import_embeddings\n"
        "import_embeddings(Project('.'), 'clip', *sys.argv[1:])"
    )
    assert subprocess.run([sys.executable, "-c", code, *files], check=False, cwd=project.root).returncode == 9
    (folder,) = project.store.path.glob("clip-*")
    (left,) = folder.glob("part-*.h5")
    assert import_embeddings(Project(project.root), "clip", *files).n_written == len(ids)
    assert not left.exists()
    assert len(list(folder.glob("part-*.h5"))) == 1
    shutil.copy(next(folder.glob("part-*.h5")), left)  # by this process, which is still there
    assert import_embeddings(Project(project.root), "clip", *files).n_written == 0
    assert left.exists()
    os.utime(left, (time.time() - 2 * DAY,) * 2)
    import_embeddings(Project(project.root), "clip", *files)
    assert not left.exists()


def test_a_commit_that_is_refused_leaves_no_file(tmp_path, monkeypatch):
    from mmfeat.store import segments

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments, "write_commit", refuse)
    store = FeatureStore(tmp_path / "features")
    with pytest.raises(StoreError, match="No space left"):
        run(store, 8)
    assert not list((tmp_path / "features").rglob("part-*.h5"))
