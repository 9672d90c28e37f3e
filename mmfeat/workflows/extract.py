"""`mmfeat extract`: encode what is missing, and only that; give logits to every embedding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.devices import torch_device
from mmfeat.encoders.resolve import Identity, build_encoder
from mmfeat.errors import StoreError
from mmfeat.extract import Extraction, extract_encoder
from mmfeat.store import UnstorableRow
from mmfeat.workflows.project import Project


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction did, encoder by encoder.

    Attributes
    ----------
    n_rows : int
        Rows of the manifest; for each encoder they are all accounted for as cached, unreadable or absent.
    logits : dict of str to int
        Rows whose logits were computed now.
    """

    encoders: list[Extraction]
    identities: dict[str, Identity]
    logits: dict[str, int]
    reasons: dict[str, dict[str, str]]
    problems: list[str]
    n_rows: int
    size_mb: float


def extract(
    project: Project, names: list[str] | None = None, rows: np.ndarray | None = None, rehash: bool = False
) -> ExtractResult:
    """Bring the embeddings and logits of encoders into the store.

    Parameters
    ----------
    names : list of str, optional
        Encoders; all of the project, when None.
    rows : np.ndarray, optional
        Only these rows of the manifest.
    rehash : bool
        Whether to read every image again, whatever is remembered of it.

    Raises
    ------
    EncoderError
        An encoder cannot be built.
    StoreError
        The store cannot be read or written.
    """
    if rehash:
        project.rehash()
    results, identities, logits, reasons = [], {}, {}, {}
    for name in names or list(project.config.encoder):
        identity = identities[name] = project.identity(name)
        results.append(extract_one(project, identity, rows))
        logits[name] = complete_logits(project, identity)
        reasons[name] = _reasons(project, identity, results[-1])
    problems = project.store.problems
    return ExtractResult(
        results, identities, logits, reasons, problems, project.manifest.n_samples, project.store.size_bytes / 1e6
    )


def extract_one(project: Project, identity: Identity, rows: np.ndarray | None = None) -> Extraction:
    """Encode one encoder's missing rows."""
    config, name = project.config, identity.name
    modality = config.encoder[name].modality
    row_keys = project.row_keys(modality)
    present = row_keys.present
    if rows is not None:
        asked = np.zeros(len(present), dtype=bool)
        asked[rows] = True
        present = present & asked
    captions = project.manifest.captions
    try:
        result = extract_encoder(
            project.store.encoder(identity.spec),
            lambda: build_encoder(config, name, project.checkpoints)[0],
            row_keys.keys,
            present,
            project.reader(name),
            torch_device(config.device),
            name,
            length=(lambda row: len(captions[row])) if modality == "text" else None,
        )
    except UnstorableRow as error:
        raise StoreError(f"encoder {name!r}, row {str(project.manifest.ids[error.row])!r}: {error}") from None
    refused = {row: reason for row, reason in row_keys.refused.items() if rows is None or asked[row]}
    result.unread |= refused  # they are there and have no key, so that it saw them as absent
    result.unreadable += len(refused)
    result.absent -= len(refused)
    return result


def complete_logits(project: Project, identity: Identity) -> int:
    """Compute the logits that stored embeddings lack; returns how many rows got them."""
    output = project.output(identity)
    if output is None:
        return 0
    return project.store.encoder(identity.spec).complete_logits(output.key, output.classes, output.logits)


def _reasons(project: Project, identity: Identity, result: Extraction) -> dict[str, str]:
    """Id to the reason why its sample could not be encoded."""
    ids = project.manifest.ids
    row_keys = project.row_keys(identity.spec.modality)
    recorded = project.store.encoder(identity.spec).errors_of(row_keys.keys)
    found = {int(row): reason for row, reason in recorded.items() if row_keys.present[row]}
    return {str(ids[row]): reason for row, reason in sorted({**found, **result.unread}.items())}
