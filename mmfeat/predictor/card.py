"""The model card of an exported model, generated from the record of its run."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmfeat.common.text import counted, megabytes, shown
from mmfeat.encoders.kinds import modality_kind

WEAKEST = 5

_CARD = """\
---
license: other  # fill in: of the weights, and of the data they were fitted on
library_name: mmfeat
tags: [multi-label-classification]
---

# {name}

Multi-label model of {counted_classes} on {reads}. {size}

    from mmfeat import Predictor

    model = Predictor.load("DIR")
    model.predict("photo.jpg", "a caption").labels

or `mmfeat predict new.csv --images photos/ --model DIR`, or `mmfeat serve DIR`.

## Architecture

{architecture}

A label is predicted if its probability is above {threshold}; without any such label, {empty}.{fitted} Classes, in the order of the probabilities: {classes}.

## Data and split

{training}
- {split}
- source, licence and consent of the data: fill in

## Metrics

{metrics}

## Limits

Fill in: what it is for, what it is not for, whom a mistake would hurt.

## Licence

- of the encoders' pretrained weights: fill in
- of this model: fill in
"""


def limit_text(mb: float, limit: float) -> str:
    """A sentence that compares a size with `limit_mb` of mmfeat.toml, which is 0 without a limit."""
    if not limit:
        return f"{mb:,.1f} MB."
    by = megabytes(abs(mb - limit))
    return f"{mb:,.1f} MB, {'over' if mb > limit else 'within'} the limit of {limit:g} MB by {by}."


def model_card(record: dict[str, Any], mb: float) -> str:
    """Markdown of an exported model's README.

    Parameters
    ----------
    record : dict
        The content of mmfeat.json.
    """
    run, rule = record["run"], record["predict"]
    modalities = {encoder["modality"] for encoder in record["encoders"].values()}
    reads = " and ".join(kind.reads for kind in map(modality_kind, sorted(modalities)))
    threshold = f"{rule['threshold']:g}" if isinstance(rule["threshold"], int | float) else "its class's threshold"
    if rule.get("temperature", 1.0) != 1.0:
        threshold += f" (probabilities are those of logits over {rule['temperature']:.4g}, the temperature)"
    fitted = (
        f" This was {rule['fitted']}; the metrics below are cross-fitted on these rows." if rule.get("fitted") else ""
    )
    return _CARD.format(
        name=shown(run["name"]),
        counted_classes=counted(len(record["classes"]), "class", "classes"),
        reads=reads,
        size=limit_text(mb, record.get("limit_mb", 0)),
        architecture=_architecture(record),
        threshold=threshold,
        fitted=fitted,
        empty="the most probable class is predicted" if rule["empty"] == "most-probable" else "none is predicted",
        classes=", ".join(_code(name) for name in record["classes"]),
        split=_split(run["split"]),
        training=training_section(run["lineage"]),
        metrics=_metrics(record),
    )


def _split(settings: dict[str, Any]) -> str:
    """Where the rows of val and test come from."""
    files = [shown(settings[name]) for name in ("train_ids", "val_ids", "test_ids") if settings.get(name)]
    if files:
        return f"split by files of ids: {', '.join(files)}"
    if column := settings.get("column"):
        return f"split by column {_code(column)} of the source"
    return f"shares of the labelled rows: val {settings['val']:g}, test {settings['test']:g}; stratified, identical images together"


def _architecture(record: dict[str, Any]) -> str:
    lines = [
        f"- encoder {_code(name)}: {_code(encoder['about']['model'])}, {encoder['width']}-d, "
        f"{'fine-tuned' if encoder['about']['finetuned'] else 'frozen'}, weights kept in {record['dtype']}"
        for name, encoder in record["encoders"].items()
    ]
    if record["runtime"] == "onnx":
        lines.append("- run by onnxruntime: `pip install 'mmfeat[onnx]'`")
    trained = {part["name"]: part for part in record["run"]["lineage"]["parts"]}
    used, dtype = _leaves(record["model"]["tree"]), record.get("heads_dtype", record["dtype"])
    dtype = "" if dtype == record["dtype"] else f", weights kept in {dtype}"
    for name, part in record["model"]["parts"].items():
        if part["kind"] == "head":
            inputs = " and ".join(_code(encoder) for encoder in part["widths"])
            lines.append(f"- head {_code(name)}: {part['head']} on {inputs}, {_mean_of(trained[name])}{dtype}")
        else:
            alone = "" if name in used else ", only for the unimodal predictions"
            lines.append(f"- linear probe of encoder {_code(name)}{alone}")
    return "\n".join(lines)


def _leaves(tree: str | dict[str, Any]) -> set[str]:
    """The parts that a model's logits are computed from."""
    return {tree} if isinstance(tree, str) else set().union(*map(_leaves, tree["members"]))


