"""`init --preset`: the settings of a preset reach mmfeat.toml, whatever options are typed besides."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmfeat.common.errors import ConfigError
from mmfeat.config.presets import PRESETS
from mmfeat.config.reader import load_config, with_settings
from mmfeat.config.schema import Config
from mmfeat.project.initialisation import init

PAPER = PRESETS["paper"].settings


def settings_of(folder) -> dict:
    return dict(load_config(folder / "mmfeat.toml").dotted())


def test_the_paper_is_written_into_every_table(tmp_path, small_source):
    init(tmp_path, str(small_source), preset="paper")
    found = settings_of(tmp_path)
    assert {key: found[key] for key in PAPER} == PAPER
    kept = {key: value for key, value in Config().dotted() if key not in PAPER}
    changed = {key for key, value in kept.items() if found[key] != value and not key.startswith(("data.", "finetune."))}
    assert changed <= {"encoder.image.precision", "encoder.image.reduced_decoding", "encoder.text.precision"}
    assert init(tmp_path, preset="paper").unchanged
    assert init(tmp_path).unchanged


def test_the_papers_table_4_and_its_equations():
    """P7, P8, P12, P14 and P19, spelled out: a preset that loses one of them is not the paper's."""
    config = Config()
    assert (PAPER["finetune.recipe"], PAPER["finetune.synonyms"]) == ("paper", "wordnet")
    paper = load_recipe(config)
    for name, size in (("image", 60), ("text", 256)):
        tuned = paper.finetune_of(name)
        assert (tuned.lr, tuned.batch_size, tuned.optimizer, tuned.weights) == (5e-4, size, "adam", "paper")
        assert (tuned.schedule, tuned.warm_up, tuned.clip, tuned.ema, tuned.weight_decay) == ("constant", 0, 0, 0, 0)
    assert not any(key.startswith("fuse.linear.") for key in PAPER)  # baselines are not weakened
    for head in ("concat", "crossattn"):
        own = {key.rpartition(".")[2]: value for key, value in PAPER.items() if key.startswith(f"fuse.{head}.")}
        assert (own["optimizer"], own["schedule"], own["weights"]) == ("adam", "constant", "paper")
        assert not any(own[key] for key in ("clip", "weight_decay", "dropout", "standardise"))
    assert (own["residual"], own["positions"], own["hidden"], own["input_dropout"]) == ("input", False, 0, 0)
    assert [PAPER[f"selftrain.{key}"] for key in ("policy", "teacher", "encoder_every")] == ["paper", "fm1", 1]
    assert (PAPER["predict.threshold"], PAPER["predict.empty"]) == (0.5, "most-probable")
    assert PAPER["encoder.image.model"] == "efficientnet_b4"
    assert PAPER["encoder.text.model"] == "google/bert_uncased_L-2_H-128_A-2"


def load_recipe(config: Config) -> Config:
    return with_settings(config, {"finetune.recipe": PAPER["finetune.recipe"]})


def test_a_typed_option_is_stronger_than_the_preset(tmp_path, small_source, text_folder):
    options = {"image_encoder": "test_efficientnet", "image_weights": "random", "text_encoder": str(text_folder)}
    init(tmp_path, str(small_source), preset="paper", text_weights="random", **options)
    found = settings_of(tmp_path)
    assert (found["encoder.image.model"], found["encoder.image.pretrained"]) == ("test_efficientnet", "random")
    assert found["selftrain.policy"] == "paper"
    assert init(tmp_path, preset="paper", **options).unchanged


def test_without_a_preset_nothing_is_of_the_paper(tmp_path, small_source):
    init(tmp_path, str(small_source))
    found = settings_of(tmp_path)
    assert (found["metric"], found["finetune.recipe"], found["selftrain.policy"]) == ("samples-f1", "best", "soft")
    assert found["predict.threshold"] == "auto"
    assert found["finetune.synonyms"] == "mmfeat"
    init(tmp_path, str(small_source), preset="paper")  # nothing was edited or made: it starts over
    assert settings_of(tmp_path)["predict.threshold"] == 0.5


def test_an_edited_file_is_not_overwritten_by_a_preset(tmp_path, small_source):
    init(tmp_path, str(small_source), preset="paper")
    file = tmp_path / "mmfeat.toml"
    text = file.read_text(encoding="utf-8").replace('policy = "paper"', 'policy = "soft" ')
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r'has selftrain.policy = "soft", and the preset paper "paper"\. Leave out'):
        init(tmp_path, preset="paper")
    assert file.read_text(encoding="utf-8") == text


def test_data_without_captions_and_unknown_presets_are_one_line(tmp_path, small_source):
    (tmp_path / "t.csv").write_text("id,caption,labels\na,a dog runs here now,x\nb,a cat runs here now,y\n")
    with pytest.raises(ConfigError, match=r"--preset: it needs images and captions, and the data have no images"):
        init(tmp_path, str(tmp_path / "t.csv"), preset="paper")
    with pytest.raises(ConfigError, match=r"no preset 'papers'\. Use one of: paper"):
        init(tmp_path, str(small_source), preset="papers")
    assert not (tmp_path / "mmfeat.toml").exists()


def test_the_papers_models_with_the_default_head_are_smaller_than_100_mb_with_heads_in_float16():
    """P21, from shapes: no weights are read. With three seeds, as by default, or one, as in the preset."""
    import torch

    from mmfeat.config.encoder_tables import ImageEncoderConfig
    from mmfeat.encoders.catalogue import _megabytes, describe_image
    from mmfeat.encoders.families.transformer_text import without_unread
    from mmfeat.encoders.torchvision_remedy import make_torchvision_importable
    from mmfeat.heads import build_head

    make_torchvision_importable()
    import transformers

    image = describe_image(ImageEncoderConfig(model=PAPER["encoder.image.model"]), Path())
    tiny = transformers.BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    with torch.device("meta"):
        encoders = image.size_mb + _megabytes(without_unread(transformers.BertModel(tiny)))
    widths, n_classes = {"image": image.width, "text": 128}, 18
    assert widths["image"] == 1792
    found = {}
    for name, config in (("default", Config()), ("paper", with_settings(Config(), fuse_settings()))):
        found[name] = build_head("crossattn", widths, n_classes, config.fuse.crossattn).size_mb()
    assert encoders + found["default"] * Config().fuse.seeds == pytest.approx(101.6, abs=0.1)
    assert PAPER["heads_dtype"] == "float16"
    assert encoders + found["default"] * Config().fuse.seeds / 2 == pytest.approx(94.9, abs=0.1)
    assert encoders + found["paper"] * PAPER["fuse.seeds"] / 2 == pytest.approx(88.4, abs=0.1)


def fuse_settings() -> dict:
    return {key: value for key, value in PAPER.items() if key.startswith("fuse.crossattn.")}
