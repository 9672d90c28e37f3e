"""Embeddings that were made elsewhere: every format, every mistake in one line, and an encoder like any other after that."""

from __future__ import annotations

import hashlib
import json
import unicodedata

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command_line import run_cli
from helpers.embeddings import WIDTH, ids_of, in_use, values_of, written
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mmfeat.common.errors import ConfigError, DataError, EncoderError, MissingFeatures, StoreError
from mmfeat.config.encoder_tables import OtherEncoderConfig
from mmfeat.config.reader import load_config
from mmfeat.data.embedding_files import open_array
from mmfeat.data.id_lists import read_ids
from mmfeat.data.row_keys import id_keys
from mmfeat.extraction import imported_embeddings as imports
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.project.encoding import extract
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.selftrain import selftrain
from mmfeat.workflows.status import status, store_status
from mmfeat.workflows.store import export_features, find_unreferenced, remove_unreferenced, verify_store
from mmfeat.workflows.store_import import import_embeddings


@pytest.fixture
def imported(project, tmp_path):
    """A project with an encoder `clip` for all rows but the last five."""
    ids = ids_of(project)[:-5]
    made = import_embeddings(project, "clip", *written(tmp_path, ids, values_of(len(ids))))
    return in_use(project, made.table)


# files


def _npy(path, ids, values):
    np.save(path.with_suffix(".npy"), values)
    path.with_suffix(".csv").write_text("id,what\n" + "".join(f"{i},x\n" for i in ids))
    return path.with_suffix(".npy"), path.with_suffix(".csv")


def _fortran(path, ids, values):
    return _npy(path, ids, np.asfortranarray(values))


def _parquet(path, ids, values):
    flat = pa.array(values.ravel())
    columns = {"id": ids, "embedding": pa.FixedSizeListArray.from_arrays(flat, values.shape[1])}
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"), row_group_size=7)
    return path.with_suffix(".parquet"), None


def _lists(path, ids, values):
    pq.write_table(pa.table({"ids": ids, "features": values.tolist()}), path.with_suffix(".pq"))
    return path.with_suffix(".pq"), None


def _h5(path, ids, values):
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["ids"], file["features"], file["other"] = ids, values, np.arange(3)
    return path.with_suffix(".h5"), None


def _safetensors(path, ids, values):
    save_file({"embeddings": values}, path.with_suffix(".safetensors"), {"ids": json.dumps(ids)})
    return path.with_suffix(".safetensors"), None


FORMS = [_npy, _fortran, _parquet, _lists, _h5, _safetensors]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_rows_and_the_same_key(project, tmp_path, form, monkeypatch):
    monkeypatch.setattr(imports, "BLOCK_BYTES", 8 * WIDTH * 8)  # eight rows
    monkeypatch.setattr(imports, "PART_BYTES", 2 * WIDTH * 8)
    ids, values = ids_of(project), values_of(project.manifest.n_samples)
    made = import_embeddings(project, "clip", *form(tmp_path / "made", ids, values))
    assert (made.n_rows, made.n_written, made.n_matched, made.width) == (len(ids), len(ids), len(ids), WIDTH)
    other = import_embeddings(project, "clip", *written(tmp_path, ids[::-1], values[::-1], "turned"))
    assert (other.key, other.n_written) == (made.key, 0)
    table = in_use(project, made.table).feature_table(["clip"])
    np.testing.assert_array_equal(np.asarray(table.embeddings["clip"][:]), values.astype(np.float16))
    assert table.present["clip"].all()


@pytest.mark.parametrize("form", ["h5", "parquet", "safetensors"])
def test_an_export_comes_back_as_it_was(extracted, tmp_path, form):
    project = extracted
    ids = project.manifest.ids
    project.manifest.captions[3] = " "  # a row without a caption
    before = export_features(project, tmp_path / f"out.{form}", form, ["text"]).table
    present = before.present["text"]
    name = "embeddings/text" if form == "h5" else "embeddings.text"
    if form == "h5":  # logits are floats as well: the name tells
        assert open_array(tmp_path / "out.h5").array == name
    made = import_embeddings(project, "again", tmp_path / f"out.{form}", array=name)
    assert (made.n_rows, made.n_left_out) == (present.sum(), (~present).sum())
    table = in_use(project, made.table).feature_table(["again"])
    np.testing.assert_array_equal(table.present["again"], present)
    np.testing.assert_array_equal(np.asarray(table.embeddings["again"][:]), np.asarray(before.embeddings["text"][:]))
    assert list(table.ids) == list(ids)


