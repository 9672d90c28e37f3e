"""Tables of samples, and what a manifest makes of them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mmfeat.data.manifest import Manifest


def table(folder: Path, n: int = 40, images: bool = False, captions: bool = True, ids: bool = True) -> Path:
    """A table of n rows and, where it names some, their images beside it."""
    columns = {"id": [f"r{i}" for i in range(n)]} if ids else {}
    columns |= {"image": [f"{i}.png" for i in range(n)]} if images else {}
    columns |= {"caption": [f"caption {i}" for i in range(n)]} if captions else {}
    columns["labels"] = [("cat", "dog")[i % 2] for i in range(n)]
    lines = [",".join(columns), *map(",".join, zip(*columns.values(), strict=True))]
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in columns.get("image", ()):
        (folder / "images").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (int(name[:-4]), 0, 0)).save(folder / "images" / name)
    return folder / "t.csv"


def split_of(folder: Path) -> dict[str, str]:
    manifest = Manifest.load(folder / "manifest.parquet")
    return dict(zip(manifest.ids, manifest.split, strict=True))
