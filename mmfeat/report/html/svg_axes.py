"""Axes of charts as SVG: scales, ticks, grid and labels. Colours and fonts are those of the stylesheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from mmfeat.report.html.rendering import plain

if TYPE_CHECKING:
    from markupsafe import Markup

_TICKS = 5  # about so many on an axis


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From values to pixels.

    Attributes
    ----------
    low, high : float
        Values at both ends.
    start, end : float
        Their pixels; on a vertical axis `start` is below `end`.
    log, whole : bool
        Whether the axis is logarithmic, and whether only whole numbers are labelled.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values outside are moved to the end."""
        low, high, value = (math.log10(max(v, 1e-9)) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Values to label, with their texts."""
        if self.log:
            return _powers(self.low, self.high)
        step = nice_step(self.high - self.low)
        step = max(1.0, math.ceil(step)) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        values = [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(value, f"{value:,.{digits}f}") for value in values]


def nice_step(span: float) -> float:
    """A round distance between the ticks of an axis."""
    rough = max(span, 1e-9) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough - 1e-12)


def _powers(low: float, high: float) -> list[tuple[float, str]]:
    decades = range(math.floor(math.log10(max(low, 1e-9))), math.ceil(math.log10(max(high, 1e-9))) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    values = [step * 10.0**power for power in decades for step in steps]
    return [(value, f"{value:,.0f}" if value >= 1 else f"{value:g}") for value in values if low <= value <= high]


def rounded_range(
    low: float, high: float, *, floor: float | None = None, top: float | None = None
) -> tuple[float, float]:
    """Round ends of an axis around values, within limits."""
    step = nice_step(max(high - low, 1e-6))
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    high = high if high > low else low + step
    return (low if floor is None else max(low, floor)), (high if top is None else min(high, top))


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Two axes.

    Attributes
    ----------
    x_label, y_label : str
        Their titles.
    """

    x: Scale
    y: Scale
    x_label: str
    y_label: str

    def axes(self) -> list[str]:
        """Grid, ticks and titles."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        parts = [text(left - 34, top - 12, self.y_label, "start")]
        for value, words in self.y.ticks():
            at = self.y.at(value)
            parts += [line(left, at, right, at, "grid"), text(left - 6, at + 4, words, "end")]
        for value, words in self.x.ticks():
            at = self.x.at(value)
            parts += [line(at, bottom, at, bottom + 4, "axis"), text(at, bottom + 17, words, "middle")]
        parts += [line(left, bottom, right, bottom, "axis"), text(right, bottom + 33, self.x_label, "end")]
        return parts

    def path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """The data of a path through points."""
        return "M" + "L".join(f"{self.x.at(x):g} {self.y.at(y):g}" for x, y in zip(xs, ys, strict=True))


def plane(
    width: float,
    height: float,
    *,
    x: tuple[float, float],
    y: tuple[float, float],
    labels: tuple[str, str],
    log: bool = False,
    whole: bool = False,
) -> Plane:
    """Axes in a picture of this size, from the ends of both axes."""
    return Plane(
        x=Scale(low=x[0], high=x[1], start=42, end=width - 10, log=log, whole=whole),
        y=Scale(low=y[0], high=y[1], start=height - 40, end=28),
        x_label=labels[0],
        y_label=labels[1],
    )


def line(x1: float, y1: float, x2: float, y2: float, look: str) -> str:
    """A straight line."""
    return f'<path class="{look}" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>'


def text(x: float, y: float, words: str, anchor: str, look: str = "") -> str:
    """Words at a place; `anchor` is start, middle or end."""
    kind = f' class="{look}"' if look else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escape(plain(words))}</text>'


def titled(shape: str, words: str) -> str:
    """A shape that shows words when a pointer is on it; `shape` is an element without content."""
    return f"{shape[:-2]}><title>{escape(plain(words))}</title></{shape[1 : shape.index(' ')]}>"


def picture(
    width: float, height: float, parts: Sequence[str], about: str, look: str = "chart", *, natural: bool = False
) -> Markup:
    """An SVG element; `natural` keeps it from growing beyond its size.

    `about` is read out in place of it; `parts` are elements made here, whose texts are escaped.
    """
    from markupsafe import Markup

    head = f'<svg class="{look}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(plain(about))}"'
    head += f' style="max-width:{width:g}px">' if natural else ">"
    return Markup(head + "".join(parts) + "</svg>")
