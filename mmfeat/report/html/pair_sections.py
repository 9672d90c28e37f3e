"""Sections of a report about pairs: labels that occur together, confusions, and modalities that disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.common.text import counted
from mmfeat.metrics.label_pairs import LabelPairs, confusions, together
from mmfeat.report.html.blocks import Block, Chart, Columns, Figure, Heading, PageTable, Section, Text
from mmfeat.report.html.rendering import percent
from mmfeat.report.html.svg_charts import heat_map
from mmfeat.report.table_layout import Cell, count, outside, table

HEAT, LISTED = 24, 40  # classes of a heat map, pairs of a table
_MOST_COMBINATIONS = 8


def pair_section(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Section:
    """Co-occurrence of given labels and confusions of predicted ones, `(n, K)` int8 each."""
    n_positive = (labels == 1).sum(0)
    pairs, mistakes = together(labels), confusions(labels, predicted)
    missed = ((labels == 1) & (predicted != 1)).sum(0)
    blocks: list[Block | None] = [
        *_pairs(pairs, n_positive, classes, symmetric=True, texts=_TOGETHER),
        *_pairs(mistakes, missed, classes, symmetric=False, texts=_CONFUSED),
    ]
    return Section.of("pairs", "Classes together and confused", blocks)


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """What a kind of pair is called. `cell` has places for the two classes, the count and the share."""

    title: str
    about: str
    none: str
    cell: str
    name: str
    head: tuple[str, str, str, str]


_TOGETHER = _Texts(
    title="Labels that occur together",
    about="A cell is the share of the rows with the class on the left that also have the class above.",
    none="No row has two labels.",
    cell="{a} and {b}: {n}, {share} of those with {a}",
    name="together",
    head=("class", "together with", "rows", "share of the rarer"),
)
_CONFUSED = _Texts(
    title="Confusions",
    about="A cell is the share of the rows where the class on the left was missed in which the class above was wrongly predicted.",
    none="No row has a missed and a wrongly predicted label.",
    cell="{b} instead of {a}: {n}, {share} of the rows where {a} was missed",
    name="confusions",
    head=("missed class", "wrongly predicted", "rows", "share of the missed"),
)


def _pairs(pairs: LabelPairs, of: np.ndarray, classes: Sequence[str], *, symmetric: bool, texts: _Texts) -> list[Block]:
    """A heat map of the classes of the most frequent pairs, and a table of the pairs; `of` `(K,)` is what shares are of."""
    if not len(pairs.n):
        return [Heading(text=texts.title), Text(text=texts.none)]
    chosen = pairs.leading_classes(HEAT)
    counts = pairs.matrix(chosen)
    counts = counts + counts.T if symmetric else counts
    shares = counts / np.maximum(of[chosen], 1)[:, None]
    shares[np.diag_indices(len(chosen))] = np.nan
    names = [classes[k] for k in chosen]
    titles = [
        [
            texts.cell.format(a=a, b=b, n=counted(int(n), "row"), share=percent(s))
            for b, n, s in zip(names, ns, ss, strict=True)
        ]
        for a, ns, ss in zip(names, counts, shares, strict=True)
    ]
    which = (
        f" Shown are {len(chosen)} of {len(classes):,} classes, those of the most frequent pairs."
        if len(chosen) < len(classes)
        else ""
    )
    chart = Chart(svg=heat_map(shares, names, titles, about=texts.title))
    first = pairs.top(LISTED)
    rows = []
    for a, b, n in zip(first.first.tolist(), first.second.tolist(), first.n.tolist(), strict=True):
        share = n / max(min(of[a], of[b]) if symmetric else of[a], 1)
        rows.append([outside(classes[a]), outside(classes[b]), count(n), Cell(percent(share), share)])
    caption = f"The {len(rows)} most frequent pairs of {len(pairs.n):,}" if len(rows) < len(pairs.n) else ""
    listed = table(texts.head, rows, left=2, title=texts.title)
    about = Figure(title=texts.title, text=f"{texts.about}{which}", chart=chart)
    return [Columns(parts=(about, PageTable(name=texts.name, table=listed, caption=caption, sortable=True)))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Unimodal:
    """The predictions of one encoder alone, `(n, K)` each.

    Attributes
    ----------
    known : np.ndarray
        `(n,)` bool: whether the row has the modality.
    """

    name: str
    probs: np.ndarray
    predicted: np.ndarray
    known: np.ndarray


def found_by_table(labels: np.ndarray, predicted: np.ndarray, alone: Sequence[Unimodal]) -> PageTable | None:
    """Which encoders find each positive label alone, and how many of these the run finds; None without such rows."""
    both = np.all([one.known for one in alone], axis=0)
    positive = labels[both] == 1
    if not positive.any():
        return None
    code = sum((one.predicted[both] == 1).astype(np.int64) << bit for bit, one in enumerate(alone))[positive]
    hit = (predicted[both] == 1)[positive]
    total, by_code = len(code), np.bincount(code, minlength=1 << len(alone))
    hits = np.bincount(code, hit, minlength=1 << len(alone))
    order = [c for c in np.argsort(-by_code, kind="stable").tolist() if by_code[c]][:_MOST_COMBINATIONS]
    rows = []
    for c in order:
        names = [one.name for bit, one in enumerate(alone) if c >> bit & 1]
        who = "all" if len(names) == len(alone) else f"only {' and '.join(names)}" if names else "none"
        n, share = int(by_code[c]), hits[c] / by_code[c]
        rows.append([who, count(n), Cell(percent(n / total), n / total), Cell(percent(share), float(share))])
    head = ["found by", "positive labels", "share", "of these the run finds"]
    caption = (
        f"{counted(total, 'positive label')} of {counted(int(both.sum()), 'row')} that all of these encoders can read"
    )
    return PageTable(name="modalities", table=table(head, rows, title="modalities"), caption=caption)
