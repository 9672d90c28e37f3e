"""mmfeat.toml: defaults, overrides, and one clear line for every mistake."""

from __future__ import annotations

import json
import tomllib

import pytest

from mmfeat.common.errors import ConfigError
from mmfeat.config.reader import load_config
from mmfeat.config.schema import Config


def load(tmp_path, text, overrides=None):
    path = tmp_path / "mmfeat.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def test_an_empty_file_has_every_default(tmp_path):
    config = load(tmp_path, "schema = 1\n")
    assert config.values() == Config().values()
    assert config.encoder["image"].model == "efficientnet_b4"
    assert config.encoder["text"].model == "google/bert_uncased_L-2_H-128_A-2"
    json.dumps(config.values(), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("schema = 1\n[encoder.image]\nsise = 3\n", 3, "unknown key 'encoder.image.sise'. Nearest: size"),
        ("schema = 1\nmetric = 3\n", 2, "metric must be text"),
        ("schema = 1\n\n[fuse]\nseeds = true\n", 4, "must be a whole number, found True"),
        ("schema = 1\n[fuse]\nhead = 'crosattn'\n", 3, "Use one of: linear, mlp, concat, crossattn"),
        ("schema = 1\n[split]\nval = 2\n", 3, "Use a number from 0 to 0.9"),
        ("schema = 1\n[encodr]\nx = 1\n", 2, "Nearest: encoder"),
        ("schema = 2\n", 1, "schema = 2"),
        ("schema = 1\n[fuse]\ninputs = ['image', 'txt']\n", 3, "Nearest: text"),
        ("schema = 1\n[encoder.fm1]\nmodality = 'image'\n", 2, "name of a recipe"),
        ("schema = 1\n[encoder.image-1]\nmodality = 'image'\n", 2, "name of a recipe or of a run"),
        ("schema = 1\n[encoder.clip]\nmodel = 'x'\n", 2, "needs its modality"),
        ("schema = 1\n[finetune.audio]\nepochs = 1\n", 2, "unknown encoder"),
        ("schema = 1\n[encoder.image]\nsize = 'big'\n", 3, "pixels"),
        ("schema = 1\ndevice = 'gpu'\n", 2, "auto, cpu, cuda"),
        ("schema = 1\nlr = nan\n", 2, "unknown key 'lr'"),
        ("schema = 1\ndevice = 'mps'\n", 2, "auto, cpu, cuda"),
        ("schema = 1\ndevice = 'cuda:200'\n", 2, "auto, cpu, cuda"),
        ("schema = 1\n[fuse]\ninputs = []\n", 3, "fuse.inputs is empty"),
        ("schema = 1\n[fuse]\ninputs = ['text', '']\n", 3, "empty text"),
        ("schema = 1\n[fuse]\ninputs = ['text', 'text']\n", 3, "twice"),
        ("schema = 1\n[fuse.crossattn]\nquery = 'txt'\n", 3, "Nearest: text"),
        ("schema = 1\n[data]\nseparator = ''\n", 3, "data.separator is empty"),
        ("schema = 1\n[data]\nimages = ''\n", 3, "empty text"),
        ("schema = 1\n[store]\npath = ''\n", 3, "store.path is empty"),
        ("schema = 1\n[encoder.text]\nmodel = ''\n", 3, "encoder.text.model is empty"),
        ("schema = 1\nseed = 9223372036854775808\n", 2, "Use a number from 0 to 9223372036854775807"),
        ("schema = 1\n[fuse.linear]\nlr = 11\n", 3, "Use a number from 0 to 10"),
        ("schema = 1\n[fuse.linear]\nlr = nan\n", 3, "must be a number"),
        (f"schema = 1\n[fuse.linear]\nlr = 1{'0' * 400}\n", 3, "must be a number"),
        ("schema = 1\n[finetune]\nepochs = 3\n", 3, "Write it under: [finetune.image] or [finetune.text]"),
        ("schema = 1\n[finetune]\nlr = 3\n[encoder.text]\n", 3, "Write it under: [finetune.text]"),
        ("schema = 1\n[encoder]\nmodel = 'x'\n", 3, "Write it under: [encoder.image] or [encoder.text]"),
        ('schema = 1\n"a\\u001b[31mb" = 3\n', None, "unknown key 'a\\x1b[31mb'"),
        ('schema = 1\n[finetune."a\\u001b"]\nepochs = 3\n', None, "[finetune.a\\x1b]"),
        ('schema = 1\n[fuse]\nhead = "a\\u001b"\n', 3, "a\\x1b"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path, text, line, says):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    message = str(error.value)
    assert message.startswith(f"mmfeat.toml:{line}:" if line else "mmfeat.toml: "), message
    assert says in message
    assert message.isprintable()


def test_invalid_toml_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path, "schema = = 1")


