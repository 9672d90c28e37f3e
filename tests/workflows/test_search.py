"""`mmfeat search`: nearest rows of a picture, a caption or a row; new samples are encoded as for predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.edits import invoked, typed

from mmfeat.common.errors import ConfigError, DataError, EncoderError
from mmfeat.heads.knn import unit_embeddings
from mmfeat.project.project import Project
from mmfeat.workflows.search import search


def picture_of(project, row: int, tmp_path):
    """A row's picture as a file of its own."""
    file = tmp_path / "mine.jpg"
    file.write_bytes(project.samples.image_reader()(row))
    return file


def test_a_row_is_found_by_its_own_picture_caption_and_id(own, tmp_path):
    manifest = own.manifest
    found = search(own, picture_of(own, 5, tmp_path))
    assert found.ids[0] == manifest.ids[5]
    assert found.scores[0] == pytest.approx(1, abs=1e-3)
    assert found.encoders == ["image"]
    by_text = search(own, caption=manifest.captions[5])
    assert manifest.captions[5] in by_text.captions[0]
    assert by_text.scores[0] == pytest.approx(1, abs=1e-3)
    alike = search(own, like=manifest.ids[5], n=500)
    assert manifest.ids[5] not in alike.ids
    assert len(alike.ids) == manifest.n_samples - 1
    assert alike.encoders == ["image", "text"]


def test_scores_are_cosines_and_fall(own):
    found = search(own, like=own.manifest.ids[3], n=20)
    table = own.feature_table(["image", "text"])
    unit = unit_embeddings(table, ["image", "text"], np.arange(own.manifest.n_samples))
    at = [own.manifest.ids.tolist().index(one) for one in found.ids]
    assert found.scores == pytest.approx((unit[at] @ unit[3]).tolist(), abs=1e-5)
    assert found.scores == sorted(found.scores, reverse=True)
    best = np.delete(unit @ unit[3], 3).max()
    assert found.scores[0] == pytest.approx(float(best), abs=1e-5)


def test_a_split_an_encoder_and_both_modalities(own, tmp_path):
    found = search(own, picture_of(own, 5, tmp_path), caption=own.manifest.captions[5], n=3)
    assert (found.encoders, found.ids[0]) == (["image", "text"], own.manifest.ids[5])
    only = search(own, like=own.manifest.ids[5], encoder="text", split="unlabelled", n=500)
    assert only.encoders == ["text"]
    assert set(only.splits) == {"unlabelled"}
    assert not any(only.labels)
    assert len(only.ids) == len(own.manifest.rows("unlabelled"))


def test_a_gallery_shows_the_query_and_the_answers(own, tmp_path):
    picture, file = picture_of(own, 5, tmp_path), tmp_path / "found.html"
    result = search(own, picture, html=file, n=4)
    page = file.read_text(encoding="utf-8")
    assert result.file == file
    assert page.count("data:image/jpeg;base64,") == 5
    assert str(tmp_path) not in page
    search(Project(own.root), like=own.manifest.ids[5], html=file, n=4)
    assert file.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 5


def test_what_cannot_be_searched(own, tmp_path):
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8 no picture")
    ids = own.manifest.ids
    for arguments, error, message in (
        ({}, ConfigError, "nothing to search for. Give a picture, --caption TEXT or --like ID"),
        ({"like": ids[0], "caption": "a dog"}, ConfigError, "--like names a row"),
        ({"like": f"{ids[0]}x"}, DataError, f"no row has this id. Nearest: '{ids[0]}'"),
        ({"image": tmp_path / "none.jpg"}, DataError, "no such image"),
        ({"image": damaged}, DataError, "damaged.jpg: "),
        ({"caption": "a", "encoder": "image"}, ConfigError, "reads images, which the query does not have"),
        ({"caption": "a", "encoder": "txt"}, EncoderError, "no such encoder. Nearest: 'text'"),
        ({"like": ids[0], "split": "test"}, DataError, "no test rows to search"),
        ({"like": ids[0], "n": 0}, ConfigError, "use a number from 1"),
        ({"like": ids[0], "html": tmp_path / "a.txt"}, ConfigError, "Name it: .*a.html"),
    ):
        with pytest.raises(error, match=message):
            search(Project(own.root), **arguments)


def test_on_the_command_line(own):
    said = typed(own, "search", "--like", str(own.manifest.ids[5]), "--n", "2")
    assert "score" in said
    assert "Found 2 rows of 79, by image and text (cosine). Next: mmfeat --project" in said
    assert said.endswith(" --html similar.html\n")
    document = json.loads(invoked(own.root, "search", "--caption", "a star", "--n", "3", "--json").output)
    (table,) = document["tables"]
    assert [column["name"] for column in table["columns"]] == ["id", "labels", "split", "score", "caption"]
    assert len(table["rows"]) == 3
