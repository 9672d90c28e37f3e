"""Encode the samples of a project that the store lacks, and compute logits for every stored embedding."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfeat.common.errors import DataError, StoreError
from mmfeat.common.progress import say
from mmfeat.common.text import counted
from mmfeat.encoders.batches import some_prepared
from mmfeat.encoders.kinds import EncoderKind, modality_kind
from mmfeat.encoders.resolve import Identity
from mmfeat.extraction import Extraction, Session, extract_encoder
from mmfeat.project.front_encoding import encode_from_front
from mmfeat.project.project import Project
from mmfeat.project.redecoding import rows_to_decode_again
from mmfeat.report.result import Record, TableResult
from mmfeat.store import EncoderFeatures, UnstorableRow
from mmfeat.store.merge import merge_segments

if TYPE_CHECKING:
    from mmfeat.encoders.engines.selection import EngineSelection, Selected


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
        First measure the fastest engine, settings and batch size on this device, and remember them.
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
    encoded: dict[str, Extraction] | None = None,
) -> ExtractResult:
    """Encode the samples that the store lacks, and compute logits for every stored embedding.

    Parameters
    ----------
    names : list of str, optional
        Encoders; all of the project, if None.
    rows : np.ndarray, optional
        Only these rows of the manifest.
    encoded : dict of str to Extraction, optional
        The counts of encoders whose rows other processes have encoded.

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
    encoded = encoded or {}
    if options.rehash:
        project.rehash()
    results, identities, logits, reasons = [], {}, {}, {}
    for name in names or list(project.config.encoder):
        identity = identities[name] = project.identity(name)
        results.append(encoded.get(name) or encode_missing(project, identity, rows, options=options))
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
            lambda todo: open_session(project, identity, read, options, rows=todo, encoder=encoder),
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
    finally:
        project.samples.kept_bytes.clear()
    if by_tail is not None:
        result.add(by_tail)
    return with_refused(result, refused)


def with_refused(result: Extraction, refused: dict[int, str]) -> Extraction:
    """Count images that exist without a key, because they cannot be read, as unreadable; so far they are absent."""
    result.unread |= refused
    result.unreadable += len(refused)
    result.absent -= len(refused)
    return result


def open_session(
    project: Project,
    identity: Identity,
    read: Callable[[int], Any],
    options: ExtractionOptions,
    *,
    rows: np.ndarray | None = None,
    encoder: Any = None,
) -> Session:
    """The encoder on its device, with the engine and batch size to use there.

    Parameters
    ----------
    rows : np.ndarray, optional
        `(n,)` rows to encode, which engines may be measured on. By default nothing is measured: an engine that was
        measured before, or the usual one.
    encoder : optional
        The built encoder, if the caller has it.
    """
    from mmfeat.common.devices import torch_device
    from mmfeat.encoders.engines.selection import EngineSelection

    kind, config = modality_kind(identity.spec.modality), project.config
    device = torch_device(config.device)
    encoder = project.built(identity) if encoder is None else encoder
    encoder = encoder.to(device).eval()
    tokens = config.encoder[identity.name].tokens
    selection = EngineSelection(encoder, device, config.engine, tokens=tokens, spec=identity.spec)
    if options.tune:
        say(f"{identity.name}: measuring the fastest engine and settings on {device}")
    earlier = earlier_engines(project.store.encoder(identity.spec))
    selected, prepared = selected_for(rows, read, selection, tune=options.tune, earlier=earlier)
    return dataclasses.replace(session_of(project, kind, encoder, selected), prepared=prepared)


def selected_for(
    rows: np.ndarray | None,
    read: Callable[[int], Any],
    selection: EngineSelection,
    *,
    tune: bool = False,
    earlier: Iterator[str],
) -> tuple[Selected, dict[int, Any]]:
    """The engine for rows to encode, and those of them that were prepared to measure it, by row.

    Parameters
    ----------
    rows : np.ndarray, optional
        Without rows, nothing is measured.
    tune, earlier
        As for `EngineSelection.select`.
    """
    prepared: dict[int, Any] = {}

    def some() -> list[Any]:
        if rows is not None:
            prepared.update(some_prepared(rows, lambda row: selection.encoder.prepare(read(row))))
        return list(prepared.values())

    return selection.select(0 if rows is None else len(rows), some, tune=tune, earlier=earlier), prepared


def session_of(project: Project, kind: EncoderKind, encoder: Any, selected: Selected) -> Session:
    """A session with a selected engine, which is recorded with each segment, with the version of its library."""
    from mmfeat.common.devices import provenance

    engine = selected.engine.for_many()
    meta = provenance(engine.device) | kind.recorded(project.config) | {"engine": engine.choice.record}
    meta["versions"] = {**meta["versions"], engine.package: engine.library_version()}
    return Session(encoder, engine.device, selected.batch_size, meta, tuned=selected.summary, engine=engine)


def earlier_engines(features: EncoderFeatures) -> Iterator[str]:
    """The engines that computed stored features on this machine; read only if they are needed."""
    for origin in features.origins():
        if origin.get("host") == platform.node():
            yield origin.get("engine", "")


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
