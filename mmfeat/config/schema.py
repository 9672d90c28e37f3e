"""Every setting of mmfeat.toml with its default: one frozen dataclass for each table of the file.

A value comes from the command's option, otherwise from the file, otherwise from the default here; `Config.origins`
records the source. :mod:`mmfeat.config.reader` reads and checks the file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfeat.common.plugins import Registry
from mmfeat.config.encoder_tables import (
    EncoderTable,
    ImageEncoderConfig,
    OtherEncoderConfig,  # noqa: F401 - re-exported: this module has all tables of the file
    TextEncoderConfig,
    TfidfEncoderConfig,  # noqa: F401
)
from mmfeat.config.fields import LOSSES, MAX_LR, OPTIMIZERS, SCHEDULES, setting, settings_of_training
from mmfeat.config.finetune_recipes import FINETUNE_RECIPES, FinetuneConfig, recipe_settings

FILE_NAME = "mmfeat.toml"
METRICS = ("samples-f1", "micro-f1", "macro-f1", "map", "loss")
MODALITIES = ("image", "text")  # default encoders, if mmfeat.toml has no [encoder.NAME]
DEVICES = ("auto", "cpu", "cuda", "cuda:1")
HEAD, HEAD_ALONE = "crossattn", "linear"  # the default head: on several encoders, on one
TOKENS = ("auto", "chunked", "projected", "stored")  # what attention heads attend to
POLICIES = ("soft", "class-aware", "confident", "all", "paper")  # of self-training
TEACHERS = ("fm1", "fm3")  # of self-training as in the paper
METHODS = ("mean", "weighted", "per-class", "stacked", "greedy")  # of ensembles; all but the first are fitted
RECIPES = ("fm1", "fm2", "fm3")  # ensembles by name; encoders, runs and recipes share one namespace
ENGINES = ("torch", "compile", "onnxruntime", "openvino")  # libraries that execute encoders
ENGINE_CHOICES = ("auto", *ENGINES)
AUTO = "auto"  # one threshold, fitted if that beats 0.5 beyond the standard error, else 0.5
TUNED = ("tuned", "tuned-per-class")  # thresholds that are always fitted
MAX_SEED = 2**63 - 1
MAX_FOLD = 99  # the highest number of a fold in a column of splits


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from; `[data]`."""

    source: str = ""  # a folder with train.csv and test.csv, COCO's files, or a CSV, TSV, Parquet or JSONL table
    images: tuple[str, ...] = ()  # folders, zip and tar files; patterns with * are allowed
    id: str = ""  # columns of the source; empty: found by common names
    image: str = ""
    caption: str | tuple[str, ...] = ""  # several are joined
    labels: str | tuple[str, ...] = ""  # a column of names; a list: columns of 0, 1 and blank. Of COCO: categories
    group: str = ""  # column: rows of one group are in one split; empty: no groups, they are never guessed
    # unlisted labels: negative or unknown; auto: by the source
    absent: str = setting("auto", choices=("auto", "negative", "unknown"))
    separator: str = setting(" ", filled=True)  # between the labels of one cell
    classes: str = ""  # CSV table with a column `label`: the class list; without it every label found is a class
    max_megapixels: float = setting(178.95697, low=0.001)  # of one image; larger ones are refused
    truncated: str = setting("refuse", choices=("refuse", "accept"))  # a JPEG whose end is missing


@dataclass(frozen=True)
class SplitConfig:
    """Shares of the labelled rows, or a split that the data bring; `[split]`."""

    val: float = setting(0.1, low=0.0, high=0.9)  # epochs, rounds and the best run are selected on it
    test: float = setting(0.0, low=0.0, high=0.9)  # only evaluate --split test reads it
    column: str = ""  # column of the source: train, val, test, unlabelled or the number of a fold
    val_fold: int = setting(0, low=-1, high=MAX_FOLD)  # the fold of `column` that is val; -1: none
    test_fold: int = setting(-1, low=-1, high=MAX_FOLD)  # the fold of `column` that is test; -1: none
    train_ids: str = ""  # files of ids, instead of a column
    val_ids: str = ""
    test_ids: str = ""

    @property
    def files(self) -> dict[str, str]:
        """The file of ids of each split that has one."""
        named = {"train": self.train_ids, "val": self.val_ids, "test": self.test_ids}
        return {split: file for split, file in named.items() if file}

    @property
    def is_given(self) -> bool:
        """Whether the data bring the split."""
        return bool(self.column or self.files)

    def wrong(self) -> tuple[str, str] | None:
        """The first key that contradicts another, and the message; None if there is none."""
        if self.val + self.test >= 1:
            return "val", f"split.val + split.test = {self.val + self.test:g} leaves no row to train on"
        if self.column and self.files:
            return "column", f"split.column and split.{next(iter(self.files))}_ids are both set. Leave one of them out"
        if self.column and self.val_fold == self.test_fold >= 0:
            return "test_fold", f"split.val_fold and split.test_fold are both {self.val_fold}. Use two folds"
        return None


