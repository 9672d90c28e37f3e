"""The paper's tables beside ours: the data, the differences, and files that show any text as text."""

from __future__ import annotations

import csv
import dataclasses
import json
import re

import pytest
from helpers import ROOT

from mmfeat.common.errors import OutputError
from mmfeat.report.outputs import Outputs
from mmfeat.report.paper_figures import FIGURES, N_CLASSES, paper_table, paper_tables
from mmfeat.report.paper_files import KEPT, MARKDOWN, PAGE, check_paper, kept_sheets, write_paper
from mmfeat.report.paper_sheet import Figure, Sheet, SheetRow

PAPER = ROOT.parent / "shared" / "paper" / "paper.txt"
NASTY = '<script>alert("1")</script>|`*_[x](y)\x1b[31m'


def sheet(name: str = "table-1", **more) -> Sheet:
    rows = [
        SheetRow(name="EfficientNet_b4", figures={"F1": Figure(theirs=0.8342, ours=0.8, low=0.78, high=0.82)}),
        SheetRow(name=NASTY, figures={"F1": Figure(ours=0.7)}, note=f"={NASTY}"),
    ]
    return Sheet(
        **{"name": name, "title": f"Encoders {NASTY}", "digits": {"F1": 4}, "rows": rows, "notes": [NASTY]} | more
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / "mmfeat.toml").write_text("schema = 1\n", encoding="utf-8")
    return tmp_path


# -- the data


def printed() -> dict[int, list[list[str]]]:
    """The numbers in the rows of each table of the paper's text."""
    found, rows = {}, []
    for line in PAPER.read_text(encoding="utf-8").splitlines():
        if "\t" in line:
            rows.append([re.sub(r"</?b>", "", cell).strip() for cell in line.split("\t")])
        elif (caption := re.match(r"Table (\d+)", line)) and rows:
            found[int(caption[1])], rows = rows[1:], []
    return found


@pytest.mark.skipif(not PAPER.is_file(), reason="the paper's text is not there")
@pytest.mark.parametrize("number", range(1, 17))
def test_every_printed_number_is_in_the_data(number):
    table = paper_table(number)
    rows = printed()[number]
    assert len(rows) == len(table.rows)
    for cells, row in zip(rows, table.rows, strict=True):
        ours = {*row.figures.values(), *row.class_f1, *(v for v in row.settings.values() if not isinstance(v, str))}
        numbers = [cell.split()[0] for cell in cells if re.match(r"\d", cell)]
        assert numbers
        assert {float(text) for text in numbers} <= ours, (cells, row)


def test_the_data_are_whole():
    assert [n for table in paper_tables() for n in table.numbers] == list(range(1, 18))
    for table in paper_tables():
        assert len({(row.name, *row.settings.values()) for row in table.rows}) == len(table.rows)
        for row in table.rows:
            assert set(row.figures) <= set(FIGURES)
            assert len(row.class_f1) in (0, N_CLASSES)
            assert bool(row.class_f1) == (len(table.numbers) == 4)
    mean = sum(paper_table(6).rows[4].class_f1) / N_CLASSES
    assert paper_table(6).rows[4].name == "EfficientNet_B4"
    assert mean == pytest.approx(0.917, abs=5e-4)  # as the notes say
    assert any("0.917" in note for note in paper_table(1).notes)
    best = max(paper_table(1).rows, key=lambda row: row.figures["f1"])
    assert (best.key, best.figures["loss"]) == ("efficientnet_b4", 0.0773)
    assert [row.figures["kaggle"] for row in paper_table(0).rows] == [0.955, 0.966]


def test_the_presets_models_and_settings_are_those_of_the_tables():
    from mmfeat.config.presets import PRESETS

    settings, keys = PRESETS["paper"].settings, [row.key for row in paper_table(1).rows]
    for modality in ("image", "text"):
        assert settings[f"encoder.{modality}.model"] in keys
    for row in paper_table(4).rows:
        assert row.settings in [one.settings for number in (2, 3) for one in paper_table(number).rows]


