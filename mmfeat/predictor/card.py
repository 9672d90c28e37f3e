"""The model card of an exported model, generated from the record of its run."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmfeat.common.text import counted, shown
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

- trained on {training}; its epochs, rounds or members were selected on {selection}, which it was not trained on{transductive}
- shares of the labelled rows: val {val:g}, test {test:g}; stratified, identical images together
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
    return (
        f"{mb:,.1f} MB, {'over' if mb > limit else 'within'} the limit of {limit:g} MB." if limit else f"{mb:,.1f} MB."
    )


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
    transductive = "; its unlabelled rows took part in training without labels (transductive)"
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
        training=counted(run["n_trained"], "row"),
        selection=counted(run["n_chosen"], "other row"),
        transductive=transductive if run["transductive"] else "",
        **run["split"],
        metrics=_metrics(record),
    )


def _architecture(record: dict[str, Any]) -> str:
    lines = [
        f"- encoder {_code(name)}: {_code(encoder['about']['model'])}, {encoder['width']}-d, "
        f"{'fine-tuned' if encoder['about']['finetuned'] else 'frozen'}, weights kept in {record['dtype']}"
        for name, encoder in record["encoders"].items()
    ]
    if record["runtime"] == "onnx":
        lines.append("- run by onnxruntime: `pip install 'mmfeat[onnx]'`")
    for name, part in record["model"]["parts"].items():
        if part["kind"] == "head":
            inputs = " and ".join(_code(encoder) for encoder in part["widths"])
            lines.append(f"- head {_code(name)}: {part['head']} on {inputs}, mean of {counted(part['seeds'], 'seed')}")
        else:
            lines.append(f"- linear probe of encoder {_code(name)}")
    return "\n".join(lines)


def _metrics(record: dict[str, Any]) -> str:
    metrics, seeds = record["run"]["figures"], record["run"]["figures_of_seeds"]
    if not metrics:
        return "None: there were no validation rows."
    low, high = metrics["samples_f1_interval"]
    text = [
        f"On {counted(metrics['n_samples'], 'validation row')}, on which epochs and runs were selected too:",
        "",
        "| samples-F1 (95 % bootstrap interval) | micro-F1 | macro-F1 | mAP | subset accuracy |",
        "|---|---|---|---|---|",
        f"| {metrics['samples_f1']:.3f} ({low:.3f} to {high:.3f}) | {metrics['micro_f1']:.3f} | {metrics['macro_f1']:.3f} "
        f"| {metrics['map']:.3f} | {metrics['label_set_accuracy']:.3f} |",
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


def _code(text: str) -> str:
    """Untrusted text as inline code, so that it cannot form tables or links."""
    return "`" + shown(text, 80).replace("`", "'").replace("|", "¦") + "`"
