"""`mmfeat extract`: encode the samples that the store lacks, and compute logits for every stored embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mmfeat.common.progress import clock
from mmfeat.extraction.device_shares import given_shares
from mmfeat.project.device_encoding import encode_on_devices
from mmfeat.project.encoding import ExtractionOptions, ExtractResult
from mmfeat.project.encoding import extract as extract_features
from mmfeat.project.project import Project
from mmfeat.report.result import Record
from mmfeat.training.dry_run import DryRun, PlannedExtraction
from mmfeat.training.dry_run import plan_extract as plan_extraction

__all__ = ["ExtractDryRun", "ExtractResult", "PlannedExtraction", "extract", "plan_extract"]


@dataclass(frozen=True, kw_only=True, repr=False)
class ExtractDryRun(DryRun):
    """The work that an extraction would do. Nothing was written.

    Attributes
    ----------
    encoders : list of PlannedExtraction
        One for each encoder.
    """

    encoders: list[PlannedExtraction]

    @property
    def mb(self) -> float:
        """About how many megabytes it would add to the store."""
        return sum(plan.mb for plan in self.encoders)

    def _about(self) -> str:
        if self.nothing:
            return "Nothing to do: the store is up to date"
        return f"Nothing was written. An extraction would take about {clock(self.seconds)} and add {self.mb:,.1f} MB"

    def _table(self) -> list[Record]:
        return [
            {
                "encoder": plan.name,
                "cached": plan.cached,
                "missing": plan.missing,
                "unreadable": plan.unreadable,
                "missing modality": plan.absent,
                "to encode": plan.to_encode,
                "seconds": plan.seconds,
                "MB": plan.mb,
            }
            for plan in self.encoders
        ]


def extract(
    project: Project,
    names: Sequence[str] | None = None,
    *,
    shard: tuple[int, int] | None = None,
    on_error: str = "record",
    tune: bool = False,
    rehash: bool = False,
    devices: str | None = None,
) -> ExtractResult:
    """Encode the samples that the store lacks, and compute logits.

    Parameters
    ----------
    names : sequence of str, optional
        Encoders; all of the project, if None.
    shard : (int, int), optional
        `(k, n)`: encode only the k-th of n parts of the rows, counted from 1.
    on_error : str
        If a sample cannot be read: `record` the reason and continue, or `stop`.
    tune : bool
        First measure the fastest engine, settings and batch size here, and remember them.
    rehash : bool
        Read every image again instead of trusting its size, time and inode.
    devices : str, optional
        Encode in several processes: GPUs such as `0,1`; `all`; or `cpu:N`.

    Raises
    ------
    ConfigError
        There are no such devices, or `devices` is given with `device` or `tune`.
    EncoderError
        An encoder cannot be built.
    StoreError
        The store cannot be read or written.
    DataError
        A sample cannot be read and `on_error` is `stop`.
    WorkerFailed
        A process of `devices` ended without a message.
    """
    options = ExtractionOptions(shard=shard, stop_on_error=on_error == "stop", tune=tune, rehash=rehash)
    names = list(names or project.config.encoder)
    if devices is None:
        return extract_features(project, names, options=options)
    shares = given_shares(devices, tune=tune, device="device" in project.overrides)
    if len(shares) == 1:
        return extract_features(project.derived(settings={"device": shares[0].device}), names, options=options)
    if rehash:
        project.rehash()
        options = dataclasses.replace(options, rehash=False)
    encoded = encode_on_devices(project, names, shares, options)
    return extract_features(project, names, options=options, encoded=encoded)


def plan_extract(
    project: Project,
    names: Sequence[str] | None = None,
    *,
    shard: tuple[int, int] | None = None,
    rehash: bool = False,
) -> ExtractDryRun:
    """Plan an extraction with the same arguments. Open the project with `dry=True`.

    Raises
    ------
    EncoderError
        An encoder cannot be built.
    StoreError
        The store cannot be read.
    """
    options = ExtractionOptions(shard=shard, rehash=rehash)
    return ExtractDryRun(encoders=plan_extraction(project, list(names) if names else None, options))
