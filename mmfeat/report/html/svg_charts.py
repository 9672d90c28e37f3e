"""Charts as SVG: lines, points, calibration, heat maps, and the small marks in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from mmfeat.report.html.rendering import count, figure, percent, plain
from mmfeat.report.html.svg_axes import Scale, line, picture, plane, rounded_range, text, titled

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT = 440, 280
SERIES = 6  # colours of the stylesheet
_NAME = 17  # characters of a name in a heat map
MOST_TITLES = 400  # points that say their name to a pointer; more are one shape


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart.

    Attributes
    ----------
    xs, ys : sequence of float
        Its points.
    series : int
        Its colour, from 1.
    marks : sequence of bool
        Whether each point is filled; empty: points are not drawn.
    dashed : bool
        Whether it is a guide in the background.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    series: int = 1
    marks: Sequence[bool] = ()
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart and its legend: label and series of each line; empty with one line."""

    svg: Markup
    legend: tuple[tuple[str, int], ...] = ()


def line_chart(
    lines: Sequence[Line],
    *,
    labels: tuple[str, str],
    about: str,
    y: tuple[float, float] | None = None,
    whole: bool = True,
    height: int = HEIGHT,
) -> Chart:
    """Lines on common axes, which fit their points or have the given ends; labels are those of x and y.

    `whole` labels only whole numbers of x, such as epochs.
    """
    xs = [x for one in lines for x in one.xs]
    ys = [v for one in lines for v in one.ys]
    ends = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    found = plane(WIDTH, height, x=ends, y=y or rounded_range(min(ys), max(ys)), labels=labels, whole=whole)
    parts = found.axes()
    for one in lines:
        look = "guide" if one.dashed else f"line s{one.series}"
        parts.append(f'<path class="{look}" d="{found.path(one.xs, one.ys)}"/>')
        for px, py, filled in zip(one.xs, one.ys, one.marks or (), strict=False):
            shape = f'<circle class="{"dot" if filled else "hollow"} s{one.series}" cx="{found.x.at(px):g}" cy="{found.y.at(py):g}" r="4"/>'
            parts.append(titled(shape, f"{one.label}: {figure(py)} at {px:g}"))
    named = dict.fromkeys((one.label, one.series) for one in lines if one.label and not one.dashed)
    return Chart(svg=picture(WIDTH, height, parts, about), legend=tuple(named) if len(named) > 1 else ())


def points_chart(
    xs: Sequence[float], ys: Sequence[float], titles: Sequence[str], *, labels: tuple[str, str], about: str
) -> Chart:
    """Points, with a logarithmic x axis from their least to their greatest value; y is from 0 to 1."""
    low, high = max(min(xs), 1), max(max(xs), 2)
    found = plane(WIDTH, HEIGHT, x=(low / 1.15, high * 1.15), y=(0, 1), labels=labels, log=True)
    at = [(found.x.at(x), found.y.at(v)) for x, v in zip(xs, ys, strict=True)]
    parts = found.axes()
    if len(at) > MOST_TITLES:
        dots = "".join(f"M{px:g} {py:g}h0" for px, py in at)
        parts.append(f'<path class="specks s1" d="{dots}"/>')
    else:
        dots = [f'<circle class="dot s1" cx="{px:g}" cy="{py:g}" r="5"/>' for px, py in at]
        parts += [titled(dot, words) for dot, words in zip(dots, titles, strict=True)]
    return Chart(svg=picture(WIDTH, HEIGHT, parts, about))


