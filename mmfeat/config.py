"""mmfeat.toml: every setting, its default, and one clear line for every mistake in it.

One frozen dataclass for each table of the file. A value comes from an option of the command, else from the file, else
from the default here; `Config.origins` tells which. What is written in a run's `run.json` is `asdict` of these.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfeat.errors import ConfigError

FILE_NAME = "mmfeat.toml"
METRICS = ("samples-f1", "micro-f1", "macro-f1", "map", "loss")
MODALITIES = ("image", "text")
RECIPES = ("fm1", "fm2", "fm3")  # ensembles by name; encoders, runs and recipes share one namespace


def setting(default: Any, *, choices: tuple[Any, ...] = (), low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with the values it may take: one of `choices`, or a number from `low` to `high`."""
    return field(default=default, metadata={"choices": choices, "low": low, "high": high})


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from; `[data]`."""

    source: str = ""  # a folder with train.csv and test.csv, or a CSV table
    images: tuple[str, ...] = ()  # folders and zip files; patterns with * are allowed
    id: str = ""  # columns of the source; empty: found
    image: str = ""
    caption: str = ""
    labels: str = ""
    separator: str = " "  # between the labels of one cell


@dataclass(frozen=True)
class SplitConfig:
    """Shares of the labelled rows; `[split]`."""

    val: float = setting(0.1, low=0.0, high=0.9)  # chooses epochs, rounds, the best run
    test: float = setting(0.0, low=0.0, high=0.9)  # read by nothing but evaluate --split test


@dataclass(frozen=True)
class ImageEncoderConfig:
    """What an image encoder is; `[encoder.NAME]` with modality image."""

    model: str = "efficientnet_b4"  # any timm name
    pretrained: str = "auto"  # auto: the model's own; random; a .safetensors or .pth file
    checkpoint: str = "latest"  # latest from finetune, if any; none; checkpoints/NAME-1
    size: int | str = "auto"  # pixels; auto: as pretrained
    precision: str = setting("float32", choices=("float32", "bfloat16", "float16"))  # of the forward pass
    modality: str = setting("image", choices=("image",))


@dataclass(frozen=True)
class TextEncoderConfig:
    """What a text encoder is; `[encoder.NAME]` with modality text."""

    model: str = "google/bert_uncased_L-2_H-128_A-2"  # any transformers name or folder
    pretrained: str = "auto"
    checkpoint: str = "latest"
    max_length: int = setting(64, low=2)  # tokens, special ones included
    pooling: str = setting("auto", choices=("auto", "cls", "mean", "max"))  # auto: as the model's folder says, else mean
    precision: str = setting("float32", choices=("float32", "bfloat16", "float16"))
    modality: str = setting("text", choices=("text",))


EncoderConfig = ImageEncoderConfig | TextEncoderConfig


@dataclass(frozen=True)
class StoreConfig:
    """Where features are kept; `[store]`."""

    path: str = "features"  # may be shared by several projects
    dtype: str = setting("float16", choices=("float16", "float32"))  # of embeddings; logits are always float32


@dataclass(frozen=True)
class FinetuneConfig:
    """How one encoder is fine-tuned; `[finetune.NAME]`. Defaults: the paper's Table 4 (P19), per modality where they differ."""

    epochs: int = setting(10, low=1)
    patience: int = setting(3, low=1)  # epochs without a better val figure before it stops
    lr: float = setting(5e-4, low=0.0)  # P19
    batch_size: int = setting(0, low=0)  # 0: the paper's, 60 for images and 256 for text
    optimizer: str = setting("adam", choices=("adam", "adamw"))  # P19
    weights: str = setting("paper", choices=("paper", "none"))  # of the classes in the loss: P7, or all 1
    augment: bool = True  # P5 and P6: horizontal flips, synonyms


@dataclass(frozen=True)
class LinearConfig:
    """The linear head; `[fuse.linear]` and, on several encoders, `[fuse.concat]` (P10)."""

    lr: float = setting(1e-3, low=0.0)
    weight_decay: float = setting(1e-2, low=0.0)
    dropout: float = setting(0.2, low=0.0, high=0.95)  # of the standardised inputs
    epochs: int = setting(40, low=1)
    patience: int = setting(8, low=1)
    batch_size: int = setting(0, low=0)  # 0: from 32 to 256, about 30 batches an epoch
    weights: str = setting("none", choices=("none", "paper"))


