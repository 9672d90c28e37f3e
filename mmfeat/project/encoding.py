"""Encode the samples of a project that the store lacks, and compute logits for every stored embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError, StoreError
from mmfeat.common.remembered import Remembered
from mmfeat.common.text import counted
from mmfeat.encoders.kinds import modality_kind
from mmfeat.encoders.resolve import Identity
from mmfeat.extraction import Extraction, Session, extract_encoder, missing_rows
from mmfeat.project.front_encoding import encode_from_front
from mmfeat.project.project import Project
from mmfeat.project.redecoding import rows_to_decode_again
from mmfeat.report.result import Record, TableResult
from mmfeat.store import UnstorableRow
from mmfeat.store.merge import merge_segments

TUNED_ON = 64  # samples


@dataclass(frozen=True, kw_only=True, repr=False)
class ExtractResult(TableResult):
    """The result of an extraction.

    Attributes
    ----------
    n_rows : int
        Rows of the manifest; all are accounted for, for each encoder.
    logits : dict of str to int
        By encoder: rows whose logits were computed.
    reasons : dict of str to dict
        By encoder: id to the reason why the sample could not be encoded.
    """

    encoders: list[Extraction]
    identities: dict[str, Identity]
    logits: dict[str, int]
    reasons: dict[str, dict[str, str]]
    problems: list[str]
    n_rows: int
    size_mb: float

    def _about(self) -> str:
        rows = f"{counted(self.n_rows, 'row')} of {counted(len(self.encoders), 'encoder')}"
        return f"The store holds {rows} ({self.size_mb:,.1f} MB)"

    def _table(self) -> list[Record]:
        sharded = any(extraction.left for extraction in self.encoders)
        return [
            {
                "encoder": extraction.name,
                "cached": extraction.cached,
                "encoded": extraction.encoded,
                "repeated": extraction.repeated,
                "unreadable": extraction.unreadable,
                **({"left": extraction.left} if sharded else {}),
                "missing modality": extraction.absent,
                "seconds": extraction.seconds,
            }
            for extraction in self.encoders
        ]


@dataclass(frozen=True)
class ExtractionOptions:
    """Options of an extraction; none changes an embedding.

    Attributes
    ----------
    shard : (k, n) or None
        Only the k-th of n parts of the rows, counted from 1.
    stop_on_error : bool
        Stop at the first sample that cannot be read or decoded.
    tune : bool
        First measure the fastest batch size and settings on this device, and remember them.
    rehash : bool
        Read every image again.
    """

    shard: tuple[int, int] | None = None
    stop_on_error: bool = False
    tune: bool = False
    rehash: bool = False


def extract(
    project: Project,
    names: list[str] | None = None,
    rows: np.ndarray | None = None,
    *,
    options: ExtractionOptions | None = None,
) -> ExtractResult:
    """Encode the samples that the store lacks, and compute logits for every stored embedding.

    Parameters
    ----------
    names : list of str, optional
        Encoders; all of the project, if None.
    rows : np.ndarray, optional
        Only these rows of the manifest.

    Raises
    ------
    EncoderError
        An encoder cannot be built.
    StoreError
        The store cannot be read or written.
    DataError
        A sample cannot be read or decoded, and `stop_on_error` is set.
    """
    options = options or ExtractionOptions()
    if options.rehash:
        project.rehash()
    results, identities, logits, reasons = [], {}, {}, {}
    for name in names or list(project.config.encoder):
        identity = identities[name] = project.identity(name)
        results.append(encode_missing(project, identity, rows, options=options))
        logits[name] = complete_logits(project, identity)
        reasons[name] = _reasons(project, identity, results[-1])
        merge_segments(project.store.encoder(identity.spec))
    return ExtractResult(
        encoders=results,
        identities=identities,
        logits=logits,
        reasons=reasons,
        problems=project.store.problems,
        n_rows=project.manifest.n_samples,
        size_mb=project.store.size_bytes / 1e6,
    )


def encode_missing(
    project: Project,
    identity: Identity,
    rows: np.ndarray | None = None,
    *,
    options: ExtractionOptions | None = None,
    encoder: Any = None,
    trained: int = 0,
) -> Extraction:
    """Encode the rows that the store lacks for one encoder.

    `encoder` is the built encoder, if the caller has it; `trained` is that of `encode_from_front`.
    """
    options = options or ExtractionOptions()
    name, kind = identity.name, modality_kind(identity.spec.modality)
    table, row_keys = project.config.encoder[name], project.keys_of(identity)
    present = row_keys.present
    if rows is not None:
        requested = np.zeros(len(present), dtype=bool)
        requested[rows] = True
        present = present & requested
    ids = project.manifest.ids
    features = project.store.encoder(identity.spec)
    project.register({name: identity})
    if kind.settings.made_elsewhere:
        return Extraction(name, cached=int(present.sum()), absent=int((~present).sum()), imported=True)

    def stop(row: int, reason: str) -> None:
        raise DataError(
            f"encoder {name!r}, row {str(ids[row])!r}: {reason}. To record the reason and continue: --on-error record"
        )

    read = project.reader(name)
    refused = {row: reason for row, reason in row_keys.refused.items() if rows is None or requested[row]}
    if refused and options.stop_on_error:
        stop(*next(iter(refused.items())))
    try:
        by_tail = encode_from_front(project, identity, present, shard=options.shard, encoder=encoder, trained=trained)
        result = extract_encoder(
            features,
            lambda: open_session(project, identity, read, options, encoder=encoder),
            row_keys.keys,
            present=present,
            read=read,
            name=name,
            length=kind.lengths(project.samples),
            tokens=table.tokens,
            again=rows_to_decode_again(project, identity),
            shard=options.shard,
            on_error=stop if options.stop_on_error else None,
        )
    except UnstorableRow as error:
        raise StoreError(f"encoder {name!r}, row {str(ids[error.row])!r}: {error}") from None
    if by_tail is not None:
        result.add(by_tail)
    result.unread |= refused  # they exist without a key, so they were counted as absent
    result.unreadable += len(refused)
    result.absent -= len(refused)
    return result


def open_session(
    project: Project, identity: Identity, read: Callable[[int], Any], options: ExtractionOptions, *, encoder: Any = None
) -> Session:
    """The encoder on its device, with the batch size and settings that `--tune` measured, or the defaults."""
    from mmfeat.common.devices import provenance, torch_device

    kind = modality_kind(identity.spec.modality)
    device = torch_device(project.config.device)
    encoder = project.built(identity) if encoder is None else encoder
    encoder = encoder.to(device).eval()
    meta = provenance(device) | kind.recorded(project.config)
    memory, place = Remembered(project.memory / "tuning.json"), f"{identity.spec.key} on {meta['device']}"
    settings, tuned = encoder.speed_settings(), ""
    if options.tune:
        measured, tuned = _tune(project, identity, encoder, device=device, read=read)
        memory.remember(place, measured, settings)
        memory.save()
    usual = {"batch_size": kind.usual_batch_size(device.type), "settings": {}}
    found = memory.recall(place, settings) or usual
    encoder.set_speed(**found["settings"])
    return Session(encoder, device, found["batch_size"], meta, tuned=tuned)


def _tune(
    project: Project, identity: Identity, encoder: Any, *, device: Any, read: Callable[[int], Any]
) -> tuple[dict[str, Any], str]:
    """Measure the fastest settings on some of the samples to encode. Returns them, and a line that describes them."""
    from mmfeat.common.progress import say
    from mmfeat.extraction.tuning import tune

    row_keys = project.keys_of(identity)
    features, tokens = project.store.encoder(identity.spec), project.config.encoder[identity.name].tokens
    again = rows_to_decode_again(project, identity)
    rows, _ = missing_rows(features, row_keys.keys, row_keys.present, tokens=tokens, again=again)
    prepared = []
    for row in rows[np.linspace(0, len(rows) - 1, min(TUNED_ON, len(rows)), dtype=int)]:
        try:
            prepared.append(encoder.prepare(read(int(row))))
        except Exception:  # the extraction reports the error
            continue
    if not prepared:
        raise DataError(
            f"encoder {identity.name!r}: cannot be tuned, because no sample to encode can be read. Run without --tune"
        )
    say(f"{identity.name}: measuring the fastest settings on {device}")
    found = tune(encoder, device, prepared, tokens=tokens)
    slowest = min(rate for *_, rate in found.measured)
    fastest = max(rate for *_, rate in found.measured)
    settings = "".join(f", {key.replace('_', '-')} {'on' if on else 'off'}" for key, on in found.settings.items())
    text = f"batches of {found.batch_size}{settings}: {fastest:,.0f} rows/s (slowest setting: {slowest:,.0f})"
    return {"batch_size": found.batch_size, "settings": found.settings}, text


def complete_logits(project: Project, identity: Identity) -> int:
    """Compute the logits that stored embeddings lack; returns the number of rows."""
    output = project.output(identity)
    if output is None:
        return 0
    return project.store.encoder(identity.spec).complete_logits(output.key, output.classes, output.logits)


def _reasons(project: Project, identity: Identity, result: Extraction) -> dict[str, str]:
    """Id to the reason why the sample could not be encoded."""
    ids = project.manifest.ids
    row_keys = project.keys_of(identity)
    recorded = project.store.encoder(identity.spec).errors_of(row_keys.keys)
    found = {int(row): reason for row, reason in recorded.items() if row_keys.present[row]}
    return {str(ids[row]): reason for row, reason in sorted({**found, **result.unread}.items())}
