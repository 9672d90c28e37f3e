"""Presets of `mmfeat init --preset NAME`: the settings that a new mmfeat.toml is written with, each in one place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmfeat.common.text import toml_value
from mmfeat.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of a new project.

    Attributes
    ----------
    about : tuple of str
        Comments at the top of the file.
    modalities : tuple of str
        The modalities that the data must have.
    settings : dict of str to Any
        Dotted key to value.
    """

    about: tuple[str, ...]
    modalities: tuple[str, ...]
    settings: dict[str, Any]

    def lines(self, config: Config, table: str) -> list[str]:
        """The preset's keys of a table as lines of TOML, with their values in `config`."""
        values = dict(config.dotted())
        return [f"{key} = {toml_value(values[f'{table}.{key}'])}" for key in self._keys(table)]

    def head_tables(self, config: Config) -> str:
        """The tables `[fuse.HEAD]`, one after another."""
        heads = dict.fromkeys(key.split(".")[1] for key in self.settings if key.count(".") == 2 and key[:5] == "fuse.")
        return "\n\n".join("\n".join([f"[fuse.{head}]", *self.lines(config, f"fuse.{head}")]) for head in heads)

    def _keys(self, table: str) -> Iterator[str]:
        return (key.rpartition(".")[2] for key in self.settings if key.rpartition(".")[0] == table)


# Heads by 3.1.2 and Table 4: Adam, lr 5e-4, weighted loss. The paper names neither their schedule nor their dropout.
_HEAD = {
    "lr": 5e-4,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "weights": "paper",
    "optimizer": "adam",
    "schedule": "constant",
    "clip": 0.0,
    "standardise": False,
}
# Equations 33-37: no positions, the text embedding itself as the residual, a linear output.
_CROSSATTN = {
    **_HEAD,
    "input_dropout": 0.0,
    "token_width": 128,
    "hidden": 0,
    "tokens": "chunked",
    "heads": 1,
    "layers": 1,
    "residual": "input",
    "positions": False,
}
# Not `linear`: baselines and probes of frozen encoders, which the paper has none of, keep settings that suit them.
_HEADS = {"concat": _HEAD, "crossattn": _CROSSATTN}

PRESETS = {
    "paper": Preset(
        about=(
            "Written by: mmfeat init --preset paper. Its settings are those of the paper; where it names none, mmfeat's.",
            "In this order: mmfeat finetune; extract; fuse --head concat; fuse --head crossattn; ensemble fm1, fm2, fm3;",
            "compare heads; selftrain; ensemble fm1; predict. All of it, beside the paper's numbers: mmfeat reproduce",
        ),
        modalities=("image", "text"),
        settings={
            "metric": "macro-f1",  # 4.1.3
            "heads_dtype": "float16",  # the default model then is smaller than 100 MB (P21)
            "encoder.image.model": "efficientnet_b4",
            "encoder.text.model": "google/bert_uncased_L-2_H-128_A-2",
            "finetune.recipe": "paper",  # Table 4; mmfeat.config.finetune_recipes
            "finetune.synonyms": "wordnet",  # 3.1.1: two words of each caption
            "fuse.head": "crossattn",
            "fuse.seeds": 1,
            **{f"fuse.{head}.{key}": value for head, settings in _HEADS.items() for key, value in settings.items()},
            "selftrain.policy": "paper",  # 3.1.4
            "selftrain.teacher": "fm1",
            "selftrain.encoder_every": 1,
            "predict.threshold": 0.5,  # 3.1.3
            "predict.empty": "most-probable",
        },
    )
}
