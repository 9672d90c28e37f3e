"""TF-IDF: fitted on the captions of training rows and on nothing else; a text encoder like any other after that."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from helpers.command_line import run_cli
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from mmfeat import Predictor
from mmfeat.common.errors import ConfigError, EncoderError
from mmfeat.config.encoder_tables import TfidfEncoderConfig
from mmfeat.config.reader import config_of
from mmfeat.data.manifest import Manifest
from mmfeat.encoders.families.tfidf import TfidfEncoder
from mmfeat.encoders.portable import load_encoder, load_preparation, save_encoder
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.project.staleness import lineage_of_encoder
from mmfeat.project.tfidf_vocabulary import fitted_vocabulary, identity_of, with_tfidf
from mmfeat.training.dry_run import plan_finetune
from mmfeat.workflows.export import export
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.status import status, store_status
from mmfeat.workflows.store import find_unreferenced, references_of

CAPTIONS = ["A dog on a bench", "the dog, the Dog!", "bench by the sea", "sea and sun 2024", "sun 2024 on the sea"]
TABLE = '\n[encoder.words]\nmodality = "text"\nmodel = "tfidf"\n'


def encoded(encoder: TfidfEncoder, captions: list[str]) -> np.ndarray:
    batch = encoder.collate([encoder.prepare(caption) for caption in captions])
    return encoder.encode(batch, torch.device("cpu")).embeddings


def changed(project: Project, which: str, caption: str) -> Project:
    """The same project with other captions in one split."""
    m = project.manifest
    captions = m.captions.copy()
    captions[m.rows(which)] = [f"{caption} {i}" if caption else "" for i in range(len(m.rows(which)))]
    fields = {n: getattr(m, n) for n in m.__dataclass_fields__}
    Manifest(**{**fields, "captions": captions}).save(project.root / "manifest.parquet")
    return Project(project.root)


@pytest.fixture
def worded(project) -> Project:
    """A project with a TF-IDF table, nothing fitted."""
    path = project.root / "mmfeat.toml"
    path.write_text(path.read_text(encoding="utf-8") + TABLE, encoding="utf-8")
    return Project(project.root)


# the encoder


@pytest.mark.parametrize("ngrams", [1, 2])
def test_it_is_scikit_learns(ngrams):
    encoder = TfidfEncoder.fit(CAPTIONS, 1000, ngrams)
    reference = TfidfVectorizer(min_df=2, sublinear_tf=True, ngram_range=(1, ngrams)).fit(CAPTIONS)
    assert list(encoder.preparation.terms) == reference.get_feature_names_out().tolist()
    new = [*CAPTIONS, "a sea of dogs, a dog of the sea: sea sea", "nothing known", ""]
    assert encoded(encoder, new) == pytest.approx(reference.transform(new).toarray(), abs=1e-6)


def test_the_commonest_terms_are_kept():
    assert TfidfEncoder.fit(CAPTIONS, 1, 1).preparation.terms == ("the",)
    assert TfidfEncoder.fit(CAPTIONS, 3, 1).preparation.terms == ("dog", "sea", "the")


@given(st.permutations(CAPTIONS), st.integers(1, 9))
def test_neither_the_order_of_the_captions_nor_their_company_matters(captions, width):
    encoder, shuffled = TfidfEncoder.fit(CAPTIONS, width, 2), TfidfEncoder.fit(captions, width, 2)
    assert encoder.spec() == shuffled.spec()
    together = encoded(encoder, captions)
    assert np.array_equal(together, np.concatenate([encoded(encoder, [caption]) for caption in captions]))


@given(st.lists(st.text(), min_size=1))
def test_any_text_is_a_caption(captions):
    lengths = np.linalg.norm(encoded(TfidfEncoder.fit(CAPTIONS, 9, 2), captions), axis=1)
    assert (np.isclose(lengths, 1, atol=1e-5) | (lengths == 0)).all()


@pytest.mark.parametrize("captions", [[], ["one"], ["a b", "a b"], ["red", "blue", "green"], ["", " "]])
def test_no_word_that_occurs_twice(captions):
    with pytest.raises(EncoderError, match=r"no word of two letters or more occurs in two of the \d training caption"):
        TfidfEncoder.fit(captions, 9, 1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_holds_all_of_it(tmp_path, dtype):
    encoder = TfidfEncoder.fit(CAPTIONS, 9, 2)
    record = json.loads(json.dumps(save_encoder(encoder, tmp_path / "words", dtype)))
    assert not [path for path in tmp_path.rglob("*") if "pickle" in path.name or path.suffix == ".pkl"]
    again = load_encoder("words", record, tmp_path / "words")
    assert encoded(again, CAPTIONS) == pytest.approx(
        encoded(encoder, CAPTIONS), abs=1e-6 if dtype == "float32" else 1e-3
    )
    assert (again.spec() == encoder.spec()) is (dtype == "float32")
    assert load_preparation(record, tmp_path / "words").describe() == encoder.preparation.describe()


# settings


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"max_length": 9}, "unknown key 'encoder.text.max_length'"),
        ({"width": 0}, "encoder.text.width = 0. Use a number from 1 to 32768"),
        ({"checkpoint": "none"}, 'tfidf needs a checkpoint, which holds its vocabulary. Write: checkpoint = "latest"'),
    ],
)
def test_what_is_no_setting_of_it(tmp_path, table, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        config_of({"encoder": {"text": {"model": "tfidf", **table}}, "fuse": {"inputs": ["text"]}}, tmp_path)
    plain = config_of({"encoder": {"text": {"model": "tfidf"}}, "fuse": {"inputs": ["text"]}}, tmp_path)
    assert plain.encoder["text"] == TfidfEncoderConfig()


# in a project


def test_before_it_is_fitted_it_says_what_to_type(worded):
    done = run_cli("extract", "words", cwd=worded.root, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: encoder.words: tfidf has no vocabulary with these settings yet. Run: mmfeat finetune words"
    ]
    assert status(worded).remedy == "mmfeat finetune words"
    (plan,) = plan_finetune(Project(worded.root, dry=True), ["words"])
    assert re.match(r"\d+ terms of the training captions, \d+ rows to encode", plan.what)
    assert not worded.checkpoints.exists()


def test_from_the_captions_to_a_model_of_its_own(worded, tmp_path):
    (one,) = finetune(worded, ["words"]).encoders
    assert (one.checkpoint.name, one.made) == ("words-1", True)
    project = Project(worded.root)
    extract(project, ["words"])
    assert one.metrics is not None
    rows = np.arange(project.manifest.n_samples)
    encoder = TfidfEncoder.fit(project.manifest.captions[project.manifest.rows("train")].tolist(), 1024, 1)
    stored = np.asarray(project.feature_table(["words"]).embeddings["words"][rows], dtype=np.float32)
    assert stored == pytest.approx(encoded(encoder, project.manifest.captions.tolist()), abs=1e-3)
    extract(project, ["image"])
    run = fuse(Project(project.root, {"fuse.inputs": ("image", "words")}), "concat").run
    result = export(Project(project.root), run.name, tmp_path / "model")
    assert result.difference < 1e-4
    model = Predictor.load(result.folder)
    assert model.predict([None], [str(project.manifest.captions[0])]).probs.shape == (1, len(project.manifest.classes))
    assert "frozen" in (result.folder / "README.md").read_text(encoding="utf-8")
    references_of(Project(project.root))  # what gc must know is known


def test_typed_again_it_is_done_and_freeze_means_the_same(worded, monkeypatch):
    (first,) = finetune(worded, ["words"]).encoders
    monkeypatch.setattr(TfidfEncoder, "fit", None)
    for freeze in (True, False):
        (again,) = finetune(Project(worded.root), ["words"], freeze=freeze).encoders
        assert (again.checkpoint.name, again.made) == ("words-1", False)
        assert again.metrics.as_dict() == first.metrics.as_dict()
    (plan,) = plan_finetune(Project(worded.root, dry=True), ["words"])
    assert (plan.nothing, plan.what) == (True, "made before")


def test_it_sees_no_caption_but_those_of_training_rows(project):
    def key(of: Project) -> str:
        return identity_of("words", fitted_vocabulary(with_tfidf(of, "words"), "words")).spec.key

    before = key(project)
    assert key(changed(project, "val", "words of val")) == before
    assert key(changed(Project(project.root), "unlabelled", "words of nobody")) == before
    assert key(changed(Project(project.root), "train", "words of train")) != before


def test_a_checkpoint_is_what_it_is(worded):
    finetune(worded, ["words"])
    before = Project(worded.root).identity("words").spec.key
    project = changed(Project(worded.root), "train", "other words")
    assert project.identity("words").spec.key == before
    (again,) = finetune(project, ["words"]).encoders
    assert again.checkpoint.name == "words-2"
    assert Project(worded.root).identity("words").spec.key != before


def test_its_embeddings_have_seen_no_label(worded):
    finetune(worded, ["words"])
    project = Project(worded.root)
    identity = project.identity("words")
    assert not len(lineage_of_encoder(project, identity, False).training)
    assert len(lineage_of_encoder(project, identity, True).training) == len(project.manifest.rows("train"))


def test_other_settings_are_another_encoder(worded):
    finetune(worded, ["words"])
    path = worded.root / "mmfeat.toml"
    path.write_text(path.read_text(encoding="utf-8") + "width = 3\n", encoding="utf-8")
    with pytest.raises(EncoderError, match="no vocabulary with these settings yet"):
        Project(worded.root).identity("words")
    (one,) = finetune(Project(worded.root), ["words"]).encoders
    assert (one.checkpoint.name, one.width) == ("words-2", 3)


@pytest.mark.parametrize("terms", [None, ["one"]])
def test_a_damaged_checkpoint_is_said(worded, terms):
    finetune(worded, ["words"])
    file = worded.checkpoints / "words-1" / "checkpoint.json"
    record = {**json.loads(file.read_text()), "terms": terms}
    unsealed = {key: value for key, value in record.items() if key not in ("seal", "files")}
    file.write_text(json.dumps(unsealed), encoding="utf-8")
    with pytest.raises(EncoderError, match=r"words-1.*damaged: (its weights do not match its terms|terms is None)"):
        Project(worded.root).identity("words")


# as a baseline


def test_it_stands_beside_every_head(extracted):
    lines = {line.label: line for line in fuse(extracted, "concat").lines}
    assert list(lines)[:5] == ["most frequent", "image", "text", "TF-IDF, linear head", "kNN, training-free"]
    assert lines["TF-IDF, linear head"].seconds > 0
    assert "TF-IDF" not in extracted.config.encoder
    assert not find_unreferenced(Project(extracted.root)).garbage  # the run names its features
    assert ["a baseline of concat-1"] in [line.used_by for line in store_status(Project(extracted.root))]


def test_without_a_word_the_other_baselines_are_there(extracted, capsys):
    labels = [line.label for line in fuse(changed(extracted, "train", ""), "concat").lines]
    assert "kNN, training-free" in labels
    assert not [label for label in labels if label.startswith("TF-IDF")]
    m = Project(extracted.root).manifest
    captions = m.captions.copy()
    captions[m.rows("train")] = [f"{'abcdefgh'[i % 8] * (2 + i // 8)}" for i in range(len(m.rows("train")))]
    Manifest(**{**{n: getattr(m, n) for n in m.__dataclass_fields__}, "captions": captions}).save(
        extracted.root / "manifest.parquet"
    )
    project = Project(extracted.root)
    extract(project)
    labels = [line.label for line in fuse(project, "concat").lines]
    assert not [label for label in labels if label.startswith("TF-IDF")]
    assert "no TF-IDF baseline: encoder.TF-IDF: no word" in capsys.readouterr().err


def test_an_encoder_of_the_kind_is_not_shown_twice(worded):
    finetune(worded, ["words"])
    extract(Project(worded.root), ["image", "words"])
    project = Project(worded.root, {"fuse.inputs": ("image", "words")})
    labels = [line.label for line in fuse(project, "concat").lines]
    assert labels[1:4] == ["image, linear head", "words", "kNN, training-free"]


def test_a_class_without_a_positive_and_one_without_a_no(extracted):
    m = extracted.manifest
    labels = m.labels.copy()
    train = m.rows("train")
    labels[train, 0], labels[train, 1] = 0, 1
    Manifest(**{**{n: getattr(m, n) for n in m.__dataclass_fields__}, "labels": labels}).save(
        extracted.root / "manifest.parquet"
    )
    lines = fuse(Project(extracted.root), "concat").lines
    assert all(np.isfinite([line.samples_f1, line.map, line.loss]).all() for line in lines)
