"""HDF5 files opened for reading: nothing in a file leads out of it, and no plugin is loaded to read it.

HDF5 can keep a data set's values in other files (external storage), put it together from other files (virtual data
sets), link to objects of other files, and load a shared library for a filter that it does not know. A file from elsewhere
could so bring the bytes of any file of this machine into the store, or give its fill value where the other file is gone.
Every reader of HDF5 in mmfeat opens files and data sets here.
"""

from __future__ import annotations

from pathlib import Path

import h5py
from h5py import h5l, h5z

# lzf comes with h5py; szip with most builds of it.
_BUILT_IN = {
    h5z.FILTER_DEFLATE,
    h5z.FILTER_SHUFFLE,
    h5z.FILTER_FLETCHER32,
    h5z.FILTER_NBIT,
    h5z.FILTER_SCALEOFFSET,
    h5z.FILTER_LZF,
} | ({h5z.FILTER_SZIP} if "szip" in h5py.filters.decode else set())
_MOST_LINKS = 16  # soft links that lead to one data set
_MOST_COMPRESSED = 2000  # deflate reaches 1032: one stored byte stands for no more values' bytes than this


class RefusedDataset(ValueError):
    """A data set that is not read; the message says why, and not in which file."""


def open_hdf5(path: Path | str) -> h5py.File:
    """Open a file for reading, without a lock: some shared disks have none.

    Raises
    ------
    OSError
        It is not there, or is not HDF5.
    """
    return h5py.File(path, "r", locking=False)


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A data set by its path in the file, `embeddings/text`, checked as by `check_dataset`.

    Raises
    ------
    KeyError
        There is no such data set.
    RefusedDataset
        A link on its path leads to another file, or the data set itself is refused.
    """
    found = _follow(file, name, name, [])
    if not isinstance(found, h5py.Dataset):
        raise KeyError(name)
    check_dataset(found, name)
    return found


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Path to each data set that lies in the file itself, unchecked; links to other places are not followed."""
    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def check_dataset(found: h5py.Dataset, name: str) -> None:
    """Make sure that all values of a data set lie in its file and can be read by what comes with HDF5.

    Its shape is not looked at before: of a virtual data set that would open the other files.

    Raises
    ------
    RefusedDataset
        It has external storage, is virtual, has a filter that is not built in, or declares values that were never
        written, or more of them than its bytes can hold.
    """
    plan = found.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        raise RefusedDataset(f"{name!r} is a virtual data set: its values lie in other files. {_COPY}")
    if plan.get_external_count():
        raise RefusedDataset(f"{name!r} has external storage: its values lie in other files. {_COPY}")
    for number in range(plan.get_nfilters()):
        code, *_, title = plan.get_filter(number)
        if code not in _BUILT_IN:
            named = f" ({shown})" if (shown := title.decode("ascii", "replace")) and shown.isprintable() else ""
            raise RefusedDataset(
                f"{name!r} is compressed by filter {code}{named}, which needs a plugin, and plugins are not loaded. "
                "Save it with gzip: h5repack -f GZIP=4 OLD NEW"
            )
    if found.shape is None:
        return
    declared, stored = found.id.get_type().get_size() * found.size, found.id.get_storage_size()
    if declared and not stored:
        raise RefusedDataset(f"{name!r} declares {declared:,} bytes, and nothing was ever written to it")
    if declared > stored * _MOST_COMPRESSED:
        raise RefusedDataset(f"{name!r} declares {declared:,} bytes, and {stored:,} are there")


_COPY = "Copy them into one file, with h5py: new.create_dataset(name, data=old[name][:])"


def _follow(group: h5py.Group, path: str, name: str, passed: list[str]) -> h5py.HLObject:
    """The object at a path, one link after another; none is followed before it is known to stay in the file."""
    at: h5py.HLObject = group
    for part in path.split("/"):
        if part in ("", "."):
            continue
        key = part.encode("utf-8", "surrogateescape")
        if not isinstance(at, h5py.Group) or not at.id.links.exists(key):
            raise KeyError(name)
        kind = at.id.links.get_info(key).type
        if kind == h5l.TYPE_HARD:
            at = at[part]
        elif kind != h5l.TYPE_SOFT:
            raise RefusedDataset(f"{name!r} is a link to another file. {_COPY}")
        elif len(passed) == _MOST_LINKS:
            raise RefusedDataset(f"{name!r} is a link to a link, and so on without end")
        else:
            target = at.id.links.get_val(key).decode("utf-8", "surrogateescape")
            start = group.file["/"] if target.startswith("/") else at
            at = _follow(start, target, name, [*passed, target])
    return at
