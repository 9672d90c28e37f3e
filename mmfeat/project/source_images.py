"""The images of a new manifest: where they are, their row keys, and lines about those that are missing or alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.text import counted, quoted
from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.images.image_sources import (
    ImageSources,
    image_files_beside,
    image_sources,
    images_beside,
    unreadable_archives,
)
from mmfeat.data.images.missing_images import about_addresses, look_alikes, nothing_found, other_files
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import DigestMemory, RowKeys, image_keys
from mmfeat.data.tables.readers import Source, about_images_inside


@dataclass(frozen=True, kw_only=True)
class SourceImages:
    """The images of a source.

    Attributes
    ----------
    sources : ImageSources
        Where they are; empty where only captions are used.
    warnings : list of str
        What must not be missed, a line each.
    """

    sources: ImageSources
    row_keys: RowKeys
    warnings: list[str] = field(default_factory=list)


def find_images(folder: Path, config: Config, data: Source) -> SourceImages:
    """Locate and read the images of a source; captions alone are used where there are some and no image can be read.

    Raises
    ------
    DataError
        Images are named, or lie beside the source, and none of them belongs to a row; or there is no caption either.
    """
    if config.data.images and not data.columns["image"]:
        raise DataError(f"{config.data.source}: images are given, and no column names them. Use: --image COLUMN")
    is_new = not (folder / FILE_NAME).is_file()
    sources = None
    if not data.columns["image"] and data.columns["id"] and is_new:
        sources = _named_by_ids(config, data)
    if sources is None:
        sources = image_sources(config) if config.data.images or any(data.images) else ImageSources([])
    if config.data.images and is_new and (empty := sources.empty()):
        raise DataError(f"images: no image in {empty[0]} (looked for {', '.join(IMAGE_SUFFIXES)})")
    memory = DigestMemory(folder / ".mmfeat" / "digests.parquet")
    row_keys = image_keys(np.array(data.images, dtype=object), sources, memory, facts=True)
    about = about_addresses([data.images[row] for row in row_keys.missing])
    warnings = [about] if about else []
    has_captions = any(caption.strip() for caption in data.captions)
    if data.images_inside and not config.data.images and not row_keys.present.any():
        if not has_captions:
            raise DataError(f"{config.data.source}:{about_images_inside(data)[1:]}")
        data.hints.append(f"{about_images_inside(data)} (first remove {FILE_NAME})")
        return SourceImages(sources=ImageSources([]), row_keys=row_keys, warnings=warnings)
    n_named = sum(bool(name) for name in data.images)
    if n_named and not row_keys.present.any() and not row_keys.refused:
        if config.data.images or sources.names() or not has_captions:
            raise nothing_found(data.images, sources)
        warnings.append(_captions_alone(sources, n_named))
        data.hints.append(f"  {warnings[-1]}")
        sources = ImageSources([])
    return SourceImages(sources=sources, row_keys=row_keys, warnings=warnings)


def _captions_alone(sources: ImageSources, n: int) -> str:
    """A warning where rows name images, none is there, and only captions are used.

    Raises
    ------
    DataError
        An archive that cannot be read lies there.
    """
    if packed := unreadable_archives(sources.containers[0]):
        raise DataError(
            f"images: {packed[0]} cannot be read in place. Unpack it, or pack it again as .zip or .tar without compression"
        )
    others = other_files(sources)
    there = f" (no image by its name: {', '.join(map(quoted, others[:3]))}{' ...' if len(others) > 3 else ''})"
    there = there if others else ""
    return (
        f"no image file in {sources.containers[0]}{there}: only captions are used, without the images of "
        f"{counted(n, 'row')}. If there are images, remove {FILE_NAME} and name them: --images PATH"
    )


def _named_by_ids(config: Config, data: Source) -> ImageSources | None:
    """The files beside a source without a column of image names, where they are named like its ids."""
    source = config.path(config.data.source)
    if not image_files_beside(source):
        return None
    sources = images_beside(source)
    if not any(sources.holds(sample) for sample in data.ids):
        data.hints.append("  image files lie beside the source, and no column names them: --image COLUMN")
        return None
    data.images, data.columns["image"] = list(data.ids), data.columns["id"]
    data.settings["image"] = data.columns["id"]
    return sources


def missing_look_alikes(data: Source, found: SourceImages) -> dict[str, str]:
    """For the first of the missing images, those that are there with a similar name."""
    if not found.row_keys.missing or not found.sources.containers:
        return {}
    return look_alikes([data.images[row] for row in found.row_keys.missing], found.sources.names())


def image_notes(manifest: Manifest, row_keys: RowKeys, alike: dict[str, str]) -> list[str]:
    """A line for each image that is missing or cannot be read."""
    notes = []
    for row, reason in row_keys.reasons.items():
        like = alike.get(manifest.images[row])
        notes.append(f"image of {str(manifest.ids[row])!r}: {reason}{f'; {like!a} is there' if like else ''}")
    return notes


def copy_notes(manifest: Manifest, pairs: list[tuple[int, int]]) -> list[str]:
    """A line for each pair of rows in different splits with the same image."""
    return [
        "the same image data: "
        + " and ".join(f"image of {str(manifest.ids[row])!r} ({manifest.split[row]})" for row in pair)
        for pair in pairs
    ]
