"""The summary of a data set by `mmfeat init`, and of applied labels by `mmfeat review --apply`."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmfeat.common.labels import has_label, positive_cells
from mmfeat.common.text import counted, quoted, shown, toml_value
from mmfeat.config.schema import Config
from mmfeat.data.corrections import Corrected
from mmfeat.data.difference import Difference
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.manifest import Manifest
from mmfeat.data.review_answers import Answers
from mmfeat.data.row_keys import RowKeys
from mmfeat.data.tables.columns import as_list
from mmfeat.data.tables.readers import Source


def summary(
    manifest: Manifest, source: Source, row_keys: RowKeys, *, images: ImageSources, config: Config, split: str
) -> str:
    """Rows, classes, labels a row, captions, images and split, in a few lines.

    Parameters
    ----------
    split : str
        Where the split comes from, if the data bring it.
    """
    labelled = has_label(manifest.labels)
    positive_rows, columns = positive_cells(manifest.labels)
    counts = np.bincount(columns, minlength=len(manifest.classes))
    most, least = int(counts.argmax()), len(counts) - 1 - int(counts[::-1].argmin())
    mean = len(positive_rows) / labelled.sum()
    lines = [_kind(source, images)]
    nothing = int((~manifest.labels.any(1)).sum())  # every label is an explicit negative
    rows = f"{labelled.sum():,} labelled{f' ({nothing:,} without a positive)' if nothing else ''}, {(~labelled).sum():,} unlabelled"
    lines.append(_line("rows", manifest.n_samples, rows))
    names = manifest.classes
    span = f"from {counted(counts[most], 'row')} ({shown(repr(names[most]))}) down to {counts[least]:,} ({shown(repr(names[least]))})"
    lines.append(_line("classes", len(names), f"{span}; {mean:.2f} labels per labelled row"))
    lines += [*_about_labels(manifest, source, config), *source.hints]
    if source.columns["caption"]:
        captions = manifest.captions
        blank = sum(not caption.strip() for caption in captions)
        repeated = len(captions) - blank - len({c for c in captions if c.strip()})
        recovered = (
            f"; {counted(source.n_recovered, 'broken CSV record')} recovered (listed in init.log)"
            if source.n_recovered
            else ""
        )
        if source.n_damaged:
            recovered += f"; {source.n_damaged} with bytes that are not UTF-8 (listed in init.log)"
        lines.append(_line("captions", len(captions) - blank, f"{blank:,} empty, {repeated:,} repeated{recovered}"))
    if images.containers:
        present = row_keys.present
        n_files = _distinct(row_keys.keys[present])
        same, copies = int(present.sum()) - n_files, n_files - _distinct(row_keys.pixels[present])
        missing, blank = len(row_keys.reasons), int((manifest.images == "").sum())
        text = f"{missing:,} missing{' (listed in init.log)' if missing else ''}, {counted(same, 'exact copy', 'exact copies')}"
        text += f", {counted(copies, 'copy', 'copies')} with other metadata"
        text += " (listed in init.log)" if same or copies else ""
        lines.append(_line("images", int(present.sum()), text + (f", {counted(blank, 'blank cell')}" if blank else "")))
    if not source.columns["id"]:
        lines.append("  ids       computed from the captions. To use a column, set id under [data] in mmfeat.toml")
    parts = [f"{len(manifest.rows(name)):,} {name}" for name in ("train", "val", "test") if len(manifest.rows(name))]
    lines.append(f"  split     {', '.join(parts)}: {split or _by_shares(config)}")
    return "\n".join(lines)


def _by_shares(config: Config) -> str:
    together = "identical images together" + (", groups too" if config.data.group else "")
    return f"stratified, {together}, seed {config.seed}"


def _distinct(digests: np.ndarray) -> int:
    """Number of distinct rows of an array `(N, bytes)` uint8."""
    return len(np.unique(np.ascontiguousarray(digests).view(f"V{digests.shape[1]}")))


def _kind(source: Source, images: ImageSources) -> str:
    suffixes = [c.suffix.lower()[1:] for c in images.containers if c.is_file()]
    n_folders = len(images.containers) - len(suffixes)
    parts = [counted(suffixes.count(kind), f"{kind} file") for kind in ("zip", "tar") if kind in suffixes]
    parts += [counted(n_folders, "folder")] if n_folders else []
    where = " and ".join(parts) + (", read in place" if suffixes else "")
    found = ", ".join(f"{role} = {_names(as_list(names))}" for role, names in source.columns.items() if names)
    return (
        f"{source.kind}; images in {where}\n  columns   {found}"
        if images.containers
        else f"{source.kind}; no images\n  columns   {found}"
    )


def _names(columns: list[str]) -> str:
    more = f" and {len(columns) - 4} more" if len(columns) > 4 else ""
    return " + ".join(shown(repr(name), 30) for name in columns[:4]) + more


def _about_labels(manifest: Manifest, source: Source, config: Config) -> list[str]:
    """How labels were read from cells, if they could be read in another way."""
    separator, classes = config.data.separator, manifest.classes
    if source.indicators is not None:
        known = (manifest.labels[has_label(manifest.labels)] >= 0).mean()
        blank = (
            f"unknown, since there are explicit negatives: {known:.0%} of the labelled rows' labels are known"
            if source.absent == "unknown"
            else "negative; a row of blanks is unlabelled"
        )
        return [f"  labels    from columns of 0, 1 and blank; blank is {blank}"]
    if source.splits_cells:
        several = any(labels and len(labels) > 1 for labels in source.labels)
        if separator != " ":
            return [f"  labels    are separated by {separator!r}"]
        if several and any(not name.lstrip("-").isdecimal() for name in classes):
            return [
                "  labels    are separated by spaces; if they contain spaces, set another separator under [data] in mmfeat.toml"
            ]
        if not several and set(classes) <= {"0", "1", "0.0", "1.0", "true", "false", "True", "False"}:
            name = toml_value(str(source.columns["labels"]))
            return [
                f"  labels    are the names {' and '.join(map(repr, classes))}; if they mean negative and positive: labels = [{name}]"
            ]
    elif any(separator in name for name in classes):
        return [f"  labels    contain {separator!r}; for predictions set another separator under [data]"]
    return []


def _line(name: str, count: int, text: str) -> str:
    return f"  {name:8}{count:8,}   {text}"


def about_one_class(config: Config, n_classes: int) -> list[str]:
    """The effect of the rule for empty rows on a single class. Empty if there are several."""
    if n_classes != 1:
        return []
    if config.predict.empty == "none":
        return [
            '  One class: a row whose probability does not pass the threshold gets no label (empty = "none" under [predict])'
        ]
    return [
        '  One class and empty = "most-probable": every row is predicted positive, and F1 is the same for every '
        'model. Set empty = "none" under [predict] in mmfeat.toml, and run again'
    ]


def warn_of_one_class(config: Config, n_classes: int) -> str:
    """The warning of :func:`about_one_class`. Empty if the rule for empty rows is right."""
    lines = about_one_class(config, n_classes) if config.predict.empty != "none" else []
    return lines[0].strip() if lines else ""


def about_corrections(found: Corrected, classes: Sequence[str]) -> list[str]:
    """The number of corrected rows, and the classes that appear or vanish with the corrections: they may be typing errors."""
    if not found.n_rows:
        return []
    lines = [_line("by hand", found.n_rows, f"in corrections.csv, {found.n_differ:,} of them differ from the source")]
    for name in found.new:
        near = difflib.get_close_matches(name, classes, 1)
        nearest = f" (nearest: {quoted(near[0])})" if near else ""
        lines.append(f"  class {quoted(name)} is only in corrections.csv, in no row of the source{nearest}")
    lines += [f"  class {quoted(name)} is gone: after corrections.csv, no row has it" for name in found.gone]
    return lines


def about_changes(change: Difference) -> list[str]:
    """The difference from the previous manifest in numbers, with a few ids each. Empty if there is none."""
    parts = (
        ("new", "row", "rows", change.new),
        ("gone", "row", "rows", change.gone),
        ("changed", "image name", "image names", list(change.images)),
        ("changed", "caption", "captions", list(change.captions)),
        ("changed", "row's labels", "rows' labels", list(change.labels)),
        ("new", "class", "classes", change.new_classes),
        ("gone", "class", "classes", change.gone_classes),
    )
    lines = [
        _line(how, len(names), f"{one if len(names) == 1 else many}: {_few(names)}")
        for how, one, many, names in parts
        if names
    ]
    lines += ["  The order of the classes has changed"] if change.reordered else []
    return ["Since the previous manifest (all of it in init.log):", *lines] if lines else []


def _few(names: Sequence[str], n: int = 3) -> str:
    return ", ".join(map(quoted, names[:n])) + (" ..." if len(names) > n else "")


def about_answers(answers: Answers, before: Manifest, after: Manifest, *, change: Difference) -> list[str]:
    """The effect of a person's labels: newly labelled rows and their splits, changed labels, unchanged labels."""
    labelled = dict(zip(before.ids.tolist(), has_label(before.labels).tolist(), strict=True))
    split = dict(zip(after.ids.tolist(), after.split.tolist(), strict=True))
    new = [sample for sample in answers.given if not labelled[sample]]
    other = [sample for sample in answers.given if labelled[sample] and sample in change.labels]
    counts = Counter(split[sample] for sample in new if sample in split)
    where = ", ".join(f"{counts[name]:,} {name}" for name in ("train", "val", "test") if counts[name])
    parts = (
        ("labelled", len(new), f"were unlabelled, are now {where}: {_few(new)}"),
        ("changed", len(other), f"had other labels: {_few(other)}"),
        ("same", len(answers.given) - len(new) - len(other), "had the same labels before"),
        ("blank", answers.n_blank, "not filled in"),
    )
    lines = [_line(name, n, text) for name, n, text in parts if n]
    return lines + [f"  class {quoted(name)} is gone: no row has it now" for name in change.gone_classes]