@dataclass(frozen=True)
class CrossAttentionConfig:
    """The cross-attention head; `[fuse.crossattn]` (P12)."""

    lr: float = setting(5e-4, low=0.0)
    weight_decay: float = setting(1e-2, low=0.0)
    dropout: float = setting(0.5, low=0.0, high=0.95)  # of the hidden layer
    input_dropout: float = setting(0.3, low=0.0, high=0.95)  # of the standardised inputs
    epochs: int = setting(30, low=1)
    patience: int = setting(6, low=1)
    batch_size: int = setting(0, low=0)  # 0: from 32 to 256, about 30 batches an epoch
    weights: str = setting("none", choices=("none", "paper"))
    token_width: int = setting(128, low=1)  # an image vector becomes ceil(D / token_width) tokens: 1792 = 14 x 128
    hidden: int = setting(512, low=0)  # width of the layer after joining; 0: linear, as in the paper
    query: str = ""  # the encoder that asks; empty: the text encoder


@dataclass(frozen=True)
class FuseConfig:
    """Which head is trained, on what; `[fuse]`."""

    head: str = setting("crossattn", choices=("linear", "concat", "crossattn"))
    inputs: tuple[str, ...] = ("image", "text")  # names of encoders
    seeds: int = setting(3, low=1)
    linear: LinearConfig = LinearConfig()
    concat: LinearConfig = LinearConfig()
    crossattn: CrossAttentionConfig = CrossAttentionConfig()


@dataclass(frozen=True)
class SelftrainConfig:
    """Self-training rounds; `[selftrain]`."""

    rounds: int = setting(5, low=0)
    policy: str = setting("all", choices=("all",))  # all: every unlabelled row takes part in every round (P14)


@dataclass(frozen=True)
class PredictConfig:
    """From probabilities to labels; `[predict]`."""

    threshold: float = setting(0.5, low=0.0, high=1.0)
    empty: str = setting("most-probable", choices=("most-probable", "none"))  # where nothing passes (P8)


@dataclass(frozen=True)
class Config:
    """The whole of mmfeat.toml with what was left out filled in.

    Attributes
    ----------
    root : Path
        The folder of the file; relative paths start there.
    origins : dict[str, str]
        Dotted key to where its value came from (`mmfeat.toml` or an option's name); a key that is absent has its default.
    """

    schema: int = setting(1, choices=(1,))
    metric: str = setting("samples-f1", choices=METRICS)  # what is chosen for
    seed: int = setting(0, low=0)
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    encoder: dict[str, EncoderConfig] = field(
        default_factory=lambda: {"image": ImageEncoderConfig(), "text": TextEncoderConfig()}
    )
    store: StoreConfig = StoreConfig()
    finetune: dict[str, FinetuneConfig] = field(default_factory=dict)
    fuse: FuseConfig = FuseConfig()
    selftrain: SelftrainConfig = SelftrainConfig()
    predict: PredictConfig = PredictConfig()
    root: Path = field(default=Path("."), metadata={"internal": True})
    origins: dict[str, str] = field(default_factory=dict, metadata={"internal": True})

    def path(self, text: str) -> Path:
        """A path of the file, made absolute: `~` is the home folder, a relative path starts at the file."""
        return self.root / Path(text).expanduser()

    def finetune_of(self, name: str) -> FinetuneConfig:
        """The fine-tuning settings of one encoder, with its modality's batch size filled in (P19)."""
        settings = self.finetune.get(name, FinetuneConfig())
        if settings.batch_size == 0:
            size = 60 if self.encoder[name].modality == "image" else 256
            settings = dataclasses.replace(settings, batch_size=size)
        return settings

    def values(self) -> dict[str, Any]:
        """Every setting as plain JSON values, nested as in the file."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if not f.metadata.get("internal")}


    def dotted(self) -> list[tuple[str, Any]]:
        """Every setting as (dotted key, plain value), in the order of the file."""

        def walk(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
            pairs = []
            for name, value in values.items():
                pairs += walk(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
            return pairs

        return walk(self.values(), "")


def config_of(raw: dict[str, Any], root: Path) -> Config:
    """A configuration from nested values that stand in no file yet, checked like a file's."""
    where = _Where("", set(_dotted(raw)))
    config = dataclasses.replace(_read(Config, raw, "", where), root=root.resolve())
    _check(config, where)
    return config