def calibration_chart(predicted: np.ndarray, positive: np.ndarray, n: np.ndarray, *, about: str) -> Chart:
    """The share of positives by predicted probability, with the number of labels of each bin below.

    Parameters
    ----------
    predicted, positive : np.ndarray
        `(B,)`: mean probability and share of positives of each bin.
    n : np.ndarray
        `(B,)`: labels in the bin; empty bins are not drawn.
    """
    labels = ("predicted probability", "share of positives")
    found = plane(WIDTH, HEIGHT + 40, x=(0, 1), y=(0, 1), labels=labels)
    parts = [*found.axes(), f'<path class="guide" d="{found.path([0, 1], [0, 1])}"/>']
    kept = np.flatnonzero(n)
    xs, ys = predicted[kept].tolist(), positive[kept].tolist()
    width = (found.x.end - found.x.start) / len(n)
    tallest = np.log10(1 + n.max())
    for k in kept.tolist():
        tall = 46 * float(np.log10(1 + n[k]) / tallest)
        left = found.x.start + k * width
        box = f'<rect class="fill faint s0" x="{left + 1:.1f}" y="{found.y.start - tall:.1f}" width="{width - 2:.1f}" height="{tall:.1f}"/>'
        parts.append(titled(box, f"{count(n[k])} labels"))
    parts.append(f'<path class="line s1" d="{found.path(xs, ys)}"/>')
    for x, v, k in zip(xs, ys, kept.tolist(), strict=True):
        dot = f'<circle class="dot s1" cx="{found.x.at(x):g}" cy="{found.y.at(v):g}" r="4"/>'
        parts.append(titled(dot, f"predicted {figure(x, 2)}, {percent(v)} of {count(n[k])} labels are positive"))
    return Chart(svg=picture(WIDTH, HEIGHT + 40, parts, about))


def small_curve(xs: Sequence[float], ys: Sequence[float], about: str) -> Markup:
    """A curve from 0 to 1 on both axes, without numbers: one of many."""
    x, y = Scale(low=0, high=1, start=4, end=116), Scale(low=0, high=1, start=76, end=4)
    at = [f"{x.at(px):g} {y.at(py):g}" for px, py in zip(xs, ys, strict=True)]
    curve = "M" + "L".join([f"4 {y.at(ys[0]):g}", *at])
    area = f"{curve}L{x.at(xs[-1]):g} 76L4 76Z"
    parts = [f'<path class="area s1" d="{area}"/>', line(4, 76, 116, 76, "axis"), line(4, 4, 4, 76, "axis")]
    return picture(120, 80, [*parts, f'<path class="line s1" d="{curve}"/>'], about, "chart small")


def heat_map(values: np.ndarray, names: Sequence[str], titles: Sequence[Sequence[str]], *, about: str) -> Markup:
    """Shares `(k, k)` in [0, 1] as cells, darker for more; NaN is blank. Rows and columns are named alike."""
    longest = max(len(plain(name, _NAME)) for name in names)
    cell, left, top = 24, 10 + 7 * longest, 16 + 6 * longest
    size = left + cell * len(names) + 4 * longest
    parts = []
    for k, name in enumerate(names):
        at = k * cell + cell / 2
        parts.append(text(left - 6, top + at + 4, plain(name, _NAME), "end", "label"))
        words = escape(plain(name, _NAME))
        turned = f"rotate(-50 {left + at + 3:g} {top - 6})"
        parts.append(f'<text class="label" transform="{turned}" x="{left + at + 3:g}" y="{top - 6}">{words}</text>')
    for row, column in np.argwhere(np.isfinite(values)).tolist():
        x, y, share = left + column * cell, top + row * cell, float(values[row, column])
        box = f'<rect class="cell" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill-opacity="{max(share**0.6, 0.03):.2f}"/>'
        parts.append(titled(box, titles[row][column]))
    return picture(size, top + cell * len(names) + 4, parts, about, natural=True)


def interval_mark(low: float, value: float, high: float, ends: tuple[float, float], *, series: int = 1) -> Markup:
    """A point with its interval, on an axis that all rows of a table share."""
    x = Scale(low=ends[0], high=ends[1], start=6, end=154)
    parts = [line(0, 9, 160, 9, "grid")]
    if high < ends[0]:
        parts.append(f'<path class="fill s{series}" d="M2 9L10 4V14Z"/>')  # far below
    else:
        parts.append(line(x.at(low), 9, x.at(high), 9, f"whisker s{series}"))
        parts.append(f'<circle class="dot s{series}" cx="{x.at(value):g}" cy="9" r="4.5"/>')
    about = f"{figure(value)}, from {figure(low)} to {figure(high)}"
    return picture(160, 18, parts, about, "chart interval")


def bar_mark(value: float) -> Markup:
    """A bar for a share in [0, 1]; a table has the number beside it."""
    from markupsafe import Markup

    wide = max(0.0, min(1.0, value)) * 72
    boxes = f'<rect width="72" height="8" rx="2"/><rect width="{wide:.1f}" height="8" rx="2"/>'
    return Markup(f'<svg class="bar" viewBox="0 0 72 8" aria-hidden="true">{boxes}</svg>')
