"""`mmfeat reproduce`: the steps of the paper, what they cost, and that nothing is made twice."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest
from helpers.command_line import run_cli

import mmfeat as mf
from mmfeat.api import reproduce as module
from mmfeat.api.paper_steps import PlannedStep, Study
from mmfeat.api.paper_studies import AblationStudy, EncoderStudy, SettingsStudy, SubmissionStudy
from mmfeat.common.errors import ConfigError, MmfeatError, OutputError
from mmfeat.common.exclusive import alone_in
from mmfeat.report.paper_figures import paper_tables
from mmfeat.report.paper_files import kept_sheets
from mmfeat.report.paper_sheet import Figure, Sheet, SheetRow


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(p.relative_to(folder)): p.stat() for p in folder.rglob("*") if p.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def figures(folder: Path, name: str) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "paper" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return {(row["row"], row["figure"]): row for row in csv.DictReader(file)}


# -- what is asked for


@pytest.mark.parametrize("tables", ["0", "18", "a", "", "1,,2", "1.5", []])
def test_tables_are_numbers_of_the_paper(project_folder, tables):
    with pytest.raises(ConfigError, match="use numbers from 1 to 17"):
        mf.reproduce(project_folder, tables=tables, progress=False)


def test_an_unknown_scale_and_a_project_without_captions_are_refused(project_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"--scale 'big'\. Use one of: paper, small"):
        mf.reproduce(project_folder, scale="big", progress=False)
    (project_folder / "mmfeat.toml").write_text('schema = 1\n[encoder.image]\nmodel = "resnet18"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no encoder text\. Make a project with: mmfeat init SOURCE --preset paper"):
        mf.reproduce(project_folder, progress=False)
    (tmp_path / module.SMALL_FOLDER).mkdir()
    with pytest.raises(ConfigError, match="was not made by mmfeat reproduce"):
        mf.reproduce(tmp_path, scale="small", progress=False)


@pytest.mark.parametrize(
    ("numbers", "self_training", "wanted"),
    [
        ([], False, [EncoderStudy, SettingsStudy, AblationStudy, SubmissionStudy]),
        ([6], False, [EncoderStudy]),
        ([4], False, [SettingsStudy]),
        ([17, 1], False, [EncoderStudy, AblationStudy]),
        ([], True, [SubmissionStudy]),
        ([5], True, [AblationStudy, SubmissionStudy]),
    ],
)
def test_tables_name_their_studies(numbers, self_training, wanted):
    assert [type(one) for one in module._studies(numbers, self_training, ["image"])] == wanted


def test_all_tables_have_a_study():
    made = {n for study in module._studies([], False, ["image"]) for n in study.numbers}
    assert made == {n for table in paper_tables() for n in table.numbers}
    assert SettingsStudy([2]).numbers == (2,)  # the other encoder is not swept for it
    assert SettingsStudy([12]).numbers == (2, 3, 4, 10, 11, 12, 13)


# -- order, costs, interruption


class Fake(Study):
    """A study that makes one table."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name, self.fails, self.numbers = name, fails, ()

    def plan(self, project):
        return [PlannedStep(command=f"mmfeat {self.name}", tables=self.name, seconds=3.0, what="1 fit to make")]

    def run(self, project, step, *, overwrite):
        step(f"mmfeat {self.name}")
        if self.fails:
            raise KeyboardInterrupt
        rows = [SheetRow(name="a", figures={"F1": Figure(theirs=0.5, ours=0.25)})]
        return [Sheet(name=self.name, title=self.name, digits={"F1": 4}, rows=rows)]


def test_an_interrupted_run_keeps_the_tables_of_its_first_studies(project_folder, monkeypatch, capfd):
    studies = [Fake("table-1"), Fake("table-5", fails=True)]
    monkeypatch.setattr(module, "_studies", lambda *asked: studies)
    with pytest.raises(KeyboardInterrupt):
        mf.reproduce(project_folder)
    said = capfd.readouterr().err.splitlines()
    costs = [line for line in said if "about 3.0 s; 1 fit to make" in line]
    assert len(costs) == 2
    assert said.index(costs[1]) < said.index("$ mmfeat table-1")  # beforehand
    assert [sheet.name for sheet in kept_sheets(project_folder)] == ["table-1"]
    studies[1].fails = False
    result = mf.reproduce(project_folder, progress=False)
    assert [sheet.name for sheet in kept_sheets(project_folder)] == ["table-1", "table-5"]
    assert "2 tables" in repr(result)
    assert [record["difference"] for record in result._table()] == [-0.25, -0.25]


def test_a_changed_table_is_refused_before_any_work(project_folder, monkeypatch):
    monkeypatch.setattr(module, "_studies", lambda *asked: [Fake("table-1")])
    mf.reproduce(project_folder, progress=False)
    (project_folder / "paper" / "table-1.csv").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(module, "_studies", lambda *asked: [Fake("table-1", fails=True)])
    with pytest.raises(OutputError, match=r"table-1\.csv: has been changed"):
        mf.reproduce(project_folder, progress=False)


