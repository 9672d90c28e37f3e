"""What the pictures show: every point, and legends beside the curves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report import plots

THRESHOLDS = {"map_spread": None, "at_half": {}, "never_predicted": 0}


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are saved, laid out."""
    figures = []

    def keep(figure, path):
        figure.draw_without_rendering()
        figures.append(figure)

    monkeypatch.setattr(plots, "_save", keep)
    return figures


def baseline(label: str, f1: float) -> MetricRow:
    scores = dict.fromkeys(("micro_f1", "macro_f1", "map", "loss"), 0.2)
    return MetricRow(label=label, samples_f1=f1, spread=0.01, n_left_out=0, **scores, **THRESHOLDS)


def model(name: str, f1: float) -> SimpleNamespace:
    metrics = SimpleNamespace(scores=SimpleNamespace(samples_f1=f1), low=f1 - 0.01, high=f1 + 0.01)
    encoder = SimpleNamespace(rate=100.0, frozen=True)
    return SimpleNamespace(name=name, label=name, group="image", size_mb=10.0, encoder=encoder, metrics=metrics)


@pytest.mark.parametrize("far", [0.3, 0.79])
def test_every_baseline_is_a_point(drawn, far):
    models = [model("image", 0.8), model("concat", 0.82)]
    plots.plot_heads(Path("x"), "9 val rows", models, [baseline("most frequent", far), baseline("kNN", 0.78)])
    points = {}
    for axes in drawn[0].axes:
        low, high = axes.get_xlim()
        for container in axes.containers:
            for x, y in zip(*container.lines[0].get_data(), strict=True):
                assert low < x < high
                points[int(y)] = x
    assert points == {0: far, 1: 0.78, 2: 0.8, 3: 0.82}
    assert len(drawn[0].axes) == 1 + (far == 0.3)
    assert [text.get_text() for text in drawn[0].axes[0].get_yticklabels()] == [
        "most frequent",
        "kNN",
        "image",
        "concat",
    ]


@pytest.mark.parametrize("far", [0.3, 0.79])
def test_encoders_are_shown_beside_the_baseline(drawn, far):
    plots.plot_encoders(Path("x"), "9 val rows", [model("a", 0.8), model("b", 0.82)], [baseline("most frequent", far)])
    for axes in drawn[0].axes:
        assert next(text.get_text() for text in axes.texts if "most frequent" in text.get_text()).endswith(f"{far:.3f}")


@pytest.mark.parametrize("n_rounds", [2, 6])
def test_rounds_have_few_names_and_no_legend_over_a_curve(drawn, n_rounds):
    rng = np.random.default_rng(0)
    rounds = [
        {
            "number": i,
            "accepted": i != 3,
            "figures": dict.fromkeys(("samples_f1", "macro_f1", "map"), 0.5 + 0.01 * i),
            "n_yes": rng.integers(0, 90, 22).tolist(),
            "agreement": 0.9 if i > 1 else None,
            "truth": 0.8 if i > 0 else None,
        }
        for i in range(n_rounds)
    ]
    plots.plot_rounds(Path("x"), rounds, metric="map")
    names = [text.get_text() for axes in drawn[0].axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert len(names) == 5 + (n_rounds > 2)
    for axes in drawn[0].axes:
        if legend := axes.get_legend():
            assert legend.get_window_extent().y1 < axes.get_window_extent().y0
            assert legend.get_window_extent().y0 >= 0
