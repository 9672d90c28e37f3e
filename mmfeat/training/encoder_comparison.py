"""The encoders of a comparison: resolve the typed names, reuse kept fits, and fit the rest."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from mmfeat.common.errors import ConfigError, MmfeatError, RunError
from mmfeat.common.files import digest_json
from mmfeat.common.progress import say
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted, shown
from mmfeat.project.project import Project
from mmfeat.project.provenance import common_record
from mmfeat.runs.comparison import Candidate
from mmfeat.runs.comparison_files import (
    ComparedEncoder,
    ComparisonFolder,
    ModelLogits,
    read_compared_encoder,
    write_compared_encoder,
)
from mmfeat.store.feature_table import rows_digest
from mmfeat.training.encoder_fits import EncoderFits
from mmfeat.training.proposed_encoders import ProposedEncoder, proposed_encoder

RECORD, LOGITS = "encoder.json", "logits.safetensors"


class EncoderComparison:
    """One comparison of encoders: its folder, and the encoders that are fitted for it.

    Attributes
    ----------
    proposals : dict of str to ProposedEncoder
        By label: the requested encoders, and encoders that were compared before.
    failed : dict of str to str
        Label of an encoder that could not be compared to the reason.
    """

    def __init__(self, project: Project, *, freeze: bool, n_seeds: int) -> None:
        self.project, self.freeze = project, freeze
        self.seeds = [project.config.seed + i for i in range(n_seeds)]
        self.proposals: dict[str, ProposedEncoder] = {}
        self.failed: dict[str, str] = {}
        manifest = project.manifest
        rows = {which: manifest.rows(which) for which in ("train", "val")}
        common = {
            "rows": {which: rows_digest(manifest.ids[r], manifest.labels[r]) for which, r in rows.items()},
            "classes": list(manifest.classes),
            "metric": project.config.metric,
            "seeds": self.seeds,
            "frozen": freeze,
        }
        self.folder = ComparisonFolder(
            project.root / "comparisons",
            "encoders",
            common,
            numbers=id_numbers(manifest.ids[rows["val"]]),
            record=common_record(project),
            dry=project.dry,
        )
        kept = [read_compared_encoder(file) for file in sorted(self.folder.path.glob(f"*/{RECORD}"))]
        self._modalities = {record.typed: record.modality for record in kept if record}

    def candidates(self, typed: list[str]) -> list[Candidate]:
        """Fit the typed encoders, unless their fits are kept. Other kept encoders are candidates too.

        Raises
        ------
        RunError
            None of the typed encoders can be compared; the message gives the reasons.
        """
        asked = self._requested(typed)
        earlier: dict[str, ProposedEncoder] = {}
        for text in self._modalities:
            with contextlib.suppress(MmfeatError):  # an encoder that cannot be resolved now is not shown
                proposal = proposed_encoder(self.project, text, self._modalities)
                if proposal.folder not in asked:
                    earlier.setdefault(proposal.folder, proposal)
        found, n_asked = [], 0
        for proposal in asked.values():
            with self._failing(proposal.label):
                found.append(self._candidate(proposal, fit=True))
                n_asked += 1
        for proposal in earlier.values():
            with contextlib.suppress(MmfeatError):
                if candidate := self._candidate(proposal, fit=False):
                    found.append(candidate)
        if not n_asked:
            raise RunError("; ".join(f"{shown(label)}: {why}" for label, why in self.failed.items()))
        self.proposals = {proposal.label: proposal for proposal in (*asked.values(), *earlier.values())}
        return found

    def missing(self, typed: list[str]) -> list[EncoderFits]:
        """The fits of typed encoders that are not kept. Encoders that cannot be compared are in :attr:`failed`."""
        found = []
        for proposal in self._requested(typed).values():
            with self._failing(proposal.label):
                fits = self._fits_of(proposal)
                if None in self._kept(proposal, fits):
                    found.append(fits)
        return found

    def _kept(self, proposal: ProposedEncoder, fits: EncoderFits) -> tuple[ComparedEncoder | None, ModelLogits | None]:
        record = read_compared_encoder(self.folder.path / proposal.folder / RECORD)
        return record, self.folder.kept(f"{proposal.folder}/{LOGITS}", _fingerprint(fits))

    def _requested(self, typed: list[str]) -> dict[str, ProposedEncoder]:
        """The typed encoders by folder."""
        asked: dict[str, ProposedEncoder] = {}
        for text in typed:
            with self._failing(text):
                proposal = proposed_encoder(self.project, text, self._modalities)
                same = asked.setdefault(proposal.folder, proposal)
                if same.table != proposal.table:
                    raise ConfigError(
                        f"has the same label as {same.typed}, {proposal.label}. Compare one after the other"
                    )
        return asked

    @contextlib.contextmanager
    def _failing(self, label: str) -> Iterator[None]:
        """Record an error as a failure of this encoder, and continue with the others."""
        try:
            yield
        except MmfeatError as error:
            self.failed[label] = str(error).removeprefix(f"{label}: ")

    def _candidate(self, proposal: ProposedEncoder, fit: bool) -> Candidate | None:
        """An encoder's record and logits; None if they are not kept and `fit` is False."""
        fits, folder = self._fits_of(proposal), self.folder.path / proposal.folder
        record, model = self._kept(proposal, fits)
        if not (record and model):
            if not fit:
                return None
            n_seeds = len(self.seeds)
            say(f"{proposal.label}: {counted(n_seeds, 'seed')}, {'frozen' if self.freeze else 'fine-tuned'}")
            record, model = fits.make()
            write_compared_encoder(folder / RECORD, record)
            self.folder.keep(f"{proposal.folder}/{LOGITS}", _fingerprint(fits), model)
            for i in range(1, n_seeds):  # their logits are kept; only the first can be put in use
                shutil.rmtree(folder / f"seed-{i}", ignore_errors=True)
        return Candidate(
            name=record.label,
            label=record.label,
            group=record.modality,
            kept=model,
            encoders_mb=record.size_mb,
            encoder=record,
            settings=fits.settings,
        )

    def _fits_of(self, proposal: ProposedEncoder) -> EncoderFits:
        folder = self.folder.path / proposal.folder
        return EncoderFits(self.project, folder, proposal, seeds=self.seeds, freeze=self.freeze)


def _fingerprint(fits: EncoderFits) -> str:
    """Digest of everything that the kept logits of an encoder depend on."""
    return digest_json({"fit": fits.fingerprint, "label": fits.proposal.label})
