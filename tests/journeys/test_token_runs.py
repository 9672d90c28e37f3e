"""Runs of heads that read stored tokens: fitted, scored, predicted of new rows, exported, stale and gone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mmfeat import Predictor
from mmfeat.common.errors import MissingFeatures, RunError
from mmfeat.common.labels import sigmoid
from mmfeat.inference.logits import logits_of
from mmfeat.inference.networks import compose
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.project.staleness import state_of
from mmfeat.workflows.export import export
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict_new
from mmfeat.workflows.store import references_of

SETTINGS = {"fuse.seeds": 2, "fuse.labelquery.epochs": 2, "fuse.labelquery.width": 16}


@pytest.fixture(scope="module")
def with_tokens(module_folder):
    """The folder of the trained project with a 2 x 2 grid of each image and the first 6 tokens of each caption."""
    path = module_folder / "mmfeat.toml"
    text = path.read_text(encoding="utf-8").replace("size = 32", "size = 32\ntokens = 2")
    path.write_text(
        text.replace("[finetune.image]", "[finetune.image]", 1).replace(
            'pretrained = "random"\n[finetune.image]', 'pretrained = "random"\ntokens = 6\n[finetune.image]'
        ),
        encoding="utf-8",
    )
    extract(Project(module_folder))
    fuse(Project(module_folder, SETTINGS), "labelquery")
    return module_folder


@pytest.fixture
def own(with_tokens, tmp_path) -> Project:
    """A copy to change."""
    return Project(shutil.copytree(with_tokens, tmp_path / "project"), SETTINGS)


def test_a_run_on_tokens_says_what_it_reads_and_is_not_made_again(with_tokens):
    result = fuse(Project(with_tokens, SETTINGS), "labelquery")
    assert (result.made, result.run.name) == (False, "labelquery-1")
    assert "4 tokens of" in result.description
    assert "6 tokens of" in result.description
    encoders = result.run.encoders
    assert (encoders["image"]["tokens"], encoders["text"]["tokens"]) == (2, 6)
    assert encoders["image"]["token_shape"][0] == 4


def test_its_logits_are_those_that_it_recorded(with_tokens):
    project = Project(with_tokens)
    val = project.manifest.rows("val")
    run = fuse(Project(with_tokens, SETTINGS), "labelquery").run
    kept = run.logits()
    at = [list(kept.ids).index(i) for i in project.manifest.ids[val]]
    assert np.allclose(logits_of(project, "labelquery-1", val).logits, kept.logits[at], atol=1e-5)


def test_an_exported_model_makes_the_tokens_itself(with_tokens, small_source, tmp_path, monkeypatch):
    project = Project(with_tokens)
    result = export(project, "labelquery-1", tmp_path / "model")
    assert result.n_checked > 0
    assert result.difference < 1e-4
    rows = project.manifest.rows("unlabelled")
    wanted = sigmoid(logits_of(project, "labelquery-1", rows).logits)
    images = (str(small_source / "images.zip"),)
    inside = predict_new(str(small_source / "test.csv"), images=images, project=project, run="labelquery-1")
    outside = predict_new(str(small_source / "test.csv"), images=images, model=str(tmp_path / "model"))
    for found in (inside, outside):
        assert np.abs(found.predictions.probs - wanted).max() < 1e-4
    assert np.isfinite(Predictor.load(tmp_path / "model").predict(captions=["two dogs", None]).probs).all()
    monkeypatch.setattr("mmfeat.encoders.onnx_graphs.NEEDED", ())
    with pytest.raises(RunError, match=r"reads tokens of image, text, which only torch supports\. Use: --format"):
        export(project, "labelquery-1", tmp_path / "onnx", format="onnx")


def test_other_heads_do_not_load_tokens(own, monkeypatch):
    monkeypatch.setattr(
        "mmfeat.store.features.EncoderFeatures.lookup_tokens", lambda *_: pytest.fail("tokens were read")
    )
    assert "tokens" not in fuse(own, "mlp").run.encoders["image"]
    pieces = Project(own.root, {"fuse.crossattn.tokens": "chunked"})
    assert "tokens" not in fuse(pieces, "crossattn").run.encoders["image"]


def test_what_asks_reads_no_tokens(own):
    encoders = fuse(own, "crossattn").run.encoders
    assert encoders["image"]["tokens"] == 2
    assert "tokens" not in encoders["text"]


def test_other_tokens_make_a_run_stale_and_the_store_keeps_what_it_reads(own):
    path = own.root / "mmfeat.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("tokens = 6", "tokens = 0"), encoding="utf-8")
    project = Project(own.root)
    run = fuse(own, "labelquery").run
    assert state_of(project, run) == "stale: encoder text stores other tokens: tokens = 6 -> 0"
    assert "tokens-6" in references_of(project).encoders[run.encoders["text"]["key"]]
    assert np.isfinite(logits_of(project, run.name, project.manifest.rows("unlabelled")).logits).all()
    with pytest.raises(RunError, match="stores other tokens"):
        compose(project, run.name)


def test_tokens_that_are_gone_are_said(own):
    for folder in own.root.glob("features/*/tokens-6"):
        shutil.rmtree(folder)
    val, rest = own.manifest.rows("val"), own.manifest.rows("unlabelled")
    assert np.isfinite(logits_of(own, "labelquery-1", val).logits).all()  # as the run recorded them
    with pytest.raises(MissingFeatures, match=r"no tokens of 'text' for .* Run: mmfeat extract"):
        logits_of(own, "labelquery-1", rest)
    with pytest.raises(MissingFeatures, match="no tokens of 'text'"):
        fuse(Project(own.root, {**SETTINGS, "seed": 5}), "labelquery")


def test_stored_tokens_of_an_encoder_that_keeps_none(trained):
    project = Project(trained, {"fuse.crossattn.tokens": "stored"})
    with pytest.raises(RunError, match=r"'stored', but encoder 'image' stores none. Write tokens = "):
        fuse(project, "crossattn")
