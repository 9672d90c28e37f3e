"""The keys of mmfeat.toml that each command reads. An option that overrides any other key is an error."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mmfeat.common.errors import ConfigError
from mmfeat.config.schema import Config

TOP = ("metric", "seed", "device")


def about_unread(keys: Collection[str], reads: Collection[str]) -> str:
    """The message about the first overridden key that the command does not read; empty if it reads all.

    Parameters
    ----------
    keys : collection of str
        The overridden dotted keys.
    reads : collection of str
        The dotted keys, or whole tables, that the command reads.
    """
    for key in keys:
        if not any(key == one or key.startswith(f"{one}.") for one in reads):
            return f"{key} has no effect here. Of mmfeat.toml this command reads: {', '.join(reads)}"
    return ""


def check_read(keys: Collection[str], reads: Collection[str]) -> None:
    """Refuse overrides of keys that a command does not read.

    Raises
    ------
    ConfigError
        A key has no effect.
    """
    if message := about_unread(keys, reads):
        raise ConfigError(message)


def finetune_keys(config: Config, names: Sequence[str], freeze: bool) -> tuple[str, ...]:
    """Keys that `finetune` reads. Frozen encoders and TF-IDF need only the linear head's settings."""
    named = [name for name in names or config.encoder if name in config.encoder]
    tuned = [] if freeze else [name for name in named if not config.encoder[name].fitted]
    keys = [f"finetune.{name}" for name in tuned]
    keys += ["finetune.recipe"] if tuned else []
    keys += dict.fromkeys(key for name in tuned for key in config.encoder[name].augmentation_keys)
    if len(tuned) < len(named) or any(config.finetune_of(name).head_first for name in tuned):
        keys.append("fuse.linear")
    return (*keys, "engine", "predict", *TOP)


def fuse_keys(config: Config) -> tuple[str, ...]:
    """Keys that `fuse` reads: the head's own table, and that of the linear head, which is a baseline."""
    keys = ("fuse.head", "fuse.inputs", "fuse.seeds", "fuse.folds")
    return (*keys, *dict.fromkeys((f"fuse.{config.fuse.head}", "fuse.linear")), "predict", *TOP)


def audit_keys(config: Config) -> tuple[str, ...]:
    """Keys that `audit` reads: those of the run in folds that it may train, and of linear heads on single encoders."""
    return ("fuse", "predict", *TOP)


def started_fuse_keys(config: Config) -> tuple[str, ...]:
    """Keys that `fuse` from a run's weights may read; which head's table it reads depends on the run."""
    return ("fuse", "predict", *TOP)


def selftrain_keys(config: Config) -> tuple[str, ...]:
    """Keys that `selftrain` reads; with `encoder_every` also the encoders' fine-tuning settings."""
    policy, paper = config.selftrain.policy, config.selftrain.policy == "paper"
    keys = ["selftrain.rounds", "selftrain.encoder_every", "selftrain.policy"]
    keys += ["selftrain.yes", "selftrain.no"] if policy == "confident" else []
    keys += ["selftrain.teacher", "fuse.linear"] if paper else []
    keys += ["fuse.crossattn"] if paper and config.selftrain.teacher == "fm3" else []
    keys += ["fuse.head", "fuse.inputs", "fuse.seeds", f"fuse.{config.fuse.head}"]
    keys += ["finetune", "fuse.linear", "engine"] if config.selftrain.encoder_every else []
    return (*keys, "predict", *TOP)


def decision_keys(config: Config, named: bool, *, new: bool = False) -> tuple[str, ...]:
    """Keys that prediction commands read; the metric only if it selects the run or a threshold is fitted for it.

    Parameters
    ----------
    named : bool
        Whether the user names the run.
    new : bool
        Whether new samples are encoded.
    """
    return (
        "predict",
        *(("engine",) if new else ()),
        "device",
        *(("metric",) if config.predict.fits or not named else ()),
    )
