"""Tables in several files: a folder of Parquet files, or a pattern; checks the shards and splits in their names."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmfeat.common.errors import DataError
from mmfeat.common.text import counted, shown
from mmfeat.data.tables.table import Table
from mmfeat.data.tables.table_forms import read_table

OURS = ("manifest.parquet", "predictions.parquet")  # files of a project, which are not tables of samples
_DEPTHS = ("*.parquet", "*/*.parquet", "*/*/*.parquet")  # the layout of Hugging Face data sets
_SHARD = re.compile(r"(?P<name>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?P<rest>\.\w[\w.]*)")
_SPLIT = re.compile(r"(?:^|[^a-z])(train|validation|valid|val|dev|test)(?![a-z])")


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern, and not the name of an existing file or folder."""
    return glob.has_magic(str(path)) and not path.exists()


def matching(pattern: Path) -> list[Path]:
    """The files that match a pattern, sorted by name.

    Raises
    ------
    DataError
        No file matches.
    """
    found = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True)) if Path(name).is_file()]
    if not found:
        raise DataError(f"{pattern}: no file matches. Give a table, a folder, or another pattern")
    return found


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files in a folder or, without any, in its subfolders; skips hidden files and those that mmfeat writes."""
    for depth in _DEPTHS if not (folder / "mmfeat.toml").exists() else _DEPTHS[:1]:
        found = [file for file in sorted(folder.glob(depth)) if file.is_file() and file.name not in OURS]
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
        if found:
            return found
    return []


def source_folder(source: Path) -> Path:
    """The folder of a source (which may be a pattern); the source itself if it is a folder."""
    if is_pattern(source):
        return matching(source)[0].parent
    return source if source.is_dir() else source.parent


def about_files(files: Sequence[Path]) -> list[str]:
    """Hints about a table's files, one line each: missing shards, splits in their names."""
    lines = [*_missing(files)]
    splits = Counter(found[-1] for file in files if (found := _splits_of(file)))
    if len(splits) > 1:
        named = ", ".join(f"{name} ({counted(n, 'file')})" for name, n in splits.items())
        lines.append(f"  splits in the files' names are not used: {named} are one table, which mmfeat splits itself")
    return lines


def read_together(files: Sequence[Path]) -> list[Table]:
    """Read files as one table; files with most columns come first, since splits without labels have fewer.

    Raises
    ------
    DataError
        A file cannot be read, or two files have different columns.
    """
    tables = sorted(map(read_table, files), key=lambda table: -len(table.header))
    first = tables[0]
    for table in tables[1:]:
        more = [name for name in table.header if name not in first.header]
        lacks = [name for name in first.header if name not in table.header]
        if more:
            raise DataError(
                f"{table.file}: has a column {shown(repr(more[0]))}, and {first.file} has {shown(repr(lacks[0]))} instead, "
                f"so they are not one table. Name one of them, or a pattern of files that belong together"
            )
    return tables


def _splits_of(file: Path) -> list[str]:
    """The splits in a file's name or, without any, in its folder's name."""
    return _SPLIT.findall(file.name.lower()) or _SPLIT.findall(file.parent.name.lower())


def _missing(files: Sequence[Path]) -> list[str]:
    """A line for each series of shards with missing files."""
    there: dict[tuple[str, ...], set[int]] = {}
    for file in files:
        if found := _SHARD.fullmatch(file.name):
            series = (str(file.parent), found["name"], found["count"], found["rest"])
            there.setdefault(series, set()).add(int(found["number"]))
    lines = []
    for (folder, name, count, rest), numbers in there.items():
        if int(count) > len(numbers):
            pattern = f"{folder}/{name}-*-of-{count}{rest}"
            lines.append(
                f"  {shown(name, 40)}: {counted(len(numbers), 'shard')} of {int(count):,} read. All that are there: "
                f"mmfeat init '{shown(pattern, 200)}'"
            )
    return lines