def test_float64_and_whole_numbers_are_numbers(project, tmp_path):
    ids = ids_of(project)
    for number, dtype in enumerate((np.float64, np.float16, np.int8, ">f4")):
        made = import_embeddings(project, "clip", *written(tmp_path, ids, values_of(len(ids), dtype), str(number)))
        assert made.n_rows == len(ids)


@pytest.mark.parametrize(
    ("name", "text", "n", "expected"),
    [
        ("a.csv", "id\n1\n2\n", 2, ["1", "2"]),
        ("a.csv", "1\n2\n", 2, ["1", "2"]),
        ("a.csv", "name\n1\n2\n", 2, ["1", "2"]),
        ("a.csv", 'x,id\n9,"a,b"\n9,ä\n', 2, ["a,b", "ä"]),
        ("a.txt", "\ufeff1\r\n2\r\n", 2, ["1", "2"]),
        ("a.json", '["a", 7]', 2, ["a", "7"]),
    ],
)
def test_ids_are_read_as_they_stand(tmp_path, name, text, n, expected):
    (tmp_path / name).write_bytes(text.encode())
    assert read_ids(tmp_path / name, n) == expected


# without NUL, because "\0a\0b" is UTF-16 as well
@given(st.lists(st.text("ab0é,;\"' \t\x1f\x85\u2028", min_size=1), min_size=1))
def test_text_ids_come_back(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("ids") / "a.txt"
    path.write_text("\n".join(ids) + "\n", encoding="utf-8", newline="")
    assert read_ids(path, len(ids)) == ids


@given(st.binary(max_size=200), st.sampled_from([".npy", ".parquet", ".h5", ".safetensors"]))
def test_a_file_that_is_not_what_it_says_is_one_line(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("odd") / f"odd{suffix}"
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        open_array(path)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


# mistakes


def _wrong(values, ids, row, value):
    values[row] = value
    return values, ids


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v, i: (v[:-1], i), ["79 embeddings and 80 ids", "one for each"]),
        (lambda v, i: (v[:, 0], i), ["two-dimensional"]),
        (lambda v, i: (v[:, :, None], i), ["two-dimensional", "(80, 6, 1)"]),
        (lambda v, i: (v[:, :0], i), ["nothing to import"]),
        (lambda v, i: (v.astype(str), i), ["not numbers"]),
        (lambda v, i: _wrong(v, i, (2, 1), np.nan), ["row", "3 (id", "not finite"]),
        (lambda v, i: _wrong(v, i, (slice(5, 9), 1), np.inf), ["4 rows of 80: 6", "and 1 more", "not finite"]),
        (lambda v, i: _wrong(v, i, (7, 1), 1e6), ["8 (id", "float16 cannot hold", "float32"]),
        (lambda v, i: (v, [i[1], *i[1:]]), ["1 id more than once", "rows 1, 2"]),
        (lambda v, i: (v, ["", *i[1:]]), ["the id of row 1 is blank"]),
        (
            lambda v, i: (v, [f"x{one}" for one in i]),
            ["none of 80 ids", "The first id in the manifest is", "in the file 'x"],
        ),
    ],
)
def test_each_mistake_is_one_line_and_nothing_is_written(project, tmp_path, change, words):
    ids, values = ids_of(project), values_of(project.manifest.n_samples)
    values, ids = change(values, ids)
    with pytest.raises(DataError) as error:
        import_embeddings(project, "clip", *written(tmp_path, ids, values))
    text = str(error.value)
    assert "\n" not in text
    assert "clip." in text
    for word in words:
        assert word in text
    assert not list(project.store.path.glob("clip-*"))


@pytest.mark.parametrize("name", ["fm1", "clip-1", "1clip", "cl ip", "", "image", "../x"])
def test_a_name_that_is_taken_or_none_is_refused(project, tmp_path, name):
    ids = ids_of(project)
    with pytest.raises(ConfigError):
        import_embeddings(project, name, *written(tmp_path, ids, values_of(len(ids))))


