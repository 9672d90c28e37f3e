"""Safe reading of HDF5: values come from the opened file only, and no filter plugin is loaded.

HDF5 can store a data set's values in other files (external storage), compose it from other files (virtual data sets),
link to objects in other files, and load a shared library for an unknown filter. An untrusted file could therefore copy any
file of this machine into the store, or silently yield fill values if the other file is missing. All HDF5 reading in
mmfeat uses this module.
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
_MOST_LINKS = 16  # longest chain of soft links to one data set
_MOST_COMPRESSED = 2000  # highest accepted ratio of declared to stored bytes; deflate reaches at most 1032


class RefusedDataset(ValueError):
    """A data set is refused. The message gives the reason; the caller adds the file's name."""


def open_hdf5(path: Path | str) -> h5py.File:
    """Open a file for reading, without a lock, because some shared disks do not support locks.

    Raises
    ------
    OSError
        The file does not exist, or is not HDF5.
    """
    return h5py.File(path, "r", locking=False)


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a data set by its path in the file (such as `embeddings/text`), checked with :func:`check_dataset`.

    Raises
    ------
    KeyError
        The file has no such data set.
    RefusedDataset
        A link on its path leads to another file, or the data set itself is refused.
    """
    found = _follow(file, name, name, [])
    if not isinstance(found, h5py.Dataset):
        raise KeyError(name)
    check_dataset(found, name)
    return found


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """All data sets stored in the file itself, by path, unchecked; links are not followed."""
    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def check_dataset(found: h5py.Dataset, name: str) -> None:
    """Check that a data set's values are all in its own file, and that HDF5's built-in filters can read them.

    The layout is checked before the shape: reading the shape of a virtual data set would open the other files.

    Raises
    ------
    RefusedDataset
        The data set has external storage, is virtual, uses a filter that is not built in, or declares values that were
        never written or that its stored bytes cannot contain.
    """
    plan = found.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        raise RefusedDataset(f"{name!r} is a virtual data set: its values are in other files. {_COPY}")
    if plan.get_external_count():
        raise RefusedDataset(f"{name!r} has external storage: its values are in other files. {_COPY}")
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
        raise RefusedDataset(f"{name!r} declares {declared:,} bytes, but no value was ever written to it")
    if declared > stored * _MOST_COMPRESSED:
        raise RefusedDataset(f"{name!r} declares {declared:,} bytes, but only {stored:,} are stored")


_COPY = "Copy them into one file, with h5py: new.create_dataset(name, data=old[name][:])"


def _follow(group: h5py.Group, path: str, name: str, passed: list[str]) -> h5py.HLObject:
    """The object at a path. Each link is checked to stay in the file before it is followed."""
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
            raise RefusedDataset(f"{name!r} is a chain of more than {_MOST_LINKS} links")
        else:
            target = at.id.links.get_val(key).decode("utf-8", "surrogateescape")
            start = group.file["/"] if target.startswith("/") else at
            at = _follow(start, target, name, [*passed, target])
    return at
