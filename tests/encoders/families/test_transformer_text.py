"""Text models of odd kinds, and long captions: each works, or is refused in one line that says what to type."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.common.errors import EncoderError
from mmfeat.config.encoder_tables import ImageEncoderConfig, TextEncoderConfig
from mmfeat.encoders.catalogue import describe_text
from mmfeat.encoders.families.image_network import build_image_encoder
from mmfeat.encoders.families.transformer_text import build_text_encoder, load_tokenizer
from mmfeat.encoders.preparation import CHARACTERS, TextPreparation

CPU = torch.device("cpu")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = " ".join(["dog"] * 3000)


@pytest.fixture
def folder(tmp_path, small_source) -> Path:
    made = tmp_path / "model"
    shutil.copytree(small_source / "text-encoder", made)
    load_tokenizer(made).save_pretrained(made)
    return made


def stated(folder: Path, kind: str, **values) -> None:
    """Make a folder that of another architecture, with the tokenizer that it has."""
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    values = {"model_type": kind, "vocab_size": vocabulary, **SMALL, **values}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def change(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def build(folder: Path, **settings):
    settings = {"pretrained": "random", **settings}
    return build_text_encoder("text", TextEncoderConfig(model=str(folder), **settings), folder, 0)


def embeddings(encoder, captions: list[str]):
    return torch.from_numpy(encoder.encode(encoder.collate(captions), CPU).embeddings)


def test_a_tokenizer_that_gives_no_attention_mask_of_its_own(folder):
    plain = build(folder)
    change(folder / "tokenizer_config.json", model_input_names=["input_ids"])
    encoder = build(folder)
    assert encoder.preparation.tokenizer.model_input_names == ["input_ids"]
    captions = ["a dog", "two dogs in a red boat"]
    assert torch.equal(embeddings(encoder, captions), embeddings(plain, captions))
    assert encoder.spec().key == plain.spec().key


@pytest.mark.parametrize(("kind", "most"), [("xlm-roberta", 18), ("roberta", 18), ("mpnet", 18), ("bert", 20)])
def test_a_caption_is_cut_where_the_positions_end(folder, tmp_path, kind, most):
    from mmfeat.encoders.portable import load_encoder, load_preparation, save_encoder

    stated(folder, kind, max_position_embeddings=20, pad_token_id=1)
    encoder = build(folder, max_length=64)
    batch = encoder.collate([WORDS])
    assert batch["input_ids"].shape == (1, most)
    assert torch.isfinite(embeddings(encoder, [WORDS, "a"])).all()
    assert encoder.spec().preprocessing["max_length"] == 20  # as it always was: such captions failed, no other changes
    assert describe_text(TextEncoderConfig(model=str(folder)), folder).takes == f"{most} tokens"
    record = save_encoder(encoder, tmp_path / "text")
    again = load_encoder("text", record, tmp_path / "text")
    assert torch.allclose(embeddings(again, [WORDS]), embeddings(encoder, [WORDS]), atol=1e-6)
    assert load_preparation(record, tmp_path / "text").collate([WORDS])["input_ids"].shape == (1, most)


def test_a_network_without_a_limit_of_positions_has_none(folder):
    stated(folder, "t5", d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    assert build(folder, max_length=300).collate([WORDS])["input_ids"].shape == (1, 300)


def test_a_tokenizer_with_more_tokens_than_embeddings(folder):
    tokens = len(load_tokenizer(folder))
    change(folder / "config.json", vocab_size=tokens - 2)
    encoder = build(folder)  # whose special tokens come first: it works, but for some words
    word = encoder.preparation.tokenizer.convert_ids_to_tokens(tokens - 1)
    with pytest.raises(
        EncoderError, match=f"the tokenizer returns token .*only {tokens - 2} token embeddings. Use"
    ) as error:
        encoder.collate(
            ["a", word.removeprefix("##")] if not word.startswith("##") else [WORDS, _with(encoder, tokens)]
        )
    assert "\n" not in str(error.value)
    change(folder / "config.json", vocab_size=2)
    with pytest.raises(EncoderError, match=r"encoder.text: the tokenizer returns token"):
        build(folder)


def _with(encoder, tokens: int) -> str:
    """A text one of whose tokens is the last of the vocabulary."""
    last = encoder.preparation.tokenizer.convert_ids_to_tokens(tokens - 1).removeprefix("##")
    for start in "abcdefghijklmnopqrstuvwxyz":
        if tokens - 1 in encoder.preparation.tokenizer(start + last)["input_ids"]:
            return start + last
    raise AssertionError(last)


CLIP = {"text_config": {**SMALL, "vocab_size": 50}, "vision_config": {**SMALL, "image_size": 32, "patch_size": 16}}
TWO = r"is an image-text model \(.*\), which mmfeat does not read.*mmfeat encoders clip.*store import NAME FILE"


@pytest.mark.parametrize(
    "kind", ["clip", "siglip", "siglip2", "siglip_text_model", "clip_vision_model", "blip_text_model"]
)
def test_images_and_texts_in_one_are_refused_with_the_same_words_from_either_side(folder, kind):
    parts = SMALL if kind.endswith("_model") else CLIP
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **parts}), encoding="utf-8")
    with pytest.raises(EncoderError) as for_images:
        build_image_encoder("image", ImageEncoderConfig(model=str(folder)), folder, 0)
    with pytest.raises(EncoderError) as for_texts:
        build(folder)
    with pytest.raises(EncoderError) as described:
        describe_text(TextEncoderConfig(model=str(folder)), folder)
    for error in (for_images, for_texts, described):
        assert "\n" not in str(error.value)
        assert 'modality = "text"' not in str(error.value)
    if kind != "clip_vision_model":
        assert str(for_texts.value).partition(": ")[2] == str(for_images.value).partition(": ")[2]
        assert for_images.match(TWO)


@pytest.mark.parametrize("model", ["openai/clip-vit-base-patch32", "google/siglip-base-patch16-224"])
def test_names_of_such_models_lead_in_no_circle(tmp_path, monkeypatch, model):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match=TWO):
        build_image_encoder("image", ImageEncoderConfig(model=model), tmp_path, 0)


def test_the_texts_of_clip_are_pooled_as_the_table_says_and_never_silently(folder):
    stated(folder, "clip_text_model", max_position_embeddings=16)
    with pytest.raises(EncoderError, match=r'end token.*under \[encoder.text\] set: pooling = "mean"'):
        build(folder)
    encoder = build(folder, pooling="mean")
    assert embeddings(encoder, [WORDS, "a dog"]).shape == (2, 16)
    with pytest.raises(EncoderError, match='set: modality = "text"'):
        build_image_encoder("image", ImageEncoderConfig(model=str(folder)), folder, 0)


# Long captions


def tokenizers(folder: Path) -> dict[str, object]:
    """A tokenizer of each kind: WordPiece of the folder, BPE of bytes, Unigram as SentencePiece has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = ["two dogs in a red boat", "a cat sleeps", "日本語の文章です", "über naïve café", "x1 y2 z3 !!"] * 3
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<pad>"])
    )
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=120, special_tokens=["<pad>", "<unk>"], unk_token="<unk>")
    )
    made = {"wordpiece": load_tokenizer(folder)}
    for name, one in (("bpe", bpe), ("unigram", unigram)):
        made[name] = PreTrainedTokenizerFast(tokenizer_object=one, pad_token="<pad>", truncation_side="right")
    return made


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, small_source) -> list[TextPreparation]:
    return [TextPreparation(one, 8) for one in tokenizers(small_source / "text-encoder").values()]


