"""HDF5 files from elsewhere: nothing in them leads out of the file, no plugin is loaded, no declared size is believed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.command_line import run_cli
from helpers.embeddings import ids_of, values_of
from helpers.fakes import SPEC, keys_of, run

import mmfeat
from mmfeat.common import verified
from mmfeat.common.errors import DataError, RunError
from mmfeat.common.files import digest_json
from mmfeat.common.hdf5_reading import RefusedDataset, check_dataset, dataset, open_hdf5
from mmfeat.data.embedding_files import open_array
from mmfeat.runs.run import read_run
from mmfeat.store import FeatureStore
from mmfeat.workflows.store_import import import_embeddings

N, WIDTH = 10, 6


def matrix() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, WIDTH)).astype(np.float32)


def external(h5: h5py.File, name: str, data: np.ndarray, folder: Path) -> None:
    """A data set whose values are the bytes of another file."""
    (folder / "secret.bin").write_bytes(data.tobytes())
    h5.create_dataset(name, data.shape, data.dtype, external=[(str(folder / "secret.bin"), 0, data.nbytes)])


def virtual(h5: h5py.File, name: str, data: np.ndarray, folder: Path, there: bool = True) -> None:
    """A data set put together from another file, which may be gone."""
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = data
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    layout[...] = h5py.VirtualSource(str(folder / "other.h5"), "x", data.shape)
    h5.create_virtual_dataset(name, layout, fillvalue=7)
    if not there:
        (folder / "other.h5").unlink()


def gone(h5: h5py.File, name: str, data: np.ndarray, folder: Path) -> None:
    virtual(h5, name, data, folder, there=False)


def plugin(h5: h5py.File, name: str, data: np.ndarray, folder: Path) -> None:
    """A data set with a filter that HDF5 would look for in HDF5_PLUGIN_PATH."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk(data.shape)
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    kind = h5py.h5t.py_create(data.dtype, logical=True)
    made = h5py.h5d.create(h5.id, name.encode(), kind, h5py.h5s.create_simple(data.shape), plan)
    made.write_direct_chunk((0,) * data.ndim, data.tobytes())


def empty(h5: h5py.File, name: str, data: np.ndarray, folder: Path) -> None:
    h5.create_dataset(name, data.shape, data.dtype, fillvalue=7 if data.dtype.kind == "f" else None)


OUT = {
    external: "external storage",
    virtual: "virtual data set",
    gone: "virtual data set",
    plugin: "filter 32015",
    empty: "no value was ever written",
}


@pytest.mark.parametrize("make", OUT)
def test_a_data_set_that_is_not_in_its_file_is_refused(tmp_path, make):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["ids"] = [str(i) for i in range(N)]
        make(h5, "embeddings", matrix(), tmp_path)
        make(h5, "group/deep", matrix(), tmp_path) if make is not plugin else None
        h5["fine"] = matrix()
    with open_hdf5(tmp_path / "a.h5") as h5, pytest.raises(RefusedDataset, match=OUT[make]):
        dataset(h5, "embeddings")
    for array in ("", "embeddings"):
        with pytest.raises(DataError, match=OUT[make]) as error:
            open_array(tmp_path / "a.h5", array)
        assert str(error.value).startswith(f"{tmp_path / 'a.h5'}: ")
        assert "\n" not in str(error.value)
    np.testing.assert_array_equal(next(open_array(tmp_path / "a.h5", "fine").blocks(N))[1], matrix())


@pytest.mark.parametrize("make", OUT)
@pytest.mark.parametrize("name", ["ids", "present"])
def test_what_lies_beside_the_embeddings_is_refused_as_well(tmp_path, make, name):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["embeddings"] = matrix()
        make(h5, name, np.arange(N), tmp_path)
    source = open_array(tmp_path / "a.h5", "embeddings")
    with pytest.raises(DataError, match=OUT[make]):
        source.ids() if name == "ids" else source.present()


def link_of(kind: str, folder: Path) -> h5py.ExternalLink | h5py.SoftLink:
    if kind == "soft":
        return h5py.SoftLink("/outside/x")
    return h5py.ExternalLink(str(folder / "other.h5"), "/x")


