"""Encodes the rows that the store lacks on several devices, in a process for each: every process has a shard of the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.progress import progress
from mmfeat.common.workers import Worker, WorkerFailed, running
from mmfeat.data.row_keys import RowKeys
from mmfeat.extraction import Extraction, in_shard, joined_shards, missing_rows
from mmfeat.extraction.device_shares import DeviceShare
from mmfeat.project.encoding import ExtractionOptions, with_refused
from mmfeat.project.project import Project
from mmfeat.project.redecoding import rows_to_decode_again
from mmfeat.store import EncoderFeatures, Found

_WORKER = "mmfeat.project.shard_worker"


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The rows of one encoder, before anything was encoded: `again (N,)` bool are encoded even if the store has them."""

    features: EncoderFeatures
    row_keys: RowKeys
    again: np.ndarray
    before: Found
    n_missing: int


def encode_on_devices(
    project: Project, names: Sequence[str], shares: Sequence[DeviceShare], options: ExtractionOptions
) -> dict[str, Extraction]:
    """Encode the rows that the store lacks; returns the counts by encoder, or nothing if the store lacks no row.

    Images are hashed here, once for all processes.

    Raises
    ------
    DataError, EncoderError, StoreError
        As for one process.
    WorkerFailed
        A process ended without a message. The others were stopped, and what they had encoded is kept.
    """
    names = [name for name in dict.fromkeys(names) if not project.config.encoder[name].made_elsewhere]
    plans = {name: _plan(project, name, options) for name in names}
    project.samples.kept_bytes.clear()  # other processes read the images
    found: dict[str, list[Extraction]] = {name: [] for name in names}
    n_missing = sum(plan.n_missing for plan in plans.values())
    if not n_missing:
        return {}
    workers = [
        Worker(
            name=f"process {number + 1} of {len(shares)} ({share.device})",
            request=_request(project, names, share, options=options, part=(number, len(shares))),
            environment=share.environment,
        )
        for number, share in enumerate(shares)
    ]
    try:
        with running(_WORKER, workers) as reports, progress(f"encoding on {len(shares)} devices", n_missing) as bar:
            for report in reports:
                if "advance" in report:
                    bar.advance(report["advance"])
                else:
                    one = _extraction(report["extraction"])
                    found[one.name].append(one)
    except WorkerFailed as error:
        raise WorkerFailed(f"{error}. What was encoded is kept; to continue, type the command again") from None
    return {name: _joined(plan, name, found[name], options) for name, plan in plans.items()}


def _plan(project: Project, name: str, options: ExtractionOptions) -> _Plan:
    """What is missing of one encoder. Digests and the encoder's key are remembered, so that no process computes them again."""
    identity = project.identity(name)
    project.register({name: identity})
    row_keys, features = project.keys_of(identity), project.store.encoder(identity.spec)
    again, tokens = rows_to_decode_again(project, identity), project.config.encoder[name].tokens
    ours = row_keys.present & in_shard(row_keys.keys, options.shard)
    todo, _ = missing_rows(features, row_keys.keys, ours, tokens=tokens, again=again)
    before = features.lookup(row_keys.keys).only(~again)
    return _Plan(features=features, row_keys=row_keys, again=again, before=before, n_missing=len(todo))


def _request(
    project: Project,
    names: Sequence[str],
    share: DeviceShare,
    *,
    options: ExtractionOptions,
    part: tuple[int, int],
) -> dict[str, Any]:
    (number, n), (k, shards) = part, options.shard or (1, 1)
    return {
        "root": str(project.root),
        "overrides": {**project.overrides, "device": share.device},
        "names": list(names),
        "shard": (k + number * shards, n * shards),  # a part of shard k
        "options": dataclasses.asdict(options),
        "cores": share.cores,
    }


def _extraction(values: dict[str, Any]) -> Extraction:
    return Extraction(**{**values, "unread": {int(row): reason for row, reason in values["unread"].items()}})


def _joined(plan: _Plan, name: str, shards: list[Extraction], options: ExtractionOptions) -> Extraction:
    refused, row_keys = plan.row_keys.refused, plan.row_keys
    for shard in shards:
        shard.unread = {row: reason for row, reason in shard.unread.items() if row not in refused}
    result = joined_shards(
        shards,
        plan.features,
        row_keys.keys,
        present=row_keys.present,
        ours=in_shard(row_keys.keys, options.shard),
        before=plan.before,
        again=plan.again,
        name=name,
    )
    return with_refused(result, refused)