def load_config(path: Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read mmfeat.toml, apply options over it, check everything.

    Parameters
    ----------
    path : Path
        The file.
    overrides : dict[str, Any], optional
        Dotted key (`fuse.crossattn.dropout`) to value; a `str` is read as the key's type. What an encoder is, the data,
        the split and the store cannot be overridden: all commands must agree on them.

    Raises
    ------
    ConfigError
        With the file's line, the key and the nearest valid one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Run: mmfeat init SOURCE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{FILE_NAME}: not valid TOML: {error}") from None
    origins = {key: FILE_NAME for key in _dotted(raw)}
    for key, value in (overrides or {}).items():
        _override(raw, key, value)
        origins[key] = "option"
    config = _read(Config, raw, "", _Where(text, set(overrides or ())))
    config = dataclasses.replace(config, root=path.parent.resolve(), origins=origins)
    _check(config, _Where(text, set(overrides or ())))
    return config


@dataclass(frozen=True)
class _Where:
    """Finds the line of a key, for messages."""

    text: str
    overridden: set[str]

    def __call__(self, dotted: str) -> str:
        if dotted in self.overridden:
            return f"option {dotted}"
        *tables, name = dotted.split(".")
        table = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[+\s*([^\]#]+?)\s*\]", line):
                table = re.sub(r"[\s\"']", "", header[1])
                if table == dotted:
                    return f"{FILE_NAME}:{number}"
            elif assigned := re.match(r"\s*([\w.\-\"' ]+?)\s*=", line):
                key = re.sub(r"[\s\"']", "", assigned[1])
                if f"{table}.{key}".strip(".") == ".".join([*tables, name]):
                    return f"{FILE_NAME}:{number}"
        return FILE_NAME


def _dotted(raw: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in raw.items():
        keys += _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
    return keys


def _override(raw: dict[str, Any], key: str, value: Any) -> None:
    *tables, name = key.split(".")
    if tables and tables[0] in ("data", "split", "encoder", "store"):
        raise ConfigError(f"option {key}: [{tables[0]}] has no options, since all commands must agree on it. Edit {FILE_NAME}")
    target = raw
    for table in tables:
        target = target.setdefault(table, {})
        if not isinstance(target, dict):
            raise ConfigError(f"option {key}: '{table}' is not a table")
    target[name] = _Text(value) if isinstance(value, str) else value


class _Text(str):
    """A value typed on the command line: read as the type that its key has."""


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"Nearest: {close[0]}" if close else f"Known here: {', '.join(valid)}"


def _read(cls: type, raw: dict[str, Any], prefix: str, where: _Where) -> Any:
    """Build a dataclass from a table, checking names, types and ranges."""
    fields = {f.name: f for f in dataclasses.fields(cls) if not f.metadata.get("internal")}
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in raw.items():
        dotted = prefix + name
        if name not in fields:
            raise ConfigError(f"{where(dotted)}: unknown key '{dotted}'. {_nearest(name, list(fields))}")
        values[name] = _read_value(hints[name], fields[name], value, dotted, where)
    return cls(**values)


def _read_value(hint: Any, f: dataclasses.Field, value: Any, dotted: str, where: _Where) -> Any:
    if dotted in ("encoder", "finetune"):
        if not isinstance(value, dict):
            raise ConfigError(f"{where(dotted)}: '{dotted}' is a table: write [{dotted}.NAME]")
        read = _read_encoder if dotted == "encoder" else _read_finetune
        return {name: read(name, table, where) for name, table in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where(dotted)}: '{dotted}' is a table, found {_show(value)}. Write: [{dotted}]")
        return _read(hint, value, dotted + ".", where)
    value = _typed(hint, value, dotted, where)
    choices, low, high = (f.metadata.get(k) for k in ("choices", "low", "high"))
    if choices and value not in choices:
        found = _show(value)
        raise ConfigError(f"{where(dotted)}: {dotted} = {found}. Use one of: {', '.join(map(str, choices))}")
    if low is not None and value < low or high is not None and value > high:
        bounds = f"from {low:g}" + (f" to {high:g}" if high is not None else "")
        raise ConfigError(f"{where(dotted)}: {dotted} = {_show(value)}. Use a number {bounds}")
    return value


def _typed(hint: Any, value: Any, dotted: str, where: _Where) -> Any:
    """Check a value's type; a command line's text is converted first."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in options:
        if typing.get_origin(kind) is tuple:
            values = str(value).split(",") if isinstance(value, _Text) else value
            values = [values] if isinstance(values, str) else values
            if isinstance(values, list | tuple) and all(isinstance(v, str) for v in values):
                return tuple(str(v) for v in values)
        elif isinstance(value, _Text):
            try:
                if kind is bool:
                    return {"true": True, "false": False}[value.lower()]
                return kind(str(value))
            except (ValueError, KeyError):
                continue
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            if value == value and abs(value) != float("inf"):
                return float(value)
        elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    names = {"int": "a whole number", "float": "a number", "str": "text in quotes", "bool": "true or false"}
    wanted = " or ".join(names.get(getattr(kind, "__name__", ""), "a list of texts") for kind in options)
    raise ConfigError(f"{where(dotted)}: {dotted} must be {wanted}, found {_show(value)}")


def _read_encoder(name: str, table: Any, where: _Where) -> EncoderConfig:
    dotted = f"encoder.{name}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where(dotted)}: '{dotted}' is a table. Write: [{dotted}]")
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise ConfigError(f"{where(dotted)}: an encoder's name is letters, digits, - and _, found {_show(name)}")
    if name in RECIPES or re.search(r"-\d+$", name):
        raise ConfigError(f"{where(dotted)}: '{name}' is the name of a recipe or of a run. Rename the encoder")
    modality = table.get("modality", name)
    if modality not in MODALITIES:
        raise ConfigError(f'{where(dotted)}: {dotted} needs its modality. Write: modality = "image" or modality = "text"')
    cls = ImageEncoderConfig if modality == "image" else TextEncoderConfig
    config = _read(cls, table, dotted + ".", where)
    size = getattr(config, "size", "auto")
    if size != "auto" and not (isinstance(size, int) and 1 <= size <= 4096):
        raise ConfigError(f'{where(dotted + ".size")}: {dotted}.size = {_show(size)}. Use "auto" or pixels from 1 to 4096')
    return config


def _read_finetune(name: str, table: Any, where: _Where) -> FinetuneConfig:
    if not isinstance(table, dict):
        raise ConfigError(f"{where('finetune.' + name)}: 'finetune.{name}' is a table of one encoder. Write: [finetune.{name}]")
    return _read(FinetuneConfig, table, f"finetune.{name}.", where)


def _check(config: Config, where: _Where) -> None:
    """What no single value shows."""
    names = list(config.encoder)
    if not names:
        raise ConfigError(f"{where('encoder')}: there is no encoder. Write: [encoder.image]")
    for name in config.fuse.inputs:
        if name not in names:
            raise ConfigError(f"{where('fuse.inputs')}: fuse.inputs names '{name}'. {_nearest(name, names)}")
    for name in config.finetune:
        if name not in names:
            raise ConfigError(f"{where('finetune.' + name)}: unknown encoder in [finetune.{name}]. {_nearest(name, names)}")
    if config.split.val + config.split.test >= 1:
        raise ConfigError(f"{where('split.val')}: split.val + split.test = {config.split.val + config.split.test:g} leaves no row to train on")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.device):
        raise ConfigError(f"{where('device')}: device = {_show(config.device)}. Use one of: auto, cpu, cuda, cuda:1")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _show(value: Any) -> str:
    """A value for a message: short, on one line, control characters escaped."""
    text = repr(str(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
