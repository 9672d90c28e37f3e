"""Which layers a fine-tuning trains, and whether what is before them is cached: `[finetune.NAME] layers`.

The decision depends on settings, data and the encoder alone, except for `layers = "auto"`, which also looks at the free space.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat.common.errors import EncoderError, StoreError
from mmfeat.common.text import counted
from mmfeat.config.finetune_recipes import ALL, AUTO, FinetuneConfig
from mmfeat.project.project import Project

if TYPE_CHECKING:
    from mmfeat.project.fronts import CachedFront

_SPARE = 0.8  # largest share of the free space that "auto" fills
_FEWEST = 2  # stages that "auto" trains; of many, a quarter


@dataclass(frozen=True, kw_only=True)
class CutPlan:
    """The layers that a fine-tuning trains.

    Attributes
    ----------
    trained : int
        How many stages, the last ones; 0 for all layers through the whole network, as without `layers`.
    front : CachedFront or None
        What is before them; None for all layers.
    cached : bool
        Whether its activations are kept in the store.
    mb : float
        Megabytes (10^6 bytes) of all its activations.
    missing_mb : float
        Of those that the store lacks.
    about : str
        One line for the user; empty if there is nothing to say.
    """

    trained: int = 0
    front: CachedFront | None = None
    cached: bool = False
    mb: float = 0.0
    missing_mb: float = 0.0
    about: str = ""

    def settings(self, settings: FinetuneConfig) -> dict[str, Any]:
        """Everything that a fine-tuning depends on, as JSON values."""
        values = settings.of_training()
        if not self.trained:
            return values
        values["layers"] = f"last {self.trained}"
        if self.cached:
            values["cached"] = self.front.keys
        return values

    @property
    def record(self) -> dict[str, Any]:
        """What a checkpoint records, as JSON values: the front keys keep the activations from `store gc`."""
        return (
            {"front": {"trained": self.trained, "keys": self.front.keys if self.cached else []}} if self.trained else {}
        )

    def check_space(self, name: str, store: Path) -> None:
        """Refuse to begin if the missing activations do not fit on the disk.

        Raises
        ------
        StoreError
            There is too little space.
        """
        free = _free_mb(store)
        if self.cached and self.missing_mb > free:
            raise StoreError(
                f"{store}: the cached layers of {name} take {self.missing_mb:,.0f} MB, and {free:,.0f} MB are free. "
                f'In mmfeat.toml set [finetune.{name}] layers = "auto", or [store] front_limit = 0'
            )


def plan_cut(project: Project, name: str) -> CutPlan:
    """The layers that `[finetune.NAME] layers` means for an encoder and the project's labelled rows.

    Raises
    ------
    EncoderError
        The encoder cannot be cut there.
    """
    settings = project.config.finetune_of(name)
    if settings.layers == ALL or not project.config.encoder[name].tunable:
        return CutPlan()
    try:
        return (
            _automatic(project, name, settings) if settings.layers == AUTO else _given(project, name, settings.trained)
        )
    except EncoderError as error:
        raise EncoderError(f"encoder.{name}: {error}") from None


def configured_fronts(project: Project) -> dict[str, list[str]]:
    """The front keys of the encoders that are fine-tuned from cached layers now, by their names; nothing is computed."""
    plans = {name: plan_cut(project, name) for name in project.config.encoder}
    return {name: plan.front.keys for name, plan in plans.items() if plan.cached}


def _given(project: Project, name: str, trained: int) -> CutPlan:
    plan, limit = _sized(project, name, trained), project.config.store.front_limit
    if plan.mb <= limit:
        return plan
    why = f"they take {plan.mb:,.0f} MB" if limit else "none are kept"
    about = (
        f"the last {trained} of {plan.front.cut.n_stages} stages are trained through the whole network: cached layers are "
        f"off, since {why} ([store] front_limit = {limit:g})"
    )
    return CutPlan(trained=trained, front=plan.front, mb=plan.mb, about=about)


def _automatic(project: Project, name: str, settings: FinetuneConfig) -> CutPlan:
    if settings.pixels:
        return CutPlan(about=f"all layers are trained: {settings.pixels} needs pixels, so none are cached")
    limit, encoder = project.config.store.front_limit, project.built(project.pretrained(name))
    if not limit:
        return CutPlan(about="all layers are trained: cached layers are off ([store] front_limit = 0)")
    try:
        n_stages = encoder.cut(1).n_stages
    except EncoderError:
        return CutPlan(about=f"all layers are trained: the stages of {encoder.architecture} are not known")
    free = _free_mb(project.store.path)
    for trained in dict.fromkeys((min(n_stages, max(_FEWEST, n_stages // 4)), 1)):
        plan = _sized(project, name, trained)
        if plan.mb <= limit and plan.missing_mb <= _SPARE * free:
            stages = (
                f"the last {counted(trained, 'stage')} of {n_stages}"
                if trained > 1
                else f"the last of {n_stages} stages"
            )
            about = f"{stages} {'are' if trained > 1 else 'is'} trained, from {plan.mb:,.0f} MB of cached layers"
            return CutPlan(**{**vars(plan), "about": about})
    return CutPlan(
        about=f"all layers are trained: cached layers would take {plan.mb:,.0f} MB (limit {limit:g}, free {free:,.0f})"
    )


def _sized(project: Project, name: str, trained: int) -> CutPlan:
    """A plan with cached layers, and the megabytes that they take."""
    from mmfeat.extraction import distinct_rows
    from mmfeat.project.fronts import CachedFront

    front = CachedFront(project, name, project.built(project.pretrained(name)), trained)
    keys = front.row_keys
    train, val = (rows[keys.present[rows]] for rows in (project.manifest.rows("train"), project.manifest.rows("val")))
    n_rows = n_missing = 0
    for view in range(len(front.fronts)):
        rows = front.rows_of(view, train, val)
        n_rows += len(distinct_rows(keys.keys, rows))
        n_missing += len(front.missing(view, rows))
    n_bytes = front.n_bytes(n_rows)
    return CutPlan(
        trained=trained,
        front=front,
        cached=True,
        mb=n_bytes / 1e6,
        missing_mb=n_bytes / 1e6 * n_missing / max(n_rows, 1),
    )


def _free_mb(folder: Path) -> float:
    """Megabytes that are free where a folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free / 1e6