def test_two_at_once_do_not_make_everything_twice(project_folder, monkeypatch):
    monkeypatch.setattr(module, "_studies", lambda *asked: [Fake("table-1")])
    with (
        alone_in(project_folder / "paper", "mmfeat reproduce"),
        pytest.raises(MmfeatError, match="another mmfeat reproduce is running"),
    ):
        mf.reproduce(project_folder, progress=False)
    assert mf.reproduce(project_folder, progress=False).sheets


def test_a_dry_run_names_every_step_with_its_cost_and_writes_nothing(project_folder):
    before = files_of(project_folder)
    result = mf.reproduce(project_folder, tables="3,5", self_training=True, dry_run=True, progress=False)
    assert files_of(project_folder) == before
    sweep, encoders, heads, _, rounds, _ = result.steps
    assert sweep.command.startswith("mmfeat sweep finetune text --cell lr=5e-05,batch_size=256,optimizer=adam --cell ")
    assert sweep.what == "10 of 10 fine-tunings to make"
    assert encoders.command == "mmfeat finetune; mmfeat extract"
    assert sweep.seconds > 0
    assert encoders.seconds > 0
    assert heads.seconds is None
    assert "round" in rounds.what
    assert result.seconds == pytest.approx(sum(step.seconds or 0 for step in result.steps))


# -- whole commands


@pytest.mark.slow
def test_one_table_end_to_end_and_again(project_folder, monkeypatch):
    run_cli("reproduce", "--tables", "3", cwd=project_folder)
    found = figures(project_folder, "table-3")
    row = found["BERT(Tiny), lr 0.0005, batch 256, adam", "val macro F1"]
    assert row["theirs"] == "0.817100"
    assert float(row["difference"]) == pytest.approx(float(row["ours"]) - 0.8171, abs=2e-6)
    assert all(found[name, "val loss"]["ours"] for name, _ in found)
    assert not found["BERT(Tiny), lr 0.0005, batch 256, adam", "time s"]["difference"]
    text = (project_folder / "paper" / "tables.md").read_text(encoding="utf-8")
    assert "The text encoder is not the paper's" in text
    before = files_of(project_folder)
    monkeypatch.setattr("mmfeat.training.sweep_encoders.EncoderFit.train", lambda fit: pytest.fail("made twice"))
    again = mf.reproduce(project_folder, tables=3, progress=False)
    assert again.sheets[0].name == "table-3"
    assert {n: s for n, s in files_of(project_folder).items() if n.startswith(("paper", "sweeps/fin"))} == {
        n: s for n, s in before.items() if n.startswith(("paper", "sweeps/fin"))
    }
    assert mf.reproduce(project_folder, tables=3, dry_run=True, progress=False).steps[0].what == "made"


@pytest.mark.exhaustive
def test_the_whole_paper_at_small_scale_in_ten_minutes_and_again_without_work(tmp_path):
    start = time.process_time()
    run_cli("reproduce", "--scale", "small", cwd=tmp_path)
    assert time.process_time() - start < 600  # processor time: others use the machine too
    root = tmp_path / module.SMALL_FOLDER
    assert [sheet.name for sheet in kept_sheets(root)] == [table.name for table in paper_tables()]
    for sheet in kept_sheets(root):
        assert any("encoder is not the paper's" in note for note in sheet.notes), sheet.name
        assert any("not the preset's: finetune.image.epochs = 4" in note for note in sheet.notes), sheet.name
        assert any(one.ours is not None for row in sheet.rows for one in row.figures.values()), sheet.name
    ablation = figures(root, "table-5")
    for figure in ("val macro F1", "val loss", "train F1 (in-sample)", "train accuracy (in-sample)", "time s"):
        assert all(row["ours"] for (_, one), row in ablation.items() if one == figure), figure
    assert ablation["FM1 + FCNN", "val macro F1"]["ours_low"]
    assert (root / "submission.csv").is_file()
    before, tables = files_of(root), (root / "paper" / "tables.md").read_bytes()
    run_cli("reproduce", "--scale", "small", cwd=tmp_path)
    assert (root / "paper" / "tables.md").read_bytes() == tables
    made = ("checkpoints/image", "checkpoints/text", "runs/", "sweeps/finetune/", "comparisons/")
    assert {n: s for n, s in files_of(root).items() if n.startswith(made)} == {
        n: s for n, s in before.items() if n.startswith(made)
    }
    run_cli("finetune", cwd=root)  # the encoders of self-training are no longer in use
    run_cli("reproduce", "--scale", "small", "--self-training", cwd=tmp_path)
    assert (root / "paper" / "tables.md").read_bytes() == tables