@dataclass(frozen=True)
class StoreConfig:
    """The feature store; `[store]`."""

    path: str = setting("features", filled=True)  # may be shared by several projects
    # of embeddings and cached layers; logits are always float32
    dtype: str = setting("float16", choices=("float16", "float32"))
    front_limit: float = setting(10_000.0, low=0.0)  # MB of one encoder's cached layers; 0: none are kept


@dataclass(frozen=True)
class FinetuneStage:
    """`[finetune]`: a recipe; `[finetune.NAME]` overrides its settings for one encoder."""

    recipe: str = setting("best", choices=tuple(FINETUNE_RECIPES))  # best: by mmfeat's benchmarks; paper: P19
    synonyms: str = ""  # for captions: a file with comma-separated synonyms in each line; empty: mmfeat's list
    encoders: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"internal": True})


# Keys of [finetune] that apply to all encoders; its subtables are [finetune.NAME].
FINETUNE_KEYS = tuple(f.name for f in dataclasses.fields(FinetuneStage) if not f.metadata.get("internal"))


@dataclass(frozen=True)
class HeadConfig:
    """Settings that every `[fuse.HEAD]` has; a head's own class overrides some defaults."""

    lr: float = setting(5e-4, low=0.0, high=MAX_LR)
    weight_decay: float = setting(1e-2, low=0.0)
    dropout: float = setting(0.5, low=0.0, high=0.95)  # of the last layer's inputs
    modality_dropout: float = setting(0.0, low=0.0, high=0.95)  # share of rows in which each modality is hidden
    epochs: int = setting(30, low=1)
    patience: int = setting(6, low=1)
    batch_size: int = setting(0, low=0)  # 0: from 32 to 256, about 30 batches an epoch
    weights: str = setting("none", choices=("none", "paper"))
    loss: str = setting("bce", choices=LOSSES)  # bce; focal; asymmetric
    optimizer: str = setting("adamw", choices=OPTIMIZERS, later=True)
    schedule: str = setting("cosine", choices=SCHEDULES, later=True)  # cosine, after a warm-up; constant: lr throughout
    clip: float = setting(1.0, low=0.0, later=True)  # largest norm of the gradient; 0: no limit
    standardise: bool = setting(True, later=True)  # embeddings: zero mean and unit variance over the training rows

    def of_training(self) -> dict[str, Any]:
        """The settings that a head's fit depends on, as JSON values."""
        return settings_of_training(self)


@dataclass(frozen=True)
class LinearConfig(HeadConfig):
    """The linear head; `[fuse.linear]` and, on several encoders, `[fuse.concat]` (P10)."""

    lr: float = setting(1e-3, low=0.0, high=MAX_LR)
    dropout: float = setting(0.2, low=0.0, high=0.95)  # of the standardised inputs
    epochs: int = setting(40, low=1)
    patience: int = setting(8, low=1)


@dataclass(frozen=True)
class HiddenConfig(HeadConfig):
    """Additional settings of heads with a hidden layer."""

    input_dropout: float = setting(0.3, low=0.0, high=0.95)  # of the standardised embeddings


@dataclass(frozen=True)
class MlpConfig(HiddenConfig):
    """The MLP head; `[fuse.mlp]`."""

    hidden: int = setting(512, low=1)


@dataclass(frozen=True)
class CrossAttentionConfig(HiddenConfig):
    """The cross-attention head; `[fuse.crossattn]` (P12)."""

    token_width: int = setting(128, low=1)  # an image vector becomes ceil(D / token_width) tokens: 1792 = 14 x 128
    hidden: int = setting(512, low=0)  # width of the layer after concatenation; 0: none, as in the paper
    query: str = setting("", encoder=True)  # the encoder whose embedding is the query; empty: the text encoder
    # auto: stored tokens where an encoder keeps some, else pieces of the embedding
    tokens: str = setting("auto", choices=TOKENS)
    heads: int = setting(1, low=1)  # of the attention; divides token_width (P22)
    layers: int = setting(1, low=1, high=12)  # each layer's query is the output of the previous layer
    # added to the attention's result: query, after its projection; input, the embedding itself (eq. 37)
    residual: str = setting("query", choices=("query", "input"), later=True)
    positions: bool = setting(True, later=True)  # a learned vector is added to each token