PIECES = ["dog ", "boat", " ", "\n\t", "é", "日本", "x" * 150, "\u200b", "!", " " * 700, "red boat " * 150, "\x00", "—"]


@given(st.lists(st.sampled_from(PIECES), max_size=40), st.sampled_from(["", "a dog", "日本" * 600]))
@settings(max_examples=60, deadline=None)
def test_the_tokens_of_a_long_caption_are_those_of_the_whole(prepared, pieces, end):
    text = "".join(pieces) * 3 + end
    for one in prepared:
        found, whole = one.collate([text, "a dog"]), one._tokens([text, "a dog"])
        assert torch.equal(found["input_ids"], whole["input_ids"])
        assert torch.equal(found["attention_mask"], whole["attention_mask"])


def test_a_long_caption_costs_what_its_beginning_costs(prepared, monkeypatch):
    seen = []
    for one in prepared:
        tokens = one._tokens
        monkeypatch.setattr(one, "_tokens", lambda texts, t=tokens: seen.append(max(map(len, texts))) or t(texts))
        one.collate(["dog " * 1_000_000])
        one.collate(["日" * 1_000_000])
        one.collate([("dog " * 1_000_000).strip()])
    assert max(seen) <= 10 * CHARACTERS * 8


def test_a_tokenizer_that_keeps_the_end_reads_all(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.truncation_side = "left"
    one = TextPreparation(tokenizer, 8)
    text = "dog " * 3000 + "boat"
    assert torch.equal(one.collate([text])["input_ids"], one._tokens([text])["input_ids"])


def test_settings_of_other_encoders_are_as_they_were():
    assert dataclasses.asdict(TextEncoderConfig())["trust_remote_code"] is False