def test_files_that_do_not_say_what_is_meant_are_refused(project, tmp_path):
    ids, values = ids_of(project), values_of(project.manifest.n_samples)
    file, _ = written(tmp_path, ids, values)
    with h5py.File(tmp_path / "two.h5", "w") as h5:
        h5["ids"], h5["a"], h5["b"] = ids, values, values
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "x.docx").write_text("")
    pq.write_table(pa.table({"id": ["1"], "x": [1.0]}), tmp_path / "flat.parquet")
    pq.write_table(pa.table({"id": ["1", "2"], "x": [[1.0, 2.0], [1.0]]}), tmp_path / "ragged.parquet")
    np.save(tmp_path / "object.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=values)
    for arguments, word in {
        (file, None): "--ids",
        (tmp_path / "two.h5", None): "--array",
        (tmp_path / "two.h5", None, "c"): "no 'c' in it",
        (file, tmp_path / "x.csv"): "no column 'id'",
        (file, tmp_path / "x.docx"): "suffix",
        (tmp_path / "x.docx", None): "suffix",
        (tmp_path / "no.npy", None): "no such file",
        (file, tmp_path / "no.csv"): "no such file",
        (tmp_path / "flat.parquet", None): "column of lists",
        (tmp_path / "object.npy", None): "cannot be read as npy",
        (tmp_path / "many.npz", None): "Unpack",
    }.items():
        with pytest.raises(DataError, match=word) as error:
            import_embeddings(project, "clip", *arguments[:2], array="".join(arguments[2:]))
        assert "\n" not in str(error.value)
    ragged = open_array(tmp_path / "ragged.parquet")
    with pytest.raises(DataError, match="row 2 has 1 number, the first has 2"):
        list(ragged.blocks(1))


def test_a_file_that_changes_between_two_looks_is_not_stored_under_the_old_key(project, tmp_path, monkeypatch):
    ids, values = ids_of(project), values_of(project.manifest.n_samples)
    file, names = written(tmp_path, ids, values)
    examine = imports.examine

    def examine_and_change(*arguments, **named):
        found = examine(*arguments, **named)
        np.save(file, values + 1)
        return found

    monkeypatch.setattr("mmfeat.workflows.store_import.examine", examine_and_change)
    with pytest.raises(DataError, match="changed while it was read"):
        import_embeddings(project, "clip", file, names)
    assert not list(project.store.path.rglob("part-*.h5"))


# an import that is not whole


def test_an_interrupted_import_counts_for_nothing_and_goes_on(project, tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "PART_BYTES", 2 * WIDTH * 16)  # sixteen rows
    ids, values = ids_of(project), values_of(project.manifest.n_samples)
    files = written(tmp_path, ids, values)
    append, calls = imports.EncoderFeatures.append, []

    def killed(self, *arguments, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        append(self, *arguments, **more)

    monkeypatch.setattr(imports.EncoderFeatures, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        import_embeddings(project, "clip", *files)
    monkeypatch.setattr(imports.EncoderFeatures, "append", append)
    (folder,) = project.store.path.glob("clip-*")
    half = in_use(project, f'[encoder.clip]\nmodality = "other"\nimported = "{folder.name[-12:]}"')
    with pytest.raises(EncoderError, match="incomplete: the store has 32 of 80 embeddings"):
        half.identity("clip")
    assert "store import clip FILE" in status(half).failures["clip"]
    assert import_embeddings(half, "clip", *files).n_written == len(ids) - 32
    assert import_embeddings(half, "clip", *files).n_written == 0
    again = Project(project.root)
    assert again.feature_table(["clip"]).present["clip"].all()


def test_a_damaged_part_is_not_read_and_comes_back(imported, tmp_path):
    (part,) = [p for p in imported.store.path.rglob("part-*.h5") if p.parent.name.startswith("clip-")]
    part.write_bytes(part.read_bytes()[:-3])
    damaged = Project(imported.root)
    with pytest.raises(EncoderError, match="store import clip FILE"):
        damaged.identity("clip")
    assert verify_store(damaged).problems
    with pytest.raises(StoreError, match="nothing is removed"):
        find_unreferenced(damaged)
    ids = ids_of(imported)[:-5]
    assert import_embeddings(damaged, "clip", tmp_path / "clip.npy", tmp_path / "clip.txt").n_written == len(ids)
    assert Project(imported.root).identity("clip").width == WIDTH


# an encoder like any other


def test_rows_without_an_embedding_are_absent_and_counted(imported):
    n = imported.manifest.n_samples
    (line,) = [one for one in status(imported).encoders if one.name == "clip"]
    assert (line.cached, line.absent, line.missing, line.stale) == (n - 5, 5, 0, 0)
    table = imported.feature_table(["clip"])
    assert table.present["clip"].tolist() == [True] * (n - 5) + [False] * 5
    assert not np.asarray(table.embeddings["clip"][n - 5 :]).any()
    assert id_keys(["ä"]).tobytes() == hashlib.sha256("ä".encode()).digest()


def test_everything_right_of_the_wall_takes_it(extracted, tmp_path):
    ids = ids_of(extracted)
    made = import_embeddings(extracted, "clip", *written(tmp_path, ids, values_of(len(ids))))
    project = in_use(extracted, made.table)
    with pytest.raises(ConfigError, match="mmfeat finetune image text, and: mmfeat finetune clip --freeze"):
        finetune(project, ["clip"])
    (result,) = finetune(project, ["clip"], freeze=True).encoders
    assert (result.made, result.checkpoint.name, result.width) == (True, "clip-1", WIDTH)
    assert not finetune(Project(project.root), ["clip"], freeze=True).encoders[0].made
    project = Project(project.root)
    extraction = extract(project, ["clip"])
    assert extraction.encoders[0].imported
    assert extraction.logits["clip"] == len(ids)
    for head, inputs in (("linear", "clip"), ("concat", "image,text,clip"), ("crossattn", "image,clip")):
        run = fuse(Project(project.root, {"fuse.inputs": inputs}), head).run
        assert "clip" in run.encoders
        assert run.size_mb is None  # how large the network was is not known
    trained = selftrain(Project(project.root, {"fuse.inputs": "image,clip", "fuse.head": "concat"}))
    assert trained.made
    assert ensemble(Project(project.root), ["image", "clip"]).made
    project = Project(project.root)
    ranked = ranked_runs(project)
    assert {line.state for line in ranked if line.run} <= {"current"}
    assert any(line.name == "clip" and line.metrics for line in ranked)
    assert any("encoder clip" in line.used_by for line in store_status(project))
    garbage = find_unreferenced(project)
    remove_unreferenced(project, garbage)
    assert Project(project.root).feature_table(["clip"]).present["clip"].all()
    assert verify_store(project).problems == []
    export_features(project, tmp_path / "out", "npy", ["clip"])
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "embeddings.clip.npy"), values_of(len(ids), np.float16))


def test_a_changed_import_is_another_key_and_makes_runs_stale(imported, tmp_path):
    before = fuse(Project(imported.root, {"fuse.inputs": "clip"}), "linear").run
    ids = ids_of(imported)[:-5]
    other = import_embeddings(imported, "clip", *written(tmp_path, ids, values_of(len(ids)) + 1, "later"))
    assert not other.in_use
    file = imported.root / "mmfeat.toml"
    old = before.encoders["clip"]["key"][:16]
    assert other.key != old
    file.write_text(file.read_text().replace(old, other.key))
    states = {line.name: line.state for line in ranked_runs(Project(imported.root))}
    assert states[before.name].startswith("stale: encoder clip has changed")


def test_without_one_row_of_the_manifest_the_error_says_what_helps(imported):
    imported.manifest.ids[:] = [f"other{i}" for i in range(imported.manifest.n_samples)]
    with pytest.raises(MissingFeatures, match=r"'other0'.*store import clip FILE"):
        imported.feature_table(["clip"])


def test_what_is_not_imported_says_what_to_type(project):
    project = in_use(project, '[encoder.clip]\nmodality = "other"\nimported = "0123456789ab"')
    with pytest.raises(EncoderError, match=r"no import 0123456789ab\. Run: mmfeat store import clip FILE"):
        project.identity("clip")


@pytest.mark.parametrize("line", ["", 'imported = "clip"', 'imported = "0123"', 'imported = "0123456789AB"'])
def test_a_table_without_a_key_says_how_to_get_one(project, line):
    with pytest.raises(ConfigError, match="store import clip FILE"):
        in_use(project, '[encoder.clip]\nmodality = "other"', line)


def test_the_table_has_keys_of_its_own(imported):
    table = load_config(imported.root / "mmfeat.toml").encoder["clip"]
    assert isinstance(table, OtherEncoderConfig)
    with pytest.raises(ConfigError, match=r"unknown key 'encoder\.clip\.size'"):
        in_use(imported, "size = 3")


def test_the_command_prints_what_to_paste(project, tmp_path):
    ids = ids_of(project)
    file, names = written(tmp_path, ids, values_of(len(ids)))
    arguments = ("store", "import", "clip", str(file), "--ids", str(names))
    done = run_cli(*arguments, cwd=project.root)
    lines = done.stdout.splitlines()
    start = lines.index("[encoder.clip]")
    in_use(project, "\n".join(lines[start : start + 3]))
    assert lines[-1].endswith("paste these three lines into mmfeat.toml, then: mmfeat status")
    again = run_cli(*arguments, cwd=project.root)
    assert "Already imported" in again.stdout
    assert "[encoder.clip]" not in again.stdout
    assert "imported; no checkpoint, so no logits" in run_cli("status", cwd=project.root).stdout
    failed = run_cli("store", "import", "fm2", str(file), cwd=project.root, check=False)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)


