"""Reads the answers of a review from any file: a table, the page's own file, or the export of another tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.errors import DataError, one_line
from mmfeat.common.json_shapes import ANYTHING, Shape, misfit
from mmfeat.data.manifest import Manifest
from mmfeat.data.review_answers import AnswerNames, Answers
from mmfeat.data.review_formats import ID, LABELS
from mmfeat.data.review_journal import read_journal
from mmfeat.data.review_table import read_answers
from mmfeat.data.tables.json_lines import json_of

_OTHERWISE = "remove it from the file"
_RESULT: Shape = {"?type": str, "?from_name": str, "?value": {"?choices": [str]}}
_ANNOTATION: Shape = {"result": [_RESULT], "?was_cancelled": (bool, None), "?ground_truth": (bool, None)}
_TASK: Shape = {"data": {str: ANYTHING}, "?annotations": [_ANNOTATION]}
_COCO: Shape = {
    "images": [{"id": (int, str), f"?{ID}": str, "?file_name": (str, None), "?reviewed": (bool, int, None)}],
    "categories": [{"id": (int, str), "name": str}],
    "annotations": [{"image_id": (int, str), "category_id": (int, str)}],
}


def read_review(file: Path, manifest: Manifest, *, separator: str) -> Answers:
    """The answers in a file: `.jsonl` of the page, `.json` of Label Studio or COCO, otherwise a table.

    Raises
    ------
    DataError
        The file cannot be read, or has an unknown id, a repeated id or an unknown class.
    """
    suffix = file.suffix.lower()
    if suffix not in (".json", ".jsonl"):
        return read_answers(file, manifest.ids, manifest.classes, separator=separator)
    if not file.is_file():
        raise DataError(f"{file}: no such file. Run: mmfeat review")
    names = AnswerNames(manifest.ids, manifest.classes, otherwise=_OTHERWISE)
    if suffix == ".jsonl":
        return read_journal(file, names)
    try:
        content = json_of(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON that can be read: {one_line(error)}. Export it again") from None
    if isinstance(content, list):
        return _label_studio(file, content, names)
    if isinstance(content, dict) and "images" in content:
        return _coco(file, content, names, manifest=manifest)
    kinds = "a list of tasks of Label Studio, or an object with images, categories and annotations of COCO"
    raise DataError(f"{file}: is neither {kinds}. Export it as one of these")


def _label_studio(file: Path, tasks: list[Any], names: AnswerNames) -> Answers:
    given, n_blank = {}, 0
    for number, task in enumerate(tasks, start=1):
        where, place = f"{file}: task {number}", f"task {number}"
        if isinstance(task, dict) and "data" not in task and ID in task:
            raise DataError(f"{where}: has no data, as in an export as JSON-MIN. Export it as JSON")
        if why := misfit(task, _TASK):
            raise DataError(f"{where}: {why}. Export it from Label Studio as JSON")
        if not isinstance(task["data"].get(ID), str):
            raise DataError(
                f"{where}: its data has no {ID!r}, by which mmfeat finds the row. Import tasks of mmfeat review"
            )
        found = [one for one in task.get("annotations", []) if not one.get("was_cancelled")]
        found = [one for one in found if one.get("ground_truth")] or found
        if not found:
            n_blank += 1
            continue
        sample = names.sample(where, place, task["data"][ID])
        answers = [names.labels(where, sample, _choices(one["result"])) for one in found]
        if any(answer != answers[0] for answer in answers):
            raise DataError(
                f"{where}: its {len(answers)} annotations differ: {' | '.join(', '.join(a) or '-' for a in answers)}. "
                f"Mark one as ground truth in Label Studio, or remove the others"
            )
        given[sample] = answers[0]
    return Answers(given=given, n_blank=n_blank)


def _choices(results: list[dict[str, Any]]) -> list[str]:
    """The chosen names; no result of the control means that no class applies."""
    own = [one for one in results if one.get("from_name", LABELS) == LABELS and one.get("type", "choices") == "choices"]
    return [name for one in own for name in one.get("value", {}).get("choices", [])]


def _coco(file: Path, content: dict[str, Any], names: AnswerNames, *, manifest: Manifest) -> Answers:
    if why := misfit(content, _COCO):
        raise DataError(f"{file}: {why}. Export it as COCO again")
    categories = {one["id"]: one["name"] for one in content["categories"]}
    labels: dict[Any, list[str]] = {one["id"]: [] for one in content["images"]}
    for number, one in enumerate(content["annotations"], start=1):
        if one["category_id"] not in categories:
            raise DataError(f"{file}: annotation {number}: no category {one['category_id']!r} in the file. Correct it")
        if one["image_id"] not in labels:
            raise DataError(f"{file}: annotation {number}: no image {one['image_id']!r} in the file. Correct it")
        labels[one["image_id"]].append(categories[one["category_id"]])
    answered = [(number, one) for number, one in enumerate(content["images"], start=1) if one.get("reviewed", True)]
    own_ids = _ids_by_file(manifest.images, manifest.ids) if any(ID not in one for _, one in answered) else {}
    given = {}
    for number, image in answered:
        where, place = f"{file}: image {number}", f"image {number}"
        name = image.get("file_name") or ""
        sample = image.get(ID) or own_ids.get(name) or own_ids.get(_last(name))
        if sample is None:
            raise DataError(
                f"{where}: has no {ID!r}, and its file_name is not that of exactly one row. Give it one of them, or {_OTHERWISE}"
            )
        found = names.sample(where, place, sample)
        given[found] = names.labels(where, found, labels[image["id"]])
    return Answers(given=given, n_blank=len(content["images"]) - len(answered))


def _ids_by_file(images: Sequence[str], ids: Sequence[str]) -> dict[str, str | None]:
    """The id of each image by its path in the source and by its last part; None for one that several rows have."""
    found: dict[str, str | None] = {}
    for image, sample in zip(images, ids, strict=True):
        for name in dict.fromkeys((image, _last(image))):
            found[name] = None if name in found else sample
    return found | {"": None}


def _last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
