"""Which keys of mmfeat.toml a command reads, so that an override without effect is refused."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mmfeat.common.errors import ConfigError
from mmfeat.config.schema import Config

TOP = ("metric", "seed", "device")


def about_unread(keys: Collection[str], reads: Collection[str]) -> str:
    """The message about the first key that is not read. Empty if all are.

    Parameters
    ----------
    keys : collection of str
        Dotted keys that are overridden.
    reads : collection of str
        Dotted keys, or tables of them, that the command reads.
    """
    for key in keys:
        if not any(key == one or key.startswith(f"{one}.") for one in reads):
            return f"{key} has no effect here: of mmfeat.toml this reads {', '.join(reads)}"
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
    """Of `finetune`. Frozen encoders and TF-IDF read only the linear head's settings."""
    named = [name for name in names or config.encoder if name in config.encoder]
    tuned = [] if freeze else [name for name in named if not config.encoder[name].fitted]
    keys = [f"finetune.{name}" for name in tuned]
    keys += ["finetune.recipe"] if tuned else []
    keys += dict.fromkeys(key for name in tuned for key in config.encoder[name].augmentation_keys)
    if len(tuned) < len(named) or any(config.finetune_of(name).head_first for name in tuned):
        keys.append("fuse.linear")
    return (*keys, "predict", *TOP)


def fuse_keys(config: Config) -> tuple[str, ...]:
    """Of `fuse`: the head's own table, and that of the linear head, which is a baseline."""
    keys = ("fuse.head", "fuse.inputs", "fuse.seeds", "fuse.folds")
    return (*keys, *dict.fromkeys((f"fuse.{config.fuse.head}", "fuse.linear")), "predict", *TOP)


def selftrain_keys(config: Config) -> tuple[str, ...]:
    """Of `selftrain`; also the encoders' settings with encoder rounds."""
    policy = config.selftrain.policy
    keys = ["selftrain.rounds", "selftrain.encoder_every", "selftrain.policy"]
    keys += ["selftrain.yes", "selftrain.no"] if policy == "confident" else []
    keys += ["fuse.head", "fuse.inputs", "fuse.seeds", f"fuse.{config.fuse.head}"]
    keys += ["finetune", "fuse.linear"] if config.selftrain.encoder_every else []
    return (*keys, "predict", *TOP)


def decision_keys(config: Config, named: bool) -> tuple[str, ...]:
    """Of commands that decide labels; the metric only if a run is selected by it or a threshold is fitted for it.

    Parameters
    ----------
    named : bool
        Whether the run is named.
    """
    return ("predict", "device", *(("metric",) if config.predict.fits or not named else ()))