# -- differences


def test_a_difference_needs_the_same_measure_on_both_sides():
    assert Figure(theirs=0.8, ours=0.9).difference == pytest.approx(0.1)
    assert Figure(theirs=57.0, ours=3.0, compared=False).difference is None
    assert Figure(ours=0.9).difference is None
    assert Figure(theirs=0.9).difference is None
    alone = sheet(
        rows=[SheetRow(name="a", figures={"time": Figure(theirs=1.0, ours=2.0, compared=False)})], digits={"time": 1}
    )
    assert alone.groups() == [("time", ["theirs", "ours"])]


def test_a_table_by_class_has_its_figures_as_lines():
    turned = sheet(by_class=True)
    assert [line[0] for line in turned.lines()] == ["F1"]
    assert [title for title, _ in turned.groups()] == ["EfficientNet_b4", NASTY]
    assert turned.lines()[0][1:] == ["0.8342", "0.8000 (0.7800 to 0.8200)", "-0.0342", "0.7000"]


# -- files


def test_every_file_shows_any_text_as_text(root):
    files = {path.name: path for path in write_paper(Outputs(), root, [sheet(), sheet("tables-6-9", by_class=True)])}
    page = files[PAGE].read_text(encoding="utf-8")
    assert "<script" not in page.lower()
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"(?!#)", page)  # nothing from elsewhere
    assert "\x1b" not in page
    text = files[MARKDOWN].read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)[<>]", text)
    assert "\x1b" not in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert set(bars[:4]) == {6}  # a bar in a name begins no column
    rows = list(csv.DictReader(files["table-1.csv"].open(encoding="utf-8", newline="")))
    assert (rows[0]["theirs"], rows[0]["ours"], rows[0]["difference"]) == ("0.834200", "0.800000", "-0.034200")
    assert rows[1]["note"].startswith("'=")  # no formula


def test_tables_of_earlier_runs_stay_in_the_pages_in_the_papers_order(root):
    write_paper(Outputs(), root, [sheet("table-5")])
    write_paper(Outputs(), root, [sheet("table-1")])
    assert [one.name for one in kept_sheets(root)] == ["table-1", "table-5"]
    assert kept_sheets(root)[1] == sheet("table-5")
    newer = dataclasses.replace(sheet("table-5"), notes=["newer"])
    write_paper(Outputs(), root, [newer])
    assert kept_sheets(root)[1] == newer
    page = (root / "paper" / PAGE).read_text(encoding="utf-8")
    assert page.index('<h2 id="table-1"') < page.index('<h2 id="table-5"')


@pytest.mark.parametrize("damage", ["{", '{"format": 1, "sheets": [{"name": 1}]}', "[]"])
def test_a_damaged_file_of_earlier_tables_is_made_again(root, damage, capsys):
    write_paper(Outputs(), root, [sheet("table-5")])
    (root / "paper" / KEPT).write_text(damage, encoding="utf-8")
    assert kept_sheets(root) == []
    assert "made again" in capsys.readouterr().err
    write_paper(Outputs(overwrite=True), root, [sheet("table-1")])
    assert json.loads((root / "paper" / KEPT).read_text(encoding="utf-8"))["sheets"][0]["name"] == "table-1"


def test_a_changed_file_is_refused_before_any_work_and_replaced_with_overwrite(root):
    write_paper(Outputs(), root, [sheet()])
    changed = root / "paper" / "table-1.csv"
    changed.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="changed since"):
        check_paper(Outputs(), root)
    with pytest.raises(OutputError, match="changed since"):
        write_paper(Outputs(), root, [sheet(notes=[])])
    assert changed.read_text(encoding="utf-8") == "mine"
    check_paper(Outputs(overwrite=True), root)
    write_paper(Outputs(overwrite=True), root, [sheet()])
    assert changed.read_text(encoding="utf-8") != "mine"
