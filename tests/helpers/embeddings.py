"""Embeddings that other tools made."""

from __future__ import annotations

import numpy as np

from mmfeat.project.project import Project

WIDTH = 6


def values_of(n: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, WIDTH)).astype(dtype)


def ids_of(project: Project) -> list[str]:
    return [str(i) for i in project.manifest.ids]


def written(folder, ids: list[str], values: np.ndarray, name: str = "clip"):
    """An .npy file and its ids."""
    np.save(folder / f"{name}.npy", values)
    (folder / f"{name}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    return folder / f"{name}.npy", folder / f"{name}.txt"


def in_use(project: Project, table: str, more: str = "") -> Project:
    with (project.root / "mmfeat.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n{table}\n{more}\n")
    return Project(project.root)
