"""Images to predict without a table: folders, zip and tar files, single files and patterns; their captions by name."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from mmfeat.common.errors import DataError
from mmfeat.common.text import counted, shown
from mmfeat.data.images.archives import ARCHIVES
from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.tables.readers import read_rows
from mmfeat.inference.new_rows import NewRows


def image_rows(whats: Sequence[str], captions: str = "", columns: dict[str, str] | None = None) -> NewRows:
    """A row for each image in folders, archives, files and patterns. The id is the image's name there.

    Parameters
    ----------
    captions : str
        A table of captions, whose ids or image names are those of the images; empty for no captions.
    columns : dict of str to str
        Columns of that table by role.

    Raises
    ------
    DataError
        There is no image, or two have one name; the captions cannot be read, or match none of the images.
    """
    places, files = _found(whats)
    sources = ImageSources(places, "what is to be predicted")
    sources.add_files(files)
    names = sources.names()
    if not names:
        where = ", ".join(map(str, places or files))
        raise DataError(f"{where}: no image (looked for {', '.join(IMAGE_SUFFIXES)})")
    texts = _captions(captions, columns or {}, sources) if captions else {}
    located = {name: str(sources.locate(name)) for name in names}  # an error where two have one name
    ids = [name.encode("utf-8", "replace").decode("utf-8") for name in names]
    given = [texts.get(located[name], "") for name in names]
    return NewRows(ids=ids, images=names, captions=given, sources=sources, columns={"id": "id"})


def _found(whats: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Folders and archives, and single files."""
    places, files = [], []
    for what in whats:
        text = str(Path(what).expanduser())
        found = [text] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
        if not found:
            raise DataError(f"{what}: no such picture, folder or archive")
        for path in map(Path, found):
            is_place = path.is_dir() or path.name.lower().endswith(ARCHIVES)
            (places if is_place else files).append(path)
    return places, files


def _captions(file: str, columns: dict[str, str], sources: ImageSources) -> dict[str, str]:
    """Location of an image to its caption."""
    table = read_rows(Path(file).expanduser(), columns, {})
    if not any(caption.strip() for caption in table.captions):
        raise DataError(f"{file}: no captions. Name the column: --column caption=NAME")
    found = {}
    for sample, image, caption in zip(table.ids, table.images, table.captions, strict=True):
        location = (sources.locate(image) if image else None) or sources.locate(sample)
        if location is not None:
            found[str(location)] = caption
    if not found:
        names = sources.names()
        raise DataError(
            f"{file}: none of {counted(len(table.ids), 'row')} names one of {counted(len(names), 'picture')}: "
            f"the first picture is {shown(repr(names[0]))}, the first row {shown(repr(table.images[0] or table.ids[0]))}"
        )
    return found
