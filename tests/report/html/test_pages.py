"""Pages: whatever data says stays text, thousands of classes stay small, tables are files too."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import numpy as np
import pytest

from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import MetricRow, metrics_of
from mmfeat.report.html.blocks import (
    Card,
    Chip,
    Choice,
    Facts,
    Gallery,
    Heading,
    Member,
    Page,
    PageTable,
    Section,
    Text,
    Tile,
)
from mmfeat.report.html.cards import MOST_CHIPS, Samples
from mmfeat.report.html.learning_sections import History, learning_section
from mmfeat.report.html.metric_sections import CURVES, class_section, curve_section, metric_page_table
from mmfeat.report.html.pages import page_files, page_html
from mmfeat.report.html.pair_sections import Unimodal, found_by_table, pair_section
from mmfeat.report.table_layout import Cell, table

HOSTILE = '<script>alert("1")</script> \' " onload=x </style><img src=//x.y/z> \x1b[31mred\u202eleft'
RTL = "كلب على مقعد"


class Seen(HTMLParser):
    """The elements of a page, and attributes that could run something or fetch it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.risks: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.risks += [f"{tag} {name}={value}" for name, value in attrs if name.startswith("on")]
        self.risks += [
            f"{tag} {value}"
            for name, value in attrs
            if name in ("src", "href") and not (value or "").startswith(("#", "data:image/jpeg;base64,"))
        ]


def hostile_page() -> Page:
    member = Member(
        id=HOSTILE,
        caption=HOSTILE + "x" * 10_000,
        missing=HOSTILE,
        chips=(("given", (Chip(text=HOSTILE, kind="wrong", value="0.5"),)),),
    )
    blocks = (
        Text(text=HOSTILE, kind="warn"),
        Heading(text=HOSTILE),
        Facts(pairs=((HOSTILE, HOSTILE),)),
        PageTable(
            name="t",
            table=table([HOSTILE, "n"], [[Cell(HOSTILE, HOSTILE), 1, HOSTILE]]),
            caption=HOSTILE,
            sortable=True,
        ),
        Choice(group="g", label="Class", names=(HOSTILE,)),
        Gallery(
            cards=(Card(members=(member, Member(id=RTL, picture=b"\xff\xd8"))),),
            name=HOSTILE,
            detail=HOSTILE,
            group="g",
        ),
    )
    tiles = (Tile(title=HOSTILE, value=HOSTILE, detail=HOSTILE),)
    return Page(
        title=HOSTILE,
        eyebrow=HOSTILE,
        badges=((HOSTILE, "bad"),),
        tiles=tiles,
        sections=(Section(id="a", title="A", blocks=blocks),),
    )


def test_whatever_data_says_stays_text():
    page = page_html(hostile_page())
    seen = Seen(page)
    assert seen.elements.count("script") == 1  # the page's own
    assert seen.elements.count("style") == 1
    assert seen.elements.count("img") == 1
    assert not seen.risks
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert RTL in page
    assert "x" * 1000 not in page


def test_tables_are_files_without_formulas():
    rows = [[Cell("=1+1", "=1+1"), Cell("0.5", 0.512345678, 0.1)]]
    page = Page(
        title="t",
        sections=(
            Section(
                id="a",
                title="A",
                blocks=(PageTable(name="t", table=table(["a", "b"], rows)), PageTable(name="", table=table(["x"], []))),
            ),
        ),
    )
    (text,) = page_files(page).values()
    assert list(csv.reader(io.StringIO(text))) == [["a", "b", "b ±"], ["'=1+1", "0.512345678", "0.1"]]


@pytest.fixture(scope="module")
def many():
    """Predictions of 300 rows in 5,000 classes."""
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 5000)) < 0.002).astype(np.int8)
    labels[:5] = -1
    logits = (rng.normal(size=labels.shape) - 5 + 6 * (labels == 1)).astype(np.float32)
    return labels, logits, tuple(f"class {k}" for k in range(5000))


def test_thousands_of_classes_are_paged_and_plots_select(many):
    labels, logits, classes = many
    rule = DecisionRule()
    probs = rule.probs(logits)
    metrics = metrics_of(labels, logits, rule)
    sections = (
        class_section(metrics, classes, np.full(5000, 0.5), rows="300 val rows"),
        curve_section(labels, logits, probs, metrics=metrics, classes=classes),
        pair_section(labels, rule.labels(probs), classes),
    )
    page = page_html(Page(title="many", sections=sections))
    assert len(page) < 8_000_000
    assert page.count('<svg class="chart small"') == CURVES
    assert page.count(" paged") == 1
    assert page.count('<th scope="row">') >= 5000


