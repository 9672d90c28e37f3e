"""Charts: places on axes, ticks, and names that are no markup."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from mmfeat.report.html.svg_axes import Scale, nice_step, rounded_range
from mmfeat.report.html.svg_charts import (
    MOST_TITLES,
    Line,
    bar_mark,
    calibration_chart,
    heat_map,
    interval_mark,
    line_chart,
    points_chart,
    small_curve,
)

HOSTILE = '<script>alert("1")</script>\x1b[31m\u202e'


def shapes(svg, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(name))


def test_a_scale_places_its_ends_and_moves_what_is_outside():
    x = Scale(low=0, high=2, start=10, end=110)
    assert [x.at(v) for v in (0, 1, 2, 5, -1)] == [10, 60, 110, 110, 10]
    log = Scale(low=1, high=100, start=0, end=100, log=True)
    assert [log.at(v) for v in (1, 10, 100)] == [0, 50, 100]
    assert [words for _, words in log.ticks()] == ["1", "2", "5", "10", "20", "50", "100"]
    assert Scale(low=3, high=3, start=0, end=10).at(3) == 5


@pytest.mark.parametrize("span", [1e-6, 0.004, 0.13, 1, 7, 960, 1e7])
def test_ticks_are_few_and_show_what_they_mean(span):
    ticks = Scale(low=0, high=span, start=0, end=100).ticks()
    assert 3 <= len(ticks) <= 11
    for value, words in ticks:
        assert float(words.replace(",", "")) == pytest.approx(value, abs=nice_step(span) / 100)


def test_epochs_are_whole_numbers():
    assert [words for _, words in Scale(low=1, high=3, start=0, end=9, whole=True).ticks()] == ["1", "2", "3"]


def test_a_range_contains_its_values():
    low, high = rounded_range(0.713, 0.888)
    assert low <= 0.713 < 0.888 <= high
    assert rounded_range(0.5, 0.5)[0] < rounded_range(0.5, 0.5)[1]
    assert rounded_range(-0.2, 1.3, floor=0, top=1) == (0, 1)


def test_a_line_chart_has_a_line_for_each_name_and_a_legend_for_several():
    lines = [Line(label=name, xs=[1, 2, 3], ys=[0.1, 0.4, 0.3], series=k) for k, name in enumerate("ab", 1)]
    chart = line_chart(lines, labels=("epoch", "loss"), about="losses")
    assert sum(path.get("class", "").startswith("line") for path in shapes(chart.svg, "path")) == 2
    assert chart.legend == (("a", 1), ("b", 2))
    assert line_chart(lines[:1], labels=("epoch", "loss"), about="loss").legend == ()


def test_thousands_of_points_are_one_shape():
    few = points_chart([1, 10], [0.1, 0.9], ["a", "b"], labels=("n", "F1"), about="F1")
    assert len(shapes(few.svg, "circle")) == len(shapes(few.svg, "title")) == 2
    n = 5000
    many = points_chart(range(1, n + 1), [0.5] * n, ["x"] * n, labels=("n", "F1"), about="F1")
    assert n > MOST_TITLES
    assert not shapes(many.svg, "circle")
    assert len(many.svg) < 40 * n


def test_names_in_charts_stay_text():
    values = np.array([[np.nan, 0.5], [0.2, np.nan]])
    charts = [
        heat_map(values, [HOSTILE, "b"], [[HOSTILE] * 2] * 2, about=HOSTILE),
        line_chart(
            [Line(label=HOSTILE, xs=[1, 2], ys=[0, 1], marks=(True, False))], labels=(HOSTILE, "y"), about=HOSTILE
        ).svg,
        points_chart([1], [0.5], [HOSTILE], labels=("x", HOSTILE), about=HOSTILE).svg,
        small_curve([0.5, 1], [1, 0.5], HOSTILE),
        calibration_chart(np.array([0.1, 0.9]), np.array([0.0, 1.0]), np.array([3, 5]), about=HOSTILE).svg,
    ]
    for chart in charts:
        assert not shapes(chart, "script")
        assert "\x1b" not in chart
        assert "\u202e" not in chart


def test_marks_of_tables():
    assert len(shapes(interval_mark(0.4, 0.5, 0.6, (0, 1)), "circle")) == 1
    assert not shapes(interval_mark(0.1, 0.15, 0.2, (0.5, 1)), "circle")  # far below: an arrow
    assert [box.get("width") for box in shapes(bar_mark(0.5), "rect")] == ["72", "36.0"]