def test_options_are_stronger_than_the_file_and_read_as_the_keys_type(tmp_path):
    text = "schema = 1\n[fuse]\nhead = 'linear'\nseeds = 2\n"
    config = load(tmp_path, text, {"fuse.head": "concat", "fuse.crossattn.dropout": "0.25", "fuse.inputs": "text"})
    assert (config.fuse.head, config.fuse.seeds, config.fuse.crossattn.dropout) == ("concat", 2, 0.25)
    assert config.fuse.inputs == ("text",)
    assert config.origins["fuse.head"] == "option"
    assert config.origins["fuse.seeds"] == "mmfeat.toml"
    assert "fuse.linear.lr" not in config.origins


@pytest.mark.parametrize("key", ["encoder.image.size", "data.source", "split.val", "store.path"])
def test_what_all_commands_must_agree_on_has_no_option(tmp_path, key):
    with pytest.raises(ConfigError, match="has no options"):
        load(tmp_path, "schema = 1\n", {key: "1"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fuse.seeds", "two"),
        ("fuse.crossattn.dropot", "1"),
        ("fuse.head", "mpl"),
        ("fuse.crossattn.lr", "nan"),
        ("fuse.crossattn.lr", "inf"),
        ("fuse.crossattn.lr", "1e400"),
        ("predict.threshold", "nan"),
        ("predict.threshold", "-inf"),
        ("seed", "9" * 5000),
        ("seed", "9223372036854775808"),
        ("seed", "-1"),
        ("device", "mps"),
        ("fuse.inputs", ""),
    ],
)
def test_a_wrong_option_is_named(tmp_path, key, value):
    with pytest.raises(ConfigError, match=f"option {key}"):
        load(tmp_path, "schema = 1\n", {key: value})


def test_the_seed_of_random_weights_is_the_files(tmp_path):
    config = load(tmp_path, "schema = 1\nseed = 5\n", {"seed": "7"})
    assert (config.seed, config.file_seed) == (7, 5)
    assert load(tmp_path, "schema = 1\n", {"seed": 7}).file_seed == 0
    with pytest.raises(ConfigError, match=r"mmfeat.toml:2: seed"):
        load(tmp_path, "schema = 1\nseed = -1\n", {"seed": "7"})


def test_dotted_lists_every_setting_once(tmp_path):
    keys = [key for key, _ in load(tmp_path, "schema = 1\n").dotted()]
    assert len(keys) == len(set(keys))
    assert {"metric", "encoder.image.model", "fuse.crossattn.dropout", "predict.empty"} <= set(keys)


def test_the_template_is_a_valid_file_with_nothing_but_defaults_and_the_automatic_threshold(tmp_path):
    from mmfeat.project.template import ENCODERS, NEW_THRESHOLD, OWN_SPLIT, SHARES, TEMPLATE

    filled = TEMPLATE.format(
        about="",
        seed=0,
        metric='"samples-f1"',
        heads_dtype='"float32"',
        recipe='"best"',
        seeds=3,
        policy='"soft"',
        selftrain="",
        threshold=NEW_THRESHOLD,
        source='"s"',
        images='"i"',
        id='"a"',
        image='"a"',
        caption='"c"',
        labels='"l"',
        separator='" "',
        classes='#classes  = "classes.csv"',
        absent='"auto"',
        group='#group    = "product_id"',
        val=0.1,
        test=0.0,
        shares=SHARES,
        split=OWN_SPLIT,
        encoders="".join(
            ENCODERS[name].format(model=f'"{model}"', pretrained='"auto"')
            for name, model in (("image", "efficientnet_b4"), ("text", "google/bert_uncased_L-2_H-128_A-2"))
        ),
        synonyms='synonyms = "mmfeat"\n',
        finetune="#[finetune.image]",
        inputs='["image", "text"]',
        head="crossattn",
        head_table="#[fuse.crossattn]",
        empty='"most-probable"',
    )
    config = load(tmp_path, filled)
    values, defaults = config.values(), Config().values()
    assert values.pop("data") != defaults.pop("data")
    assert values.pop("predict") == defaults.pop("predict") | {"threshold": "auto"}  # files of 0.1 keep 0.5
    assert values["finetune"].pop("synonyms") == "mmfeat"  # files of 0.1 keep theirs
    assert defaults["finetune"].pop("synonyms") == ""
    new = {"image": {"precision": "mixed", "reduced_decoding": True}, "text": {"precision": "mixed"}}
    for name, changed in new.items():  # older files keep their keys
        assert values["encoder"].pop(name) == defaults["encoder"].pop(name) | changed
    assert values == defaults
    assert set(tomllib.loads(filled)) == set(Config().values())
