"""Python is a twin of the command line: every command is a method, every option an argument, every result readable."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import inspect
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import weakref

import click
import numpy as np
import pytest
from helpers import ROOT
from helpers.command_line import leaves
from mmfeat.cli import group
from mmfeat.cli.printing import JSON_OPTION, QUIET_OPTION

import mmfeat as mf
from mmfeat.common.errors import ConfigError, DataError, MmfeatError
from mmfeat.common.progress import progress, quiet, say
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.result import Result, TableResult, metric_records

SUBPACKAGES = sorted(one.name for one in pkgutil.iter_modules(mf.__path__))


@pytest.fixture
def own(own_folder):
    """A silent project with a head and an ensemble, that a test may change."""
    return mf.Project(own_folder, progress=False)


# -- every command is a method


COMMANDS = {"_".join(words): command for words, command in leaves(group).items()}
# The first three need no project.
FUNCTIONS = {"init": mf.init, "demo": mf.demo, "reproduce": mf.reproduce, "encoders_list": mf.Project.encoders}
METHODS = {"runs": "table"}  # `runs` is the list of runs
OUTPUT = (JSON_OPTION, QUIET_OPTION)  # to_frame() and progress=False
LEFT_OUT = {
    "runs": {"rename", "delete", "note"},  # rename_run(old, new), delete_run(name), note_run(name, text)
    "serve": None,  # runs until it is ended
    "predict": {"model"},  # mmfeat.predict(model, ...)
    "audit": {"apply"},  # apply_groups()
    "review": {"apply", "undo"},  # apply_review(file), undo_review()
}


def arguments_of(command: click.Command) -> set[str]:
    own = (one for one in command.params if isinstance(one, click.Option) and one.name not in OUTPUT)
    options = (one.opts[0] for one in own)
    names = {option.removeprefix("--").replace("-", "_") for option in options}
    return {{"set": "settings", "from": "from_run"}.get(name, name) for name in names}  # `from` is a keyword


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_an_argument(name):
    left_out = LEFT_OUT.get(name, set())
    if left_out is None:
        return
    function = FUNCTIONS.get(name) or getattr(mf.Project, METHODS.get(name, name))
    parameters = inspect.signature(function).parameters.values()
    names = {one.name for one in parameters if one.kind is not one.VAR_POSITIONAL} - {"self", "progress"}
    positional = {
        one.name.removesuffix("_column")
        for one in COMMANDS[name].params
        if isinstance(one, click.Argument) and one.nargs == 1
    }
    if name in ("init", "reproduce"):
        positional.add("folder")
    assert arguments_of(COMMANDS[name]) - left_out == names - positional
    by_keyword = [one for one in parameters if one.name not in positional | {"self", "folder", "seed"}]
    assert all(one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL) for one in by_keyword)
    assert function.__doc__


def test_applying_and_undoing_a_review_are_methods_of_their_own():
    assert callable(mf.Project.apply_review)
    assert callable(mf.Project.undo_review)


def test_renaming_deleting_and_annotating_a_run_are_methods_of_their_own(own):
    assert own.rename_run("crossattn-1", "baseline").made == "Renamed runs/crossattn-1 to runs/baseline."
    assert own.note_run("baseline", "as in the report").name == "baseline"
    assert own.delete_run("fm3-1").made == "Deleted runs/fm3-1."
    assert own.runs(sort="note").runs[0].name == "baseline"
    fused = own.fuse(head="linear", name="quick", note="a first try")
    assert (fused.run.name, fused.run.note) == ("quick", "a first try")
    assert own.ensemble("image", "quick", name="both").run.name == "both"


# -- the session of the README


def test_a_whole_session_prints_nothing_and_every_result_is_readable(own, tmp_path, capfd, small_source):
    p = mf.init(own.root, progress=False)
    results = [p.finetune(freeze=True, dry_run=True), p.finetune(freeze=True), p.extract(dry_run=True), p.extract()]
    run = p.fuse(head="crossattn")
    results += [
        run,
        p.ensemble("fm1"),
        p.selftrain(rounds=1, head="linear"),
        p.predict(),
        p.evaluate(),
        p.table(),
        p.runs,
    ]
    exported = run.export(tmp_path / "model")
    new = mf.predict(exported.folder, caption="a red circle", progress=False)
    results += [exported, new, p.status(store=True), p.status(config=True), p.encoders(), p.init(), p.review(n=3)]
    results += [p.store_verify(), p.store_gc(), p.store_export(tmp_path / "arrays.h5")]
    results += [p.compare_heads("linear"), p.sweep_fuse(head=["linear"], lr=[0.01, 0.02])]
    results += [p.predict("crossattn-1", small_source / "test.csv", images=small_source / "images.zip")]
    assert capfd.readouterr() == ("", "")
    for result in results:
        assert isinstance(result, Result), result
        text, markup = repr(result), result._repr_html_()
        assert text
        assert " at 0x" not in text + markup
        assert markup.count("<table>") == markup.count("</table>")
        if isinstance(result, TableResult):
            records = result._table()
            assert all(list(one) == list(records[0]) for one in records)
    assert new.labels == [list(new.predictions[0].labels)]


def test_progress_is_shown_unless_it_is_turned_off(own, capfd, monkeypatch):
    monkeypatch.setattr("mmfeat.workflows.fuse.fuse", lambda project, **_: say("working"))
    mf.Project(own.root).fuse()
    assert capfd.readouterr() == ("", "working\n")
    own.fuse()
    assert capfd.readouterr() == ("", "")
    with quiet(), progress("hidden", 2) as bar:
        bar.advance()
        say("hidden")
    with quiet(False):
        say("shown")
    assert capfd.readouterr() == ("", "shown\n")


def test_selftraining_encoders_needs_a_yes(own, monkeypatch):
    from types import SimpleNamespace

    from mmfeat.training.encoder_rounds import EncoderCost
    from mmfeat.workflows import selftrain as workflow

    cost = EncoderCost(times=1, names=["image"], n_rows=2, seconds=1.0, mb=1.0)
    monkeypatch.setattr(workflow, "plan_selftrain", lambda project, naming: SimpleNamespace(cost=lambda: cost))
    monkeypatch.setattr(workflow, "selftrain", lambda project, plan: "done")
    with pytest.raises(MmfeatError, match=r"Encoder rounds: up to 1, .* Nothing was done\. To continue: yes=True"):
        own.selftrain(encoder_every=1)
    assert own.selftrain(encoder_every=1, yes=True) == "done"


def test_settings_are_those_of_the_command_line(own):
    run = own.fuse(head="linear", settings={"fuse.linear.epochs": 1}).run
    assert run.record["head_config"]["epochs"] == 1
    with pytest.raises(ConfigError, match=r"fuse\.head is given twice"):
        own.fuse(head="linear", settings={"fuse.head": "mlp"})
    with pytest.raises(ConfigError, match=r"selftrain\.rounds has no effect here"):
        own.fuse(settings={"selftrain.rounds": 1})
    with pytest.raises(ConfigError, match="Nearest: head"):
        own.fuse(settings={"fuse.haed": "mlp"})
    with pytest.raises(ConfigError, match="is not a key"):
        own.fuse(settings={"": 1})
    with pytest.raises(ConfigError, match=r"status\(config=True\)"):
        own.status(metric="map")
    with pytest.raises(ConfigError, match="on_error = 'ignore'"):
        own.extract(on_error="ignore")


def test_settings_of_a_project_hold_in_every_command(own):
    tuned = own.with_settings({"predict.threshold": 0.9})
    assert isinstance(tuned, mf.Project)
    assert not tuned.progress
    assert tuned.predict("fm3-1", split="val", out=own.root / "a.csv").decision.threshold == 0.9
    assert own.predict("fm3-1", split="val", out=own.root / "b.csv").decision.threshold == 0.5


def test_init_makes_the_folder_or_leaves_nothing_behind(tmp_path, small_source):
    with pytest.raises(MmfeatError):
        mf.init(tmp_path / "new" / "tags", tmp_path / "nowhere.csv")
    assert not (tmp_path / "new" / "tags").exists()
    p = mf.init(tmp_path / "tags", small_source, val=0.2, seed=3, progress=False)
    assert isinstance(p, mf.Project)
    assert p.config.seed == 3
    assert "80 rows (48 train, 12 val, 20 unlabelled), 10 classes" in repr(p)
    assert p.init().unchanged
    with pytest.raises(ConfigError, match=r"split\.val"):
        p.init(val=0.5)


# -- a project sees what changes, and is freed


def test_a_project_sees_changed_data_at_the_next_call(own, small_source):
    n = own.manifest.n_samples
    source = shutil.copytree(small_source, own.root.parent / "source")
    lines = (source / "test.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (source / "test.csv").write_text("".join(lines[:-1]), encoding="utf-8")
    file = own.root / "mmfeat.toml"
    file.write_text(file.read_text(encoding="utf-8").replace(str(small_source), str(source)), encoding="utf-8")
    assert own.init().manifest.n_samples == n - 1
    assert own.manifest.n_samples == n - 1
    assert own.predict("fm3-1").n_rows == len(lines) - 2
    file.write_text(f'metric = "map"\n{file.read_text(encoding="utf-8")}', encoding="utf-8")
    assert own.table().metric == "map"


def test_a_project_is_freed_when_it_is_dropped(own_folder):
    p = mf.Project(own_folder, progress=False)
    p.status()
    snapshot = p._snapshot(None, {})
    snapshot.row_keys("text")
    snapshot.kept_keys("image")
    both = weakref.ref(p), weakref.ref(snapshot)
    del p, snapshot
    gc.collect()
    assert [one() for one in both] == [None, None]


# -- what version 0.1 documented


def test_the_imports_of_version_0_1_work(own, recwarn):
    from mmfeat.workflows.fuse import fuse

    result = fuse(mf.Project(own.root), head="crossattn")
    assert result.run.name
    assert 0 <= result.lines[-1].samples_f1 <= 1
    assert not [one for one in recwarn if one.category is DeprecationWarning and "mmfeat" in one.filename]


def test_former_calls_work_with_a_warning(own, tmp_path):
    from mmfeat.workflows.evaluate import evaluate
    from mmfeat.workflows.export import export
    from mmfeat.workflows.finetune import finetune
    from mmfeat.workflows.predict import predict

    with pytest.warns(DeprecationWarning, match=r"predict\(\) takes split=, format= by keyword"):
        assert predict(own, "fm3-1", "val", "jsonl").files[0].name == "predictions-val.jsonl"
    with pytest.warns(DeprecationWarning, match=r"takes run=, format= by keyword"):
        predict(own, run_name="fm3-1", form="csv")
    with pytest.warns(DeprecationWarning, match="split="):
        assert evaluate(own, ["fm3-1"], "train").split == "train"
    with pytest.warns(DeprecationWarning, match="dtype="):
        export(own, "fm3-1", tmp_path / "model", "float16")
    with pytest.warns(DeprecationWarning, match="freeze="):
        result = finetune(own, ["text"], True)
    with pytest.warns(DeprecationWarning, match="FinetuneResult"):
        encoders, baseline = result
    assert (encoders, baseline) == (result.encoders, result.baseline)
    with pytest.raises(TypeError):
        predict(own, "fm3-1", "val", "csv", 0, None, False, "one too many")


# -- names and records


def test_no_public_name_is_a_subpackage():
    for module in pkgutil.walk_packages(mf.__path__, "mmfeat."):
        importlib.import_module(module.name)
    assert not set(mf.__all__) & set(SUBPACKAGES)
    for name in mf.__all__:
        assert not inspect.ismodule(getattr(mf, name)), name
    assert set(mf.__all__) <= set(dir(mf))
    with pytest.raises(AttributeError, match="no attribute 'fuse'"):
        mf.fuse  # noqa: B018


def test_no_package_exports_a_name_of_its_own_module():
    for one in pkgutil.walk_packages(mf.__path__, "mmfeat."):
        package = importlib.import_module(one.name)
        if one.ispkg and one.name != "mmfeat.cli":
            for module in pkgutil.iter_modules(package.__path__):
                found = getattr(package, module.name, None)
                assert found is None or inspect.ismodule(found), f"{one.name}.{module.name}"


def results() -> list[type]:
    """Every class of results, whose modules are imported."""
    for package in ("mmfeat.workflows", "mmfeat.api"):
        for one in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{one.name}")
    found, new = set(), {Result}
    while new:
        found |= new
        new = {below for one in new for below in one.__subclasses__()} - found
    return sorted(found - {Result, TableResult}, key=lambda one: one.__name__)


def test_results_are_frozen_and_take_keywords_alone():
    assert len(results()) > 20
    for one in results():
        parameters = one.__dataclass_params__
        assert parameters.frozen, one
        assert not parameters.repr, one
        assert all(field.kw_only for field in dataclasses.fields(one)), one


def test_every_workflow_returns_a_result():
    from mmfeat.workflows import __path__ as path

    named = {one.__name__ for one in results()}
    for module in pkgutil.iter_modules(path):
        if module.name == "serve":
            continue
        workflow = importlib.import_module(f"mmfeat.workflows.{module.name}")
        main = {"store": "verify_store", "store_import": "import_embeddings"}.get(module.name, module.name)
        returned = inspect.signature(getattr(workflow, main)).return_annotation
        assert returned in named, module.name


def test_a_result_is_escaped_and_cut():
    @dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
    class Made(TableResult):
        n: int

        def _about(self) -> str:
            return "<b>\x1b[31m"

        def _table(self):
            return [
                {"<i>": f"<{i}>", "n": 1234, "f": 0.5, "none": None, "ok": True, "many": [1, 2]} for i in range(self.n)
            ]

    text, markup = repr(Made(n=40)), Made(n=40)._repr_html_()
    assert "\x1b" not in text
    assert text.endswith("... and 10 more rows")
    assert "1,234   0.500      -   yes    1 2" in text
    assert "&lt;b&gt;" in markup
    assert "<b>" not in markup
    assert "<i>" not in markup
    assert markup.count("<tr>") == 31
    assert "table" not in Made(n=0)._repr_html_()


def test_a_frame_has_numbers_and_says_which_extra_it_needs(monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
    class Made(TableResult):
        lines: list

        def _table(self):
            return metric_records(self.lines)

    scores = dict.fromkeys(("samples_f1", "micro_f1", "macro_f1", "map", "loss"), 0.5)
    more = {"at_half": {}, "n_left_out": 0, "never_predicted": 0, "seconds": 1.5}
    lines = [MetricRow(label="image", spread=0.1, map_spread=0.1, **more, **scores)]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pandas", None)
        with pytest.raises(ConfigError, match=r"pip install 'mmfeat\[pandas\]'"):
            Made(lines=lines).to_frame()
    pytest.importorskip("pandas")
    frame = Made(lines=lines).to_frame()
    assert frame["samples F1"].tolist() == [0.5]
    assert frame["mAP ±"].tolist() == [0.1]
    assert frame["seconds"].dtype == np.float64


def test_predictions_as_a_frame(own):
    pytest.importorskip("pandas")
    result = own.predict("fm3-1", split="val", out=own.root / "p.csv")
    frame = result.to_frame()
    assert frame["id"].tolist() == result.ids.tolist()
    assert list(frame.columns)[2:] == [f"p_{name}" for name in result.classes]
    assert frame["labels"].tolist() == result.labels


def test_predict_takes_one_run_and_no_split_of_new_samples(own):
    with pytest.raises(ConfigError, match="one run"):
        own.predict("fm3-1", "crossattn-1")
    with pytest.raises(ConfigError, match="split names rows"):
        own.predict(caption="a red circle", split="val")
    with pytest.raises(DataError, match="no test rows"):
        own.predict(split="test")


# -- types and the notebook


def test_the_package_is_typed():
    assert (ROOT / "mmfeat" / "py.typed").is_file()
    assert "mmfeat = py.typed" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_type_checker_is_content_with_the_public_interface():
    pytest.importorskip("mypy")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("pandas")
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # kept without outputs
    kernel = {"display_name": "test", "language": "python", "argv": [sys.executable, *KERNEL]}
    kernels = tmp_path / "kernels" / "test"
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = str(tmp_path)
    try:
        client = nbclient.NotebookClient(
            notebook, timeout=300, kernel_name="test", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
    finally:
        del os.environ["JUPYTER_PATH"]
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("<table" in out.get("data", {}).get("text/html", "") for out in outputs)
    assert not any(out.get("output_type") == "error" for out in outputs)
    assert (tmp_path / "tags" / "predictions.csv").is_file() or (tmp_path / "tags" / "submission.csv").is_file()


KERNEL = ("-m", "ipykernel_launcher", "-f", "{connection_file}")