@pytest.mark.parametrize("kind", ["external", "soft"])
@pytest.mark.parametrize("name", ["ids", "present", "embeddings"])
def test_a_link_that_leaves_the_file_is_never_followed(tmp_path, kind, name):
    """Also through a soft link, and through a link to a group of the other file."""
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = matrix() if name == "embeddings" else np.arange(N)
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["outside"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        h5["inside"] = matrix()
        h5[name] = link_of(kind, tmp_path)
        h5["inner"] = h5py.SoftLink("inside")
    with open_hdf5(tmp_path / "a.h5") as h5:
        for path in (name, "outside/x", f"/{name}"):
            with pytest.raises(RefusedDataset, match="another file"):
                dataset(h5, path)
        np.testing.assert_array_equal(dataset(h5, "inner")[:], matrix())  # a soft link that stays in the file
    if name != "embeddings":
        source = open_array(tmp_path / "a.h5", "inside")
        if name == "ids":
            with pytest.raises(DataError, match="another file"):
                source.ids()
    else:
        assert open_array(tmp_path / "a.h5").array == "inside"


def test_links_in_a_circle_end(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["a"], h5["b"] = h5py.SoftLink("/b"), h5py.SoftLink("a")
        h5["up"] = h5["/"]
        h5["x"] = matrix()
    with open_hdf5(tmp_path / "a.h5") as h5:
        with pytest.raises(RefusedDataset, match="chain of more than 16 links"):
            dataset(h5, "a")
        assert dataset(h5, "up/up/x").shape == (N, WIDTH)
        for name in ("no", "x/no", "up"):
            with pytest.raises(KeyError):
                dataset(h5, name)
    assert open_array(tmp_path / "a.h5").shape == (N, WIDTH)


@pytest.mark.parametrize(
    "more", [{}, {"compression": "gzip"}, {"compression": "lzf", "shuffle": True}, {"fletcher32": True}]
)
def test_filters_that_come_with_it_are_read(tmp_path, more):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_dataset("embeddings", data=np.zeros((4000, 64), np.float32), **more)
        h5.create_dataset("compact", data=np.arange(3.0))
        check_dataset(h5["compact"], "compact")
        check_dataset(h5["embeddings"], "embeddings")
    assert open_array(tmp_path / "a.h5").shape == (4000, 64)


@pytest.mark.parametrize("shape", [(10, 10**10), (10**10, 10), (10**7, 10**6)])
@pytest.mark.parametrize("written", [False, True])
def test_a_shape_that_the_file_cannot_hold_is_refused_before_anything_is_allocated(tmp_path, shape, written):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["ids"] = [str(i) for i in range(10)]
        made = h5.create_dataset("embeddings", shape, np.float32, chunks=(1, 10), compression="gzip")
        if written:
            made[0, :10] = 1
    with pytest.raises(DataError, match=r"shape|no value was ever written|are stored") as error:
        open_array(tmp_path / "a.h5")
    assert "\n" not in str(error.value)


def test_a_wide_row_is_refused_though_a_sparse_file_has_its_bytes(tmp_path):
    file = tmp_path / "a.npy"
    np.lib.format.open_memmap(file, "w+", np.float32, (10, 10**8)).flush()
    with pytest.raises(DataError, match="up to 16,777,216 numbers"):
        open_array(file)


def test_ids_that_are_not_one_for_each_row_are_not_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["embeddings"] = matrix()
        h5.create_dataset("ids", data=np.zeros(10**6, np.int64), compression="gzip")
    with pytest.raises(DataError, match=re.escape("(1,000,000,)")):
        open_array(tmp_path / "a.h5").ids()


def test_an_import_takes_nothing_of_another_file(project, tmp_path):
    ids, values = ids_of(project), values_of(project.manifest.n_samples)
    for make in OUT:
        with h5py.File(tmp_path / f"{make.__name__}.h5", "w") as h5:
            h5["ids"] = ids
            make(h5, "embeddings", values, tmp_path)
        with pytest.raises(DataError, match=OUT[make]):
            import_embeddings(project, "clip", tmp_path / f"{make.__name__}.h5")
    assert not list(project.store.path.glob("clip-*"))
    done = run_cli("store", "import", "clip", str(tmp_path / "external.h5"), cwd=project.root, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


# Files of our own: whoever can write them can write their digests as well


def resealed(folder: Path, part: Path) -> None:
    """Make a changed part's commit fit it."""
    commit = folder / "commits" / f"{part.name}.json"
    values = json.loads(commit.read_text())
    values.pop("seal")
    data = part.read_bytes()
    values |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    commit.write_text(json.dumps({**values, "seal": digest_json(values)}, indent=2, ensure_ascii=False) + "\n")


@pytest.mark.parametrize("name", ["row_key", "embeddings", "errors"])
@pytest.mark.parametrize("kind", ["external", "link"])
def test_a_part_of_a_store_does_not_lead_out_of_it(tmp_path, monkeypatch, name, kind):
    monkeypatch.setattr(verified, "user_cache_path", lambda name: tmp_path / "cache" / name)
    store = FeatureStore(tmp_path / "features")
    run(store, 8, read=lambda row: b"odd" if row == 5 else f"sample {row}".encode())
    folder = store.encoder(SPEC).folder
    (part,) = folder.glob("part-*.h5")
    with h5py.File(part, "r+") as h5:
        data = h5[name][:]
        del h5[name]
        if kind == "link" or data.dtype.kind == "O":
            with h5py.File(tmp_path / "other.h5", "w") as other:
                other.create_dataset(name, data=data, dtype=h5py.string_dtype() if data.dtype.kind == "O" else None)
            h5[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), f"/{name}")
        else:
            external(h5, name, data, tmp_path)
    resealed(folder, part)
    features = FeatureStore(tmp_path / "features").encoder(SPEC)
    assert features.lookup(keys_of(8)).missing.all()
    (problem,) = features.problems
    assert "other file" in problem or "another file" in problem


def test_a_run_does_not_lead_out_of_its_folder(trained, tmp_path):
    import shutil

    folder = tmp_path / "crossattn-1"
    shutil.copytree(trained / "runs" / "crossattn-1", folder)
    with h5py.File(folder / "logits.h5", "r+") as h5:
        data = h5["logits"][:]
        del h5["logits"]
        external(h5, "logits", data, tmp_path)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    unsealed = {key: value for key, value in record.items() if key not in ("seal", "files")}
    (folder / "run.json").write_text(json.dumps(unsealed), encoding="utf-8")
    one = read_run(folder)
    assert "external storage" in one.damage()
    with pytest.raises(RunError, match=r"logits\.h5: .*external storage"):
        one.logits()


def test_every_reader_of_hdf5_opens_it_here():
    """Nothing else opens a file to read it, so that no reader can forget to look."""
    for path in Path(mmfeat.__file__).parent.rglob("*.py"):
        if path.name != "hdf5_reading.py":
            text = path.read_text(encoding="utf-8")
            for call in re.findall(r"h5py\.File\(.*", text):
                assert '"w"' in call, (path, call)
