"""The commands about encoders, the store, audits and reviews, as methods of a project."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmfeat.api.open_project import OpenProject, Settings, joined_settings, texts, verb
from mmfeat.common.errors import ConfigError
from mmfeat.config.read_keys import TOP, audit_keys, decision_keys

if TYPE_CHECKING:
    from mmfeat.report.settings_table import SettingsResult
    from mmfeat.workflows.add_encoder import AddedEncoder
    from mmfeat.workflows.apply_groups import AppliedGroups
    from mmfeat.workflows.apply_review import AppliedReview
    from mmfeat.workflows.audit import AuditResult
    from mmfeat.workflows.encoders import Encoders
    from mmfeat.workflows.review import ReviewResult
    from mmfeat.workflows.serve_review import ServedReview
    from mmfeat.workflows.status import StatusResult
    from mmfeat.workflows.store import FeaturesResult, GarbageResult, VerifyResult
    from mmfeat.workflows.store_import import ImportResult


class StoreVerbs(OpenProject):
    """Commands about encoders, the store, audits and reviews."""

    @verb
    def status(
        self,
        *,
        config: bool = False,
        store: bool = False,
        rehash: bool = False,
        metric: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        settings: Settings | None = None,
    ) -> StatusResult | SettingsResult:
        """Count for each encoder the rows that are cached, missing, stale and unreadable.

        Parameters
        ----------
        config : bool
            Return every setting with its value and origin instead.
        store : bool
            Also list the contents of the store (`.stored`).
        rehash : bool
            Read every image again instead of trusting its size, time and inode.
        """
        from mmfeat.report.settings_table import SettingsResult
        from mmfeat.workflows.status import status, store_status

        options = {"metric": metric, "seed": seed, "device": device}
        if not config and joined_settings(settings, options):
            raise ConfigError("status does not depend on settings. To see settings: status(config=True)")
        project = self._snapshot(settings, options, (*TOP, "engine", "finetune", "fuse", "selftrain", "predict"))
        if config:
            return SettingsResult.of(project.config)
        result = status(project, rehash)
        return dataclasses.replace(result, stored=store_status(project)) if store else result

    @verb
    def encoders(self, pattern: str | None = None) -> Encoders:
        """List encoders with parameters, size, width and input.

        Parameters
        ----------
        pattern : str, optional
            A part of a model's name, or a pattern with `*`. If None, the project's and the paper's encoders.
        """
        from mmfeat.workflows.encoders import encoders, models

        return encoders(self.root) if pattern is None else models(pattern)

    @verb
    def encoders_add(
        self,
        name: str,
        *,
        model: str | Path,
        modality: str | None = None,
        weights: str | Path = "",
        input: bool = False,
    ) -> AddedEncoder:
        """Write a further encoder into mmfeat.toml. The model and its weights are checked; nothing is downloaded.

        Parameters
        ----------
        model, weights : str or Path
            A model of timm, torchvision or transformers, a folder, or `tfidf`; a file of weights, `auto` or `random`.
        modality : str, optional
            `image` or `text`; if None, as the name or the model says.
        input : bool
            Whether to append it to `fuse.inputs`, so that heads read it.
        """
        from mmfeat.workflows.add_encoder import add_encoder

        project = self._snapshot(None, {})
        return add_encoder(project, name, str(model), modality=modality, weights=str(weights), as_input=input)

    @verb
    def store_verify(self) -> VerifyResult:
        """Compare every file of the store with its checksum."""
        from mmfeat.workflows.store import verify_store

        return verify_store(self._snapshot(None, {}))

    @verb
    def store_gc(self, *, yes: bool = False, forget: Sequence[str | Path] = ()) -> GarbageResult:
        """Find the features that no project refers to.

        Parameters
        ----------
        yes : bool
            Remove them. Otherwise they are only listed.
        forget : sequence of Path
            Folders of deleted projects whose features are no longer needed.
        """
        from mmfeat.workflows.store import find_unreferenced, remove_unreferenced

        project = self._snapshot(None, {})
        result = find_unreferenced(project, texts(forget))
        if yes and result.garbage:
            remove_unreferenced(project, result)
        return result

    @verb
    def store_export(
        self, destination: str | Path, *names: str, format: str | None = None, split: str = "all"
    ) -> FeaturesResult:
        """Write embeddings, logits and tokens, aligned with ids, labels and splits (`unlabelled` for a row without labels).

        Parameters
        ----------
        destination : Path
            A file; a folder with format npy.
        names : str
            Encoders; all, if empty.
        format : str, optional
            `h5`, `npy`, `parquet` or `safetensors`; if None, by the destination's suffix, else npy.
        split : str
            `all`; `train`, `val` or `test` (labelled rows); or `unlabelled`.
        """
        from mmfeat.workflows.store import export_features, form_of_export

        project, form = self._snapshot(None, {}), form_of_export(destination, format)
        return export_features(project, str(destination), form, list(names) or None, split=split)

    @verb
    def store_import(
        self, name: str, file: str | Path, *, ids: str | Path | None = None, array: str = ""
    ) -> ImportResult:
        """Import embeddings of another program as an encoder of the project.

        Parameters
        ----------
        name : str
            The encoder's name.
        file : Path
            .npy, .parquet, .h5 or .safetensors.
        ids : Path, optional
            The ids in the order of the rows: .csv, .txt, .npy or .json. If None, the ids in `file`.
        array : str
            The data set, column or tensor with the embeddings; detected, if empty.
        """
        from mmfeat.workflows.store_import import import_embeddings

        ids = None if ids is None else str(ids)
        return import_embeddings(self._snapshot(None, {}), name, str(file), ids, array=array)

    @verb
    def audit(
        self,
        run: str | None = None,
        *,
        fail_on: str | Sequence[str] = (),
        out: str | Path | None = None,
        folds: int | None = None,
        threshold: float | str | None = None,
        metric: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> AuditResult:
        """Look for label errors, near-duplicates, leakage, outliers and other problems of the data.

        Parameters
        ----------
        run : str, optional
            A run, or an encoder with a linear probe; the best run on val, if None.
        fail_on : str or sequence of str
            Names of checks; `.failed` names those with findings.
        out : Path, optional
            The file to write; audit.csv in the project, if None.
        folds : int, optional
            Folds of the run that is trained if there is none in folds.
        """
        from mmfeat.workflows.audit import audit

        options = {
            "fuse.folds": folds,
            "predict.threshold": threshold,
            "metric": metric,
            "seed": seed,
            "device": device,
        }
        project = self._snapshot(settings, options, audit_keys)
        names = fail_on.split(",") if isinstance(fail_on, str) else fail_on
        return audit(
            project, run, fail_on=[name.strip() for name in names if name.strip()], out=out, overwrite=overwrite
        )

    @verb
    def apply_groups(self, *, overwrite: bool = False) -> AppliedGroups:
        """Write the near-duplicates of the last audit to groups.csv, so that `init` keeps them in one split."""
        from mmfeat.workflows.apply_groups import apply_groups

        return apply_groups(self._snapshot(None, {}), overwrite=overwrite)

    @verb
    def review(
        self,
        run: str | None = None,
        *,
        n: int | None = None,
        split: str = "unlabelled",
        format: str = "csv",
        out: str | Path | None = None,
        serve: bool = False,
        port: int = 0,
        no_browser: bool = False,
        threshold: float | str | None = None,
        empty: str | None = None,
        calibration: str | None = None,
        metric: str | None = None,
        device: str | None = None,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> ReviewResult | ServedReview:
        """Write a table of the rows that are most worth labelling by hand, or show them on a page of this machine.

        Parameters
        ----------
        run : str, optional
            A run, or an encoder with a linear probe; the best run on val, if None.
        n : int, optional
            Number of rows; 50, or 500 with `serve`, if None.
        split : str
            `unlabelled`; or `train` or `val`: labelled rows whose labels the model contradicts.
        format : str
            `csv`, or `label-studio` or `coco`: a file for another tool.
        out : Path, optional
            The file to write; review.csv, review.json or, with `serve`, review.jsonl in the project, if None.
        serve : bool
            Show the rows and the findings of the audit on a page until the kernel or Ctrl-C interrupts it. Answers are
            saved in review.jsonl.
        port : int
            The port of the page; 0: a free one.
        no_browser : bool
            Whether not to open the page in a browser.
        """
        options = decision_options(threshold, empty, calibration, metric=metric, device=device)
        project = self._snapshot(settings, options, lambda config: decision_keys(config, bool(run)))
        if serve:
            from mmfeat.workflows import serve_review as served

            if format != "csv" or overwrite:
                raise ConfigError("format and overwrite are of a file to fill in. Leave them out, or serve")
            n = served.DEFAULT_N if n is None else n
            return served.serve_review(project, run, n=n, split=split, out=out, port=port, browser=not no_browser)
        if port or no_browser:
            raise ConfigError("port and no_browser are of a page. Leave them out, or set serve=True")
        from mmfeat.workflows import review as written

        n = written.DEFAULT_N if n is None else n
        return written.review(project, run, n=n, split=split, format=format, out=out, overwrite=overwrite)

    @verb
    def apply_review(self, file: str | Path, *, overwrite: bool = False) -> AppliedReview:
        """Apply the labels that were filled in in a review."""
        from mmfeat.workflows.apply_review import apply_review

        return apply_review(self._snapshot(None, {}), str(file), overwrite)

    @verb
    def undo_review(self, *, overwrite: bool = False) -> AppliedReview:
        """Undo the last applied review."""
        from mmfeat.workflows.apply_review import undo_review

        return undo_review(self._snapshot(None, {}), overwrite)


def decision_options(
    threshold: float | str | None, empty: str | None, calibration: str | None, **more: object
) -> Settings:
    """Arguments about the decision rule, by key of mmfeat.toml."""
    return {"predict.threshold": threshold, "predict.empty": empty, "predict.calibration": calibration, **more}