@dataclass(frozen=True)
class GatedConfig(HiddenConfig):
    """The gated multimodal unit; `[fuse.gated]`."""

    hidden: int = setting(512, low=1)


@dataclass(frozen=True)
class WeightedConfig(HiddenConfig):
    """The head that weights modalities sample by sample; `[fuse.weighted]` (P22)."""

    modality_dropout: float = setting(0.2, low=0.0, high=0.95)
    hidden: int = setting(512, low=1)  # of each modality


@dataclass(frozen=True)
class LabelQueryConfig(HiddenConfig):
    """One query per class over all tokens; `[fuse.labelquery]`."""

    width: int = setting(128, low=1)  # of queries and projected tokens
    token_width: int = setting(128, low=1)  # of the pieces of an embedding, if no tokens are stored
    # auto: stored tokens where an encoder keeps some, else pieces of the embedding
    tokens: str = setting("auto", choices=TOKENS)
    heads: int = setting(4, low=1)  # of the attention; divides width
    layers: int = setting(1, low=1, high=12)


HEADS: Registry[type[HeadConfig]] = Registry("head", "mmfeat.heads")  # a head's name to the class of its settings
for _name, _settings in {
    "linear": LinearConfig,
    "mlp": MlpConfig,
    "concat": LinearConfig,
    "crossattn": CrossAttentionConfig,
    "gated": GatedConfig,
    "weighted": WeightedConfig,
    "labelquery": LabelQueryConfig,
}.items():
    HEADS.register(_name, _settings)


@dataclass(frozen=True)
class FuseConfig:
    """The head to train and its inputs; `[fuse]`."""

    head: str = setting(HEAD, choices=HEADS)
    inputs: tuple[str, ...] = setting(("image", "text"), filled=True)  # names of encoders
    seeds: int = setting(3, low=1)
    folds: int = setting(0, low=0, high=20)  # 5: each head is trained without a fifth of the labelled rows; 0: no folds
    linear: LinearConfig = LinearConfig()
    mlp: MlpConfig = MlpConfig()
    concat: LinearConfig = LinearConfig()
    crossattn: CrossAttentionConfig = CrossAttentionConfig()
    gated: GatedConfig = GatedConfig()
    weighted: WeightedConfig = WeightedConfig()
    labelquery: LabelQueryConfig = LabelQueryConfig()
    others: dict[str, HeadConfig] = field(default_factory=dict, metadata={"internal": True})  # of installed packages

    def settings_of(self, head: str) -> HeadConfig:
        """The settings of one head, from `[fuse.HEAD]`."""
        own = getattr(self, head, None)
        return own if isinstance(own, HeadConfig) else self.others.get(head) or HEADS[head]()

    @property
    def tables(self) -> dict[str, HeadConfig]:
        """Settings by head: all built-in heads, and heads of installed packages that have a table in the file."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**{name: one for name, one in own.items() if isinstance(one, HeadConfig)}, **self.others}


@dataclass(frozen=True)
class SelftrainConfig:
    """Self-training rounds; `[selftrain]`."""

    rounds: int = setting(5, low=0)
    encoder_every: int = setting(0, low=0)  # rounds between two fine-tunings of the encoders on pseudo-labels; 0: none
    # how pseudo-labels are made; paper: the paper's procedure (P14)
    policy: str = setting("soft", choices=POLICIES)
    teacher: str = setting("fm1", choices=TEACHERS)  # policy paper: the fusion that gives pseudo-labels and is judged
    yes: float = setting(0.8, low=0.5, high=1.0)  # policy confident: lowest probability of a positive
    no: float = setting(0.1, low=0.0, high=0.5)  # policy confident: highest probability of a negative

    def of_training(self) -> dict[str, Any]:
        """The settings that a self-training depends on, as JSON values."""
        own = {"yes": self.yes, "no": self.no} if self.policy == "confident" else {}
        own |= {"teacher": self.teacher} if self.policy == "paper" else {}
        encoders = {"encoder_every": self.encoder_every} if self.encoder_every else {}
        return {"rounds": self.rounds, "policy": self.policy, **own, **encoders}


@dataclass(frozen=True)
class PredictConfig:
    """From probabilities to labels; `[predict]`."""

    # a number, or fitted on val rows; auto: fitted if that beats 0.5 beyond the standard error. New projects have auto
    threshold: float | str = setting(0.5, low=0.0, high=1.0, choices=(AUTO, *TUNED))
    # labels of a row without a class above the threshold (P8)
    empty: str = setting("most-probable", choices=("most-probable", "none"))
    calibration: str = setting("none", choices=("none", "temperature"))  # of probabilities, fitted on val rows

    @property
    def auto(self) -> bool:
        """Whether val rows decide between a fitted threshold and 0.5."""
        return self.threshold == AUTO

    @property
    def tuned(self) -> bool:
        """Whether the threshold is always fitted on val rows."""
        return self.threshold in TUNED

    @property
    def per_class(self) -> bool:
        """Whether each class has its own threshold."""
        return self.threshold == "tuned-per-class"

    @property
    def fits(self) -> bool:
        """Whether anything may be fitted on val rows."""
        return self.auto or self.tuned or self.calibration != "none"

    @property
    def needs_val(self) -> bool:
        """Whether there is no rule without val rows; `auto` is 0.5 then."""
        return self.tuned or self.calibration != "none"

    @property
    def untuned(self) -> float:
        """The threshold for selecting epochs: 0.5 unless the setting is a number."""
        return 0.5 if isinstance(self.threshold, str) else self.threshold

    def of_training(self) -> dict[str, Any]:
        """The settings that a head's fit depends on, as JSON values; thresholds and temperatures are fitted later."""
        return {"threshold": self.untuned, "empty": self.empty}


