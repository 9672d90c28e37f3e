"""The images of a source: their folders and archives, their row keys, and lines about missing and identical ones."""

from __future__ import annotations

from dataclasses import dataclass, field

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
from mmfeat.data.setting_names import INIT, SettingError
from mmfeat.data.tables.readers import Source, about_images_inside


@dataclass(frozen=True, kw_only=True)
class SourceImages:
    """The images of a source.

    Attributes
    ----------
    sources : ImageSources
        Their folders and archives; empty if only captions are used.
    warnings : list of str
        Important warnings, a line each.
    """

    sources: ImageSources
    row_keys: RowKeys
    warnings: list[str] = field(default_factory=list)


def find_images(config: Config, data: Source, *, is_new: bool) -> SourceImages:
    """Locate and read the images of a source. If no image can be read and there are captions, only captions are used.

    Raises
    ------
    DataError
        Images are given or found next to the source, but none belongs to a row; or there are no captions either.
    """
    if config.data.images and not data.columns["image"]:
        raise SettingError(
            f"{config.data.source}: images are given, but no column names them.", [[("image", "COLUMN")]]
        )
    sources = None
    if not data.columns["image"] and data.columns["id"] and is_new:
        sources = _named_by_ids(config, data)
    if sources is None:
        sources = image_sources(config) if config.data.images or any(data.images) else ImageSources([])
    if config.data.images and is_new and (empty := sources.empty()):
        raise DataError(f"images: no image in {empty[0]} (looked for {', '.join(IMAGE_SUFFIXES)})")
    memory = DigestMemory(config.root / ".mmfeat" / "digests.parquet")
    row_keys = image_keys(np.array(data.images, dtype=object), sources, memory, facts=True)
    about = about_addresses([data.images[row] for row in row_keys.missing])
    warnings = [about] if about else []
    has_captions = any(caption.strip() for caption in data.captions)
    if data.images_inside and not config.data.images and not row_keys.present.any():
        if not has_captions:
            raise DataError(f"{config.data.source}:{about_images_inside(data, INIT)[1:]}")
        data.hints.append(about_images_inside(data, INIT))
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
    """The warning that only captions are used because no image that the rows name was found.

    Raises
    ------
    DataError
        The folder has an archive that cannot be read.
    """
    if packed := unreadable_archives(sources.containers[0]):
        raise DataError(
            f"images: {packed[0]} cannot be read in place. Unpack it, or pack it again as .zip or .tar without compression"
        )
    others = other_files(sources)
    skipped = f" (no image by its name: {', '.join(map(quoted, others[:3]))}{' ...' if len(others) > 3 else ''})"
    skipped = skipped if others else ""
    return (
        f"no image file in {sources.containers[0]}{skipped}: only captions are used, without the images of "
        f"{counted(n, 'row')}. If there are images, name them: --images PATH"
    )


def _named_by_ids(config: Config, data: Source) -> ImageSources | None:
    """The image files next to a source, if it has no column of image names and its ids name them."""
    source = config.path(config.data.source)
    if not image_files_beside(source):
        return None
    sources = images_beside(source)
    if not any(sources.holds(sample) for sample in data.ids):
        data.hints.append(
            "  there are image files next to the source, but no column names them. To use them, set image under "
            f"[data] in {FILE_NAME}, then: mmfeat init"
        )
        return None
    data.images, data.columns["image"] = list(data.ids), data.columns["id"]
    data.settings["image"] = data.columns["id"]
    return sources


def missing_look_alikes(data: Source, found: SourceImages) -> dict[str, str]:
    """For the first missing images: existing images with a similar name."""
    if not found.row_keys.missing or not found.sources.containers:
        return {}
    return look_alikes([data.images[row] for row in found.row_keys.missing], found.sources.names())


def image_notes(manifest: Manifest, row_keys: RowKeys, alike: dict[str, str]) -> list[str]:
    """A line for each image that is missing or cannot be read."""
    notes = []
    for row, reason in row_keys.reasons.items():
        like = alike.get(manifest.images[row])
        notes.append(f"image of {str(manifest.ids[row])!r}: {reason}{f'; {like!a} exists' if like else ''}")
    return notes
