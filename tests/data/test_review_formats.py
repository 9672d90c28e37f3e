"""Reviews for other tools: what they are given, what is read back, and every mistake in one line."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import pytest

from mmfeat.common.errors import DataError
from mmfeat.data.manifest import Manifest
from mmfeat.data.review_files import read_review
from mmfeat.data.review_formats import coco_review, label_studio_config, label_studio_tasks
from mmfeat.data.review_items import Reason, ReviewItem

HOSTILE = "</Choice><script>alert('x')</script>\"&\n\u202e\u05d0"
CLASSES = ("cat", "dog", "two words", "a \"b\" <c> & 'd'", "\u05d0\u05d1")
IDS = ("r0", "r1", "r2", HOSTILE)


@pytest.fixture
def manifest() -> Manifest:
    ids = np.array(IDS, dtype=object)
    images = np.array(["a/0.jpg", "a/1.jpg", "b/1.jpg", ""], dtype=object)
    labels = np.zeros((4, len(CLASSES)), np.int8)
    split = np.array(["train"] * 4, dtype=object)
    return Manifest(ids=ids, images=images, captions=ids, labels=labels, split=split, classes=CLASSES)


def items(manifest: Manifest) -> list[ReviewItem]:
    proposed = [("cat", "two words"), (), (CLASSES[3],), None]
    return [
        ReviewItem(
            id=sample,
            row=row,
            image=manifest.images[row],
            caption=f"about {sample}",
            split="train",
            given=("dog",) if row else None,
            proposed=proposed[row],
            reasons=(Reason(kind="uncertain", text=f"because of {sample}"),),
            probabilities={"cat": 0.75, CLASSES[3]: 0.5},
        )
        for row, sample in enumerate(IDS)
    ]


def read(tmp_path, content, manifest) -> dict[str, list[str]]:
    file = tmp_path / "export.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_review(file, manifest, separator=" ").given


def annotated(task: dict, *choices: list[str] | None, **more) -> dict:
    """A task as Label Studio exports it."""
    value = [
        {"id": "x", "from_name": "labels", "to_name": "image", "type": "choices", "value": {"choices": c}}
        for c in choices
        if c
    ]
    results = [[one] for one in value] or [[]]
    return {
        "id": 7,
        **task,
        "annotations": [{"id": n, "result": one, "was_cancelled": False, **more} for n, one in enumerate(results)],
    }


def tasks_of(manifest: Manifest) -> list[dict]:
    return json.loads(label_studio_tasks(items(manifest), [b"jpeg", None, None, None], run="crossattn-1"))


def test_tasks_of_label_studio_come_back_as_answers(tmp_path, manifest):
    tasks = tasks_of(manifest)
    assert [task["data"]["mmfeat_id"] for task in tasks] == list(IDS)
    assert tasks[0]["data"]["image"].startswith("data:image/jpeg;base64,")
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["cat", "two words"]}
    assert "predictions" not in tasks[3]
    assert read(tmp_path, tasks, manifest) == {}  # nobody has answered
    exported = [
        annotated(tasks[0], ["two words", "dog"]),
        annotated(tasks[1]),
        tasks[2],
        annotated(tasks[3], [CLASSES[3]]),
    ]
    assert read(tmp_path, exported, manifest) == {"r0": ["dog", "two words"], "r1": [], HOSTILE: [CLASSES[3]]}
    skipped = annotated(tasks[0], ["dog"], was_cancelled=True)
    assert read(tmp_path, [skipped], manifest) == {}


def test_of_several_annotations_the_ground_truth_counts(tmp_path, manifest):
    task = annotated(tasks_of(manifest)[0], ["dog"], ["cat"])
    with pytest.raises(DataError, match=r"task 1: its 2 annotations differ: dog \| cat. Mark one as ground truth"):
        read(tmp_path, [task], manifest)
    task["annotations"][1]["ground_truth"] = True
    assert read(tmp_path, [task], manifest) == {"r0": ["cat"]}
    assert read(tmp_path, [annotated(tasks_of(manifest)[0], ["dog"], ["dog"])], manifest) == {"r0": ["dog"]}


def test_coco_comes_back_as_answers(tmp_path, manifest):
    content = json.loads(coco_review(items(manifest), CLASSES, names=manifest.images, sizes=[(640, 480)] * 4))
    assert [one["name"] for one in content["categories"]] == list(CLASSES)
    assert [one["mmfeat_id"] for one in content["images"]] == list(IDS)
    assert {one["image_id"] for one in content["annotations"] if "score" in one} == {1, 3}
    assert read(tmp_path, content, manifest) == {}  # no image is reviewed
    for image in content["images"][:2]:
        image["reviewed"] = True
    assert read(tmp_path, content, manifest) == {"r0": ["cat", "two words"], "r1": []}
    for image in content["images"]:  # a tool that drops what it does not know
        del image["reviewed"], image["mmfeat_id"]
    with pytest.raises(DataError, match=r"image 4: has no 'mmfeat_id', and its file_name is not that of exactly"):
        read(tmp_path, content, manifest)
    del content["images"][3], content["annotations"][3]
    assert list(read(tmp_path, content, manifest)) == ["r0", "r1", "r2"]
    content["images"][0]["file_name"] = "elsewhere/0.jpg"
    assert list(read(tmp_path, content, manifest)) == ["r0", "r1", "r2"]
    content["images"][1]["file_name"] = "1.jpg"  # of two rows
    with pytest.raises(DataError, match=r"image 2: has no 'mmfeat_id'"):
        read(tmp_path, content, manifest)


TASK = {"data": {"mmfeat_id": "r0"}}
COCO = {"images": [{"id": 1, "mmfeat_id": "r0"}], "categories": [{"id": 1, "name": "cat"}], "annotations": []}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON that can be read: Expecting property name"),
        ("[" * 100_000, "not JSON that can be read"),
        ("", "not JSON that can be read"),
        ("7", "is neither a list of tasks of Label Studio, or an object"),
        ({}, "is neither a list of tasks of Label Studio, or an object"),
        ([7], "task 1: "),
        ([{"mmfeat_id": "r0", "labels": "cat"}], "task 1: has no data, as in an export as JSON-MIN. Export it as JSON"),
        ([{"data": {"image": "x"}}], "task 1: its data has no 'mmfeat_id', by which mmfeat finds the row"),
        (
            [annotated({"data": {"mmfeat_id": "r00"}}, ["cat"])],
            "task 1: no row 'r00' in the manifest. Nearest: 'r0'. Correct it, or remove it",
        ),
        ([annotated(TASK, ["cat"])] * 2, "task 2: repeats the id 'r0' of task 1. Leave one of them out"),
        ([annotated(TASK, ["dgo"])], "task 1: row 'r0': 'dgo' is not among the 5 classes. Nearest: 'dog'"),
        ([annotated(TASK, ["\x1b[31m"])], r"'\x1b[31m' is not among"),
        ([{**TASK, "annotations": {}}], "task 1: annotations is"),
        ({**COCO, "annotations": [{"image_id": 2, "category_id": 1}]}, "annotation 1: no image 2 in the file"),
        ({**COCO, "annotations": [{"image_id": 1, "category_id": 9}]}, "annotation 1: no category 9 in the file"),
        ({**COCO, "images": [{"id": 1, "mmfeat_id": "r9"}]}, "image 1: no row 'r9' in the manifest"),
        ({**COCO, "categories": "x"}, "categories is 'x', not a list"),
        (
            {**COCO, "categories": [{"id": 1, "name": "cta"}], "annotations": [{"image_id": 1, "category_id": 1}]},
            "image 1: row 'r0': 'cta' is not among the 5 classes. Nearest: 'cat'",
        ),
        ({"images": []}, "categories is missing"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, manifest, content, says):
    with pytest.raises(DataError) as error:
        read(tmp_path, content, manifest)
    assert str(error.value).startswith(str(tmp_path / "export.json"))
    assert says in str(error.value)
    assert str(error.value).isprintable()


def test_a_class_that_xml_cannot_name_is_refused():
    with pytest.raises(DataError, match=r"class 'a\\x1bb': has a control character"):
        label_studio_config(["a\x1bb"], pictured=True)


CHECK = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
config, tasks = json.load(sys.stdin)
interface = LabelInterface(config)
interface.validate()
for task in tasks:
    assert interface.validate_task({"data": task["data"]}), task
    for one in task.get("predictions", []):
        assert interface.validate_prediction(one), (one, interface.validate_prediction(one, return_errors=True))
    for one in task.get("annotations", []):
        assert interface.validate_annotation(one), one
print(json.dumps(sorted(interface.get_control("labels").labels)))
"""


@pytest.mark.parametrize("pictured", [True, False])
def test_label_studio_takes_tasks_and_configuration(manifest, pictured):
    python = os.environ.get("MMFEAT_LABEL_STUDIO")
    if not python or subprocess.run([python, "-c", "import label_studio_sdk"], cwd="/", capture_output=True).returncode:
        pytest.skip("MMFEAT_LABEL_STUDIO does not name a Python with label-studio-sdk")
    given = items(manifest) if pictured else [ReviewItem(**{**vars(one), "image": ""}) for one in items(manifest)]
    tasks = json.loads(label_studio_tasks(given, [b"jpeg"] + [None] * 3, run="run"))
    where = {"to_name": "image" if pictured else "caption"}
    answered = annotated(tasks[0], ["dog", CLASSES[3]])
    answered["annotations"][0]["result"][0] |= where
    config = label_studio_config(CLASSES, pictured=pictured)
    done = subprocess.run(
        [python, "-c", CHECK], cwd="/", input=json.dumps([config, [*tasks, answered]]), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == sorted(CLASSES)
    many = label_studio_config([f"class {k}" for k in range(100)], pictured=pictured)
    assert 'layout="select"' in many