def _mean_of(part: dict[str, Any]) -> str:
    """What a head's logits are the mean of."""
    seeds = counted(part["seeds"], "seed")
    if not part["folds"]:
        return f"mean of {seeds}" if part["seeds"] > 1 else seeds
    return f"mean of {part['seeds'] * part['folds']} heads ({seeds} x {part['folds']} folds)"


def _metrics(record: dict[str, Any]) -> str:
    metrics, seeds = record["run"]["figures"], record["run"]["figures_of_seeds"]
    if not metrics:
        return "None: there were no validation rows."
    text = [
        f"On {counted(metrics['n_samples'], 'validation row')}{_about_rows(record['run']['lineage'], metrics['n_samples'])}",
        "",
        "| samples-F1 (95 % interval) | micro-F1 | macro-F1 | mAP (95 % interval) | subset accuracy |",
        "|---|---|---|---|---|",
        f"| {_with_interval(metrics, 'samples_f1')} | {metrics['micro_f1']:.3f} | {metrics['macro_f1']:.3f} "
        f"| {_with_interval(metrics, 'map')} | {metrics['label_set_accuracy']:.3f} |",
        "",
    ]
    if len(seeds) > 1:
        values = [seed["samples_f1"] for seed in seeds]
        text.append(
            f"Single seeds: samples-F1 {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} (standard deviation over {len(seeds)} seeds).\n"
        )
    if metrics["n_classes_left_out"]:
        left_out = counted(metrics["n_classes_left_out"], "class", "classes")
        text.append(f"{left_out} without a positive among these rows: left out of macro-F1 and mAP.\n")
    f1, positives = np.array(metrics["class_f1"], dtype=float), np.array(metrics["n_positives"])
    kept = np.flatnonzero(positives > 0)
    weakest = kept[np.argsort(f1[kept], kind="stable")][:WEAKEST]
    text += ["Weakest classes:", "", "| class | F1 | validation rows with it |", "|---|---|---|"]
    text += [f"| {_code(record['classes'][k])} | {f1[k]:.3f} | {positives[k]:,} |" for k in weakest]
    if isinstance(record["predict"]["threshold"], list):
        text += ["", "Thresholds:", "", "| class | threshold |", "|---|---|"]
        pairs = zip(record["classes"], record["predict"]["threshold"], strict=True)
        text += [f"| {_code(name)} | {value:.4f} |" for name, value in pairs]
    return "\n".join(text)


def _with_interval(metrics: dict[str, Any], name: str) -> str:
    """A metric with its recorded interval; earlier versions recorded none of mAP."""
    low, high = metrics.get(f"{name}_interval") or (None, None)
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{metrics[name]:.3f}{interval}"


