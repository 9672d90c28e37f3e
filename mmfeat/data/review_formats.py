"""Reviews in the formats of other tools: Label Studio's tasks and COCO's JSON, out and back in.

Both hold the id of each row as `mmfeat_id`, by which answers find their row.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from mmfeat.common.errors import DataError
from mmfeat.common.text import quoted
from mmfeat.data.review_items import ReviewItem

ID = "mmfeat_id"
LABELS = "labels"  # the control of the labels in Label Studio
CSV, LABEL_STUDIO, COCO = "csv", "label-studio", "coco"
FORMATS = (CSV, LABEL_STUDIO, COCO)
_MOST_BUTTONS = 60  # classes; more are a list to search in
_BLANK = "data:image/gif;base64,R0lGODlhAQABAAAAACw="  # of a row without a picture: Label Studio requires one
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def label_studio_tasks(items: Sequence[ReviewItem], thumbnails: Sequence[bytes | None], *, run: str) -> str:
    """Tasks with predictions as JSON, for a project with the configuration of :func:`label_studio_config`."""
    pictured, tasks = any(item.image for item in items), []
    for item, thumbnail in zip(items, thumbnails, strict=True):
        data: dict[str, Any] = {ID: item.id, "caption": item.caption, "split": item.split, "why": item.why}
        data["given"] = "" if item.given is None else ", ".join(item.given)
        if pictured:
            data |= {"image": _BLANK if thumbnail is None else _data_url(thumbnail), "image_path": item.image}
        task: dict[str, Any] = {"data": data}
        if item.proposed is not None:
            chosen = {"from_name": LABELS, "to_name": _shown_in(pictured), "type": "choices"}
            result = [{"id": "mmfeat", **chosen, "value": {"choices": list(item.proposed)}}] if item.proposed else []
            score = min((item.probabilities.get(name, 1.0) for name in item.proposed), default=0.0)
            task["predictions"] = [{"model_version": run, "score": round(score, 4), "result": result}]
        tasks.append(task)
    return _text(tasks)


def label_studio_config(classes: Sequence[str], *, pictured: bool) -> str:
    """The labeling configuration: the picture, the caption, and a choice for each class.

    Raises
    ------
    DataError
        The name of a class has a character that XML cannot contain.
    """
    for name in classes:
        if _NOT_XML.search(name):
            raise DataError(
                f"class {quoted(name)}: has a control character, which Label Studio's configuration cannot hold"
            )
    layout = ' layout="select"' if len(classes) > _MOST_BUTTONS else ' showInline="true"'
    whitespace = {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"}
    return "\n".join(
        [
            "<View>",
            *(['  <Image name="image" value="$image" zoom="true"/>'] if pictured else []),
            '  <Text name="caption" value="$caption"/>',
            f'  <Choices name="{LABELS}" toName="{_shown_in(pictured)}" choice="multiple"{layout}>',
            *(f"    <Choice value={quoteattr(name, whitespace)}/>" for name in classes),
            "  </Choices>",
            '  <Text name="why" value="$why"/>',
            "</View>",
            "",
        ]
    )


def coco_review(
    items: Sequence[ReviewItem], classes: Sequence[str], *, names: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> str:
    """Images, categories, and the proposed labels as annotations without boxes, as JSON.

    `names` are those of the images in the source, `sizes` their width and height, 0 where they are unknown.

    Each image has `reviewed` = false: an image counts as answered if a tool or a person sets it to true, or leaves it out.
    """
    number = {name: k + 1 for k, name in enumerate(classes)}
    images, annotations = [], []
    for at, (item, name, (width, height)) in enumerate(zip(items, names, sizes, strict=True), start=1):
        image = {"id": at, "file_name": name, "width": width, "height": height, ID: item.id}
        image["caption"] = item.caption
        images.append({**image, "reviewed": False, "why": item.why})
        for name in item.proposed if item.proposed is not None else item.given or ():
            score = {"score": round(item.probabilities[name], 4)} if name in item.probabilities else {}
            label = {"id": len(annotations) + 1, "image_id": at, "category_id": number[name]}
            annotations.append({**label, **score})
    categories = [{"id": k, "name": name, "supercategory": ""} for name, k in number.items()]
    about = "of mmfeat review: set reviewed to true where the labels are right, then mmfeat review --apply"
    return _text(
        {"info": {"description": about}, "images": images, "categories": categories, "annotations": annotations}
    )


def _shown_in(pictured: bool) -> str:
    return "image" if pictured else "caption"


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "replace").decode() + "\n"