def test_importing_needs_no_torch(project, tmp_path):
    import subprocess
    import sys

    ids = ids_of(project)
    file, names = written(tmp_path, ids, values_of(len(ids)))
    code = (
        "import sys\nfrom mmfeat.project.project import Project\nfrom mmfeat.workflows.store_import import import_embeddings\n"
        f"import_embeddings(Project('.'), 'clip', {str(file)!r}, {str(names)!r})\n"
        "heavy = {'torch', 'timm', 'transformers', 'PIL'} & set(sys.modules)\nsys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=project.root)


# ids that only look the same


@pytest.fixture
def accented(project_folder):
    """A project whose ids have accents, composed (NFC)."""
    rows = [f"caf\u00e9{i},a caption {i},{'ab'[i % 2]}" for i in range(20)]
    (project_folder / "t.csv").write_text("\n".join(["id,caption,labels", *rows]) + "\n", encoding="utf-8")
    (project_folder / "mmfeat.toml").write_text('schema = 1\n[data]\nsource = "t.csv"\n', encoding="utf-8")
    (project_folder / "manifest.parquet").unlink()
    init(project_folder)
    return Project(project_folder)


def other_spelling(ids: list[str]) -> list[str]:
    return [unicodedata.normalize("NFD", sample) for sample in ids]


def test_an_import_finds_ids_that_look_the_same(accented, tmp_path):
    ids = ids_of(accented)
    same = import_embeddings(accented, "clip", *written(tmp_path, ids, values_of(20)))
    made = import_embeddings(accented, "clip", *written(tmp_path, other_spelling(ids), values_of(20)))
    assert (made.n_matched, made.key, made.n_written) == (20, same.key, 0)
    odd = [f"\ufeff{sample}\u00a0" for sample in ids]
    assert import_embeddings(accented, "clip", *written(tmp_path, odd, values_of(20))).key == same.key
    twice = [*ids[1:], other_spelling(ids)[0], f"{ids[0]}\u200b"]
    with pytest.raises(DataError, match="which look the same"):
        import_embeddings(accented, "clip", *written(tmp_path, twice, values_of(21)))


def test_an_import_is_found_by_ids_that_are_spelled_otherwise_now(accented, tmp_path):
    made = import_embeddings(accented, "clip", *written(tmp_path, ids_of(accented), values_of(20)))
    table = accented.root / "t.csv"
    table.write_text(unicodedata.normalize("NFD", table.read_text(encoding="utf-8")), encoding="utf-8")
    init(accented.root)
    project = in_use(Project(accented.root), made.table)
    assert ids_of(project) == other_spelling(ids_of(accented))
    assert project.keys_of(project.identity("clip")).present.all()
    embeddings = project.feature_table(["clip"]).embeddings["clip"]
    assert np.allclose(embeddings[np.arange(20)], values_of(20), atol=1e-2)