@dataclass(frozen=True)
class Config:
    """The whole of mmfeat.toml, with defaults filled in.

    Attributes
    ----------
    root : Path
        The folder of the file; relative paths start there.
    origins : dict[str, str]
        Dotted key to the source of its value: `mmfeat.toml` or `option`. Keys that are not listed have their default.
    file_seed : int
        The file's seed, which determines random weights of encoders: no option changes an encoder.
    """

    schema: int = setting(1, choices=(1,))
    metric: str = setting("samples-f1", choices=METRICS)  # epochs, rounds and runs are selected by it
    seed: int = setting(0, low=0, high=MAX_SEED)
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    # executes encoders; auto: the fastest, once it is measured
    engine: str = setting("auto", choices=ENGINE_CHOICES)
    limit_mb: float = setting(100.0, low=0)  # of a whole model; runs and export say by how much it is met; 0: none
    heads_dtype: str = setting(
        "float32", choices=("float32", "float16")
    )  # of heads and linear probes in exported models
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    encoder: dict[str, EncoderTable] = field(
        default_factory=lambda: {"image": ImageEncoderConfig(), "text": TextEncoderConfig()}
    )
    store: StoreConfig = StoreConfig()
    finetune: FinetuneStage = FinetuneStage()
    fuse: FuseConfig = FuseConfig()
    selftrain: SelftrainConfig = SelftrainConfig()
    predict: PredictConfig = PredictConfig()
    root: Path = field(default=Path("."), metadata={"internal": True})
    origins: dict[str, str] = field(default_factory=dict, metadata={"internal": True})
    file_seed: int = field(default=0, metadata={"internal": True})

    def path(self, text: str) -> Path:
        """The absolute path for a path in the file: `~` is the home folder, relative paths start at the file's folder."""
        return self.root / Path(text).expanduser()

    @property
    def heads_scale(self) -> float:
        """Bytes of an exported head relative to float32."""
        return 0.5 if self.heads_dtype == "float16" else 1.0

    def finetune_of(self, name: str) -> FinetuneConfig:
        """The fine-tuning settings of one encoder: the recipe for its modality, overridden by `[finetune.NAME]`."""
        settings = recipe_settings(self.finetune.recipe, self.encoder[name].modality)
        return dataclasses.replace(settings, **self.finetune.encoders.get(name, {}))

    def values(self) -> dict[str, Any]:
        """Every setting as plain JSON values, nested as in the file."""
        values = {
            f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if not f.metadata.get("internal")
        }
        tuned = [name for name, table in self.encoder.items() if table.tunable]
        own = {name: dataclasses.asdict(self.finetune_of(name)) for name in tuned}
        fuse = {**values["fuse"], **{name: _plain(settings) for name, settings in self.fuse.others.items()}}
        finetune = {**{key: getattr(self.finetune, key) for key in FINETUNE_KEYS}, **own}
        return {**values, "fuse": fuse, "finetune": finetune}

    def dotted(self) -> list[tuple[str, Any]]:
        """Every setting as (dotted key, plain value), in the order of the file."""

        def walk(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
            pairs = []
            for name, value in values.items():
                pairs += walk(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
            return pairs

        return walk(self.values(), "")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = (f.name for f in dataclasses.fields(value) if not f.metadata.get("internal"))
        return {name: _plain(getattr(value, name)) for name in fields}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