def training_section(lineage: dict[str, Any]) -> str:
    """The lines of a card about the rows that a model and its parts were trained and selected on."""
    rows, parts = lineage["rows"], lineage["parts"]
    lines = [f"- rows of the project: {', '.join(f'{n:,} {which}' for which, n in rows.items() if n)}"]
    pseudo = f" and on {counted(lineage['n_pseudo'], 'unlabelled row')} with pseudo-labels (transductive)"
    trained = f"- trained on {counted(lineage['n_labelled'], 'labelled row')}{pseudo if lineage['n_pseudo'] else ''}"
    lines.append(f"{trained}, each counted once")
    if lineage["n_selection"]:
        both = lineage["n_selection_trained"]
        other = f"{both:,} of which another part was trained on" if both else "which no part was trained on"
        lines.append(f"- selected on {counted(lineage['n_selection'], 'labelled row')}, {other}")
    lines += ["", "| part | trained on | selected on |", "|---|---|---|"]
    lines += [f"| {' | '.join(part_texts({**part, 'name': _code(part['name'])}))} |" for part in parts]
    return "\n".join([*lines, ""])


def part_texts(part: dict[str, Any]) -> tuple[str, str, str]:
    """A part of a lineage in words: what it is, the rows that it was trained on, and what was selected on which rows."""
    return _TITLES[part["kind"]].format(part["name"]), _trained(part), _selected(part)


_TITLES = {
    "head": "head {}",
    "selftrain": "head {}, self-trained",
    "probe": "linear probe of {}",
    "encoder": "encoder {}, fine-tuned",
    "encoder and probe": "encoder {}, fine-tuned, and its linear probe",
    "weights": "weights of {}",
}


def _trained(part: dict[str, Any]) -> str:
    if part["kind"] == "weights":
        return "-"
    text = counted(part["n_labelled"], "labelled row")
    if part["folds"]:
        return f"{text} in {part['folds']} folds, each head without one"
    if part["n_partly"]:
        text += f", {part['n_partly']:,} of them with pseudo-labels where labels are unknown"
    if not part["n_pseudo"]:
        return text
    of_round = f" of round {part['round']}" if part["round"] else ""
    policy = f", by policy {part['policy']}" if part.get("policy") else ""
    return f"{text} and {counted(part['n_pseudo'], 'row')} with pseudo-labels{of_round}{policy}"


def _selected(part: dict[str, Any]) -> str:
    if part["folds"]:
        return "epochs: rows of the other folds"
    if not part["n_selection"]:
        return "no row: the last epoch was taken"
    rows = counted(part["n_selection"], "row")
    if part["kind"] == "weights":
        return f"weights: fitted on {rows}"
    return f"{'epochs and rounds' if part['kind'] == 'selftrain' else 'epochs'}: {rows}"


def _about_rows(lineage: dict[str, Any], n_rows: int) -> str:
    """How the validation rows took part in training and selection: the end of a sentence, and further sentences."""
    val, parts = lineage["val"], lineage["parts"]
    if val["n_rows"] != n_rows:
        return " of the split at the time of training."
    kinds = {part["kind"] for part in parts if not part["folds"] and part["n_selection"]}
    chosen = [what for what, of in _SELECTED.items() if kinds & of]
    what = " and ".join(filter(None, [", ".join(chosen[:-1]), *chosen[-1:]])) or "Epochs"
    notes = [
        (val["n_trained"], "In-sample: a part was trained on {}."),
        (val["n_selected"], f"{what[0].upper()}{what[1:]} were selected on {{}}."),
        (
            val["n_out_of_fold"],
            "Out of fold: {} are scored by heads that were not trained on the row; the exported model averages all heads.",
        ),
        (
            val["n_weighted"],
            "The ensemble's weights are cross-fitted: each row is scored by weights fitted on other rows.",
        ),
    ]
    found = [text.format("all of them" if n == n_rows else f"{n:,} of them") for n, text in notes if n]
    return ". " + " ".join(found or ["Nothing was trained or selected on them."])


_SELECTED = {  # what is selected on validation rows, and for which parts
    "epochs": {"head", "selftrain", "probe", "encoder", "encoder and probe"},
    "rounds": {"selftrain"},
    "weights": {"weights"},
}


def _code(text: str) -> str:
    """Untrusted text as inline code, so that it cannot form tables or links."""
    return "`" + shown(text, 80).replace("`", "'").replace("|", "¦") + "`"
