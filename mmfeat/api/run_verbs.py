"""The commands that use runs, as methods of a project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat.api.open_project import OpenProject, Settings, texts, verb
from mmfeat.api.store_verbs import decision_options
from mmfeat.common.errors import ConfigError
from mmfeat.config.read_keys import decision_keys

if TYPE_CHECKING:
    from mmfeat.api.run_list import RunList
    from mmfeat.workflows.evaluate import EvaluateResult
    from mmfeat.workflows.export import ExportResult
    from mmfeat.workflows.predict import NewPredictions, PredictResult
    from mmfeat.workflows.report import ReportResult
    from mmfeat.workflows.runs import ChangedRun, RunsResult
    from mmfeat.workflows.search import SearchResult

Paths = str | Path | Sequence[str | Path]


class RunVerbs(OpenProject):
    """Commands that use runs."""

    @verb
    def predict(
        self,
        *what: str | Path,
        caption: str = "",
        captions: str | Path = "",
        images: Paths = (),
        column: dict[str, str] | None = None,
        split: str | None = None,
        top_k: int | None = None,
        format: str | None = None,
        out: str | Path | None = None,
        threshold: float | str | None = None,
        empty: str | None = None,
        calibration: str | None = None,
        metric: str | None = None,
        engine: str | None = None,
        device: str | None = None,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> PredictResult | NewPredictions:
        """Predict labels of the project's rows, of a new table, or of pictures.

        Rows of the project are written to submission.csv or predictions.csv. Predictions of new samples are written only
        if `out` is given.

        Parameters
        ----------
        what : str
            The name of a run or an encoder (the best run on val if there is none), and a table or pictures. Without these: rows of the project.
        caption : str
            One caption, with one picture or alone.
        captions, images, column
            Captions of several pictures (a table); images of a table; columns by role, such as `{"caption": "Title"}`.
        split : str, optional
            Rows of the project: `unlabelled` (if None), `val`, `test`, `train` or `all`.
        top_k : int, optional
            Write the k most probable classes to the file.
        format, out : str, Path, optional
            `csv`, `jsonl` or `parquet`, and the file.
        """
        from mmfeat.workflows.predict import predict, predict_new

        run, samples = _run_and_samples(what, self.runs_folder)
        options = decision_options(threshold, empty, calibration, metric=metric, engine=engine, device=device)
        files: dict[str, Any] = {"format": format, "top_k": top_k, "out": out, "overwrite": overwrite}
        given: dict[str, Any] = {"caption": caption, "captions": str(captions), "images": texts(images)}
        new = bool(samples or column or any(given.values()))
        project = self._snapshot(settings, options, lambda config: decision_keys(config, bool(run), new=new))
        if not new:
            return predict(project, run, split=split or "unlabelled", **files)
        if split is not None:
            raise ConfigError("split names rows of the project. Leave it out, or the new samples")
        return predict_new(samples, columns=column, project=project, run=run, **given, **files)

    @verb
    def evaluate(
        self,
        *names: str,
        split: str = "val",
        honest: bool = False,
        threshold: float | str | None = None,
        empty: str | None = None,
        calibration: str | None = None,
        metric: str | None = None,
        device: str | None = None,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> EvaluateResult:
        """Score runs and encoders on the same rows.

        Parameters
        ----------
        names : str
            Runs and encoders; the best run, if empty.
        split : str
            `val`, `test`, `train` or `train+val`.
        honest : bool
            Whether to choose the decision rule, and without names the run, on one half of val and score the other half.
        """
        from mmfeat.workflows.evaluate import evaluate

        options = decision_options(threshold, empty, calibration, metric=metric, device=device)
        project = self._snapshot(settings, options, ("predict", "metric", "device"))
        return evaluate(project, names, split=split, honest=honest, overwrite=overwrite)

    @verb
    def report(
        self,
        run: str | None = None,
        *,
        project: bool = False,
        split: str = "val",
        no_images: bool = False,
        no_captions: bool = False,
        out: str | Path | None = None,
        threshold: float | str | None = None,
        empty: str | None = None,
        calibration: str | None = None,
        metric: str | None = None,
        device: str | None = None,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> ReportResult:
        """Write a run with its metrics, curves, errors and lineage as one HTML file, and its tables as CSV.

        Parameters
        ----------
        run : str, optional
            A run, or an encoder with its linear probe; the best run, if None.
        project : bool
            Whether to compare all runs of the project instead.
        split : str
            `val`, `test`, `train` or `train+val`.
        no_images, no_captions : bool
            Whether to leave out pictures and captions, for confidential data.
        out : Path, optional
            The file; report.html in the run's folder, if None.
        """
        from mmfeat.workflows.report import report

        options = decision_options(threshold, empty, calibration, metric=metric, device=device)
        snapshot = self._snapshot(settings, options, ("predict", "metric", "device"))
        shown: dict[str, bool] = {"images": not no_images, "captions": not no_captions}
        return report(snapshot, run, of_project=project, split=split, out=out, overwrite=overwrite, **shown)

    @verb
    def search(
        self,
        image: str | Path = "",
        *,
        like: str = "",
        caption: str = "",
        encoder: str = "",
        split: str = "all",
        n: int = 12,
        html: str | Path | None = None,
        engine: str | None = None,
        device: str | None = None,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> SearchResult:
        """Find the rows that are most similar to a picture, a caption, both, or a row of the project.

        Parameters
        ----------
        image : Path
            A picture.
        like, caption : str
            The id of a row; a text, which is compared with captions.
        encoder : str
            The encoder to search by; the first of each modality of the query, if empty.
        split : str
            `all`, `train`, `val`, `test` or `unlabelled`.
        n : int
            Number of rows.
        html : Path, optional
            A file for a gallery of the rows.
        """
        from mmfeat.workflows.search import search

        project = self._snapshot(settings, {"engine": engine, "device": device}, ("engine", "device"))
        names = {"like": like, "caption": caption, "encoder": encoder, "split": split}
        return search(project, image, n=n, html=html, overwrite=overwrite, **names)

    @property
    def runs(self) -> RunList:
        """The runs of the project, oldest first; :meth:`table` ranks them on the present val rows."""
        from mmfeat.api.run_list import RunList

        return RunList.of(self)

    @verb
    def table(
        self,
        *,
        sort: str = "",
        threshold: float | str | None = None,
        empty: str | None = None,
        calibration: str | None = None,
        metric: str | None = None,
        device: str | None = None,
        settings: Settings | None = None,
    ) -> RunsResult:
        """List runs and encoders on the current val rows, best first: the command `mmfeat runs`.

        Parameters
        ----------
        sort : str
            A column of the table, such as `map` or `MB`; the project's metric, if empty.
        """
        from mmfeat.workflows.runs import runs

        options = decision_options(threshold, empty, calibration, metric=metric, device=device)
        return runs(
            self._snapshot(settings, options, ("predict", "metric", "device", "limit_mb", "heads_dtype")), sort=sort
        )

    @verb
    def rename_run(self, old: str, new: str) -> ChangedRun:
        """Rename a run. Ensembles, exports and everything else that refers to it still find it."""
        from mmfeat.workflows.runs import rename

        return rename(self._snapshot(None, {}), old, new)

    @verb
    def delete_run(self, name: str) -> ChangedRun:
        """Delete a run that no other run depends on."""
        from mmfeat.workflows.runs import delete

        return delete(self._snapshot(None, {}), name)

    @verb
    def note_run(self, name: str, note: str) -> ChangedRun:
        """Replace the note of a run; an empty one is removed."""
        from mmfeat.workflows.runs import annotate

        return annotate(self._snapshot(None, {}), name, note)

    @verb
    def export(
        self,
        run: str,
        destination: str | Path,
        *,
        dtype: str = "float32",
        format: str = "torch",
        threshold: float | str | None = None,
        empty: str | None = None,
        calibration: str | None = None,
        metric: str | None = None,
        device: str | None = None,
        heads_dtype: str | None = None,
        settings: Settings | None = None,
    ) -> ExportResult:
        """Write a run, or an encoder with a linear probe, as one folder that needs no project.

        Parameters
        ----------
        dtype : str
            Type of the stored weights: `float32` or `float16`.
        heads_dtype : str, optional
            Type of those of heads and linear probes, if `dtype` is `float32`; `heads_dtype` of mmfeat.toml if None.
        format : str
            What executes the model: `torch` or `onnx`.
        """
        from mmfeat.workflows.export import export

        options = decision_options(threshold, empty, calibration, metric=metric, device=device, heads_dtype=heads_dtype)
        reads = ("limit_mb", "heads_dtype")
        project = self._snapshot(settings, options, lambda config: (*decision_keys(config, True), *reads))
        return export(project, run, destination, dtype=dtype, format=format)


def _run_and_samples(what: Sequence[str | Path], runs_folder: Path) -> tuple[str | None, list[str]]:
    """The run among a command's arguments, and its samples: a table or pictures."""
    from mmfeat.data.sample_kinds import kind_of_sample

    names = [path.name for path in runs_folder.glob("[!.]*")]
    samples = [str(one) for one in what if kind_of_sample(str(one), names)]
    if len(what) - len(samples) > 1:
        raise ConfigError("give one run, and one table or pictures: p.predict('fm1-1', 'new.csv')")
    return next((str(one) for one in what if str(one) not in samples), None), samples