def test_a_class_without_a_positive_is_blank_and_no_metric_is_made_up():
    labels = np.array([[1, 0], [0, 0]], np.int8)
    metrics = metrics_of(labels, np.zeros((2, 2), np.float32), DecisionRule())
    found = class_section(metrics, ("a", "b"), np.array([0.5, 0.5]), rows="2 val rows")
    (text, listed, _) = found.blocks
    assert "1 class without a positive" in text.text
    assert listed.table.rows[1][1:6] == ["0", "", "", "", ""]
    nothing = metrics_of(labels[1:], np.zeros((1, 2), np.float32), DecisionRule())
    assert len(class_section(nothing, ("a", "b"), np.array([0.5, 0.5]), rows="1 val row").blocks) == 2


def test_the_table_of_metrics_marks_its_subject_and_baselines():
    labels = np.eye(3, dtype=np.int8)
    metrics = metrics_of(labels, 4.0 * labels - 2, DecisionRule())
    lines = [MetricRow.of(name, metrics) for name in ("most frequent", "other", "run")]
    found = metric_page_table(lines, rows="3 val rows", subjects=["run"], baselines=["most frequent"])
    assert found.looks == ("minor", "", "this")
    assert len(found.marks) == 3


def test_which_encoder_finds_a_label_alone():
    labels = np.array([[1, 1], [1, 0], [1, 1]], np.int8)
    known = np.array([True, True, False])
    image = Unimodal(
        name="image", probs=labels * 0.9, predicted=np.array([[1, 0], [1, 0], [1, 1]]), known=np.ones(3, bool)
    )
    text = Unimodal(name="text", probs=labels * 0.9, predicted=np.array([[1, 0], [0, 0], [1, 1]]), known=known)
    found = found_by_table(labels, np.array([[1, 1], [1, 0], [1, 1]]), [image, text])
    assert [[row[0], row[1], row[3]] for row in found.table.rows] == [
        ["none", "1", "100 %"],
        ["only image", "1", "100 %"],
        ["all", "1", "100 %"],
    ]
    nothing = Unimodal(name="text", probs=labels * 0.9, predicted=labels, known=np.zeros(3, bool))
    assert found_by_table(labels, labels, [image, nothing]) is None


def test_learning_curves_of_what_was_recorded():
    epochs = [{"epoch": e, "train_loss": 1 / e, "val_samples-f1": 0.5 + e / 100} for e in range(1, 1001)]
    found = learning_section(
        [History(name="run", fits=[(epochs, 7), (epochs[:3], 2)]), History(name="none", fits=[([], 0)])]
    )
    assert [block.block for block in found.blocks] == ["heading", "columns"]
    assert [part.title for part in found.blocks[1].parts] == ["Training loss", "Samples F1 on val"]
    assert learning_section([]) is None


def test_a_card_says_what_is_right_missed_and_wrong():
    classes = [f"c{k}" for k in range(30)]
    labels = np.full((2, 30), 0, np.int8)
    labels[0, :2], labels[1] = 1, -1
    probs, predicted = np.linspace(0.9, 0.1, 30), np.zeros(30, np.int8)
    predicted[[0, 5]] = 1
    samples = Samples(
        ids=np.array(["a", "b"]),
        captions=np.array(["x", "y"]),
        labels=labels,
        classes=classes,
        pictures={0: b"jpg"},
        missing="none",
        predicted={0: (probs, predicted), 1: (probs, np.ones(30, np.int8))},
    )
    (_, given), (_, said) = samples.member(0).chips
    assert [(chip.text, chip.kind) for chip in given] == [("c0", "right"), ("c1", "missed")]
    assert [(chip.text, chip.kind) for chip in said] == [("c0", "right"), ("c5", "wrong")]
    ((title, unknown),) = samples.member(1).chips  # an unlabelled row has no given labels
    assert (title, len(unknown), unknown[-1].text) == ("predicted", MOST_CHIPS + 1, "and 18 more")
    assert [member.picture for member in samples.card(0, "why", [1]).members] == [b"jpg", None]
