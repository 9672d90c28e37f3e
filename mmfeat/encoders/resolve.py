"""Builds the encoder of an `[encoder.NAME]` table, and determines the keys of its features.

Building an encoder imports timm or transformers and reads all weights. `identify` caches the keys with the size, time and
inode of every file that was read, so that commands that need only the keys do neither.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat import __version__
from mmfeat.common.errors import EncoderError
from mmfeat.common.files import digest_json
from mmfeat.common.package_versions import package_version
from mmfeat.common.remembered import Remembered, stamps_of
from mmfeat.config.encoder_tables import EncoderTable
from mmfeat.config.schema import Config
from mmfeat.encoders.checkpoint import Checkpoint, checkpoints_of, read_checkpoint
from mmfeat.encoders.kinds import EncoderKind, kind_of
from mmfeat.store.keys import KEY_VERSION, EncoderSpec

if TYPE_CHECKING:
    from mmfeat.encoders.built_encoders import BuiltEncoders


@dataclass(frozen=True)
class Identity:
    """Names, keys and sizes of an encoder, without its weights.

    Attributes
    ----------
    spec : EncoderSpec
        Everything that its embeddings depend on; `spec.key` is the encoder key.
    checkpoint : str or None
        The checkpoint in use, such as `image-1`.
    output_key : str or None
        The key of its logits; None without a linear probe.
    size_mb : float or None
        Megabytes (10^6 bytes); None for imported embeddings, whose network is unknown.
    """

    name: str
    model: str
    spec: EncoderSpec
    width: int
    size_mb: float | None
    checkpoint: str | None
    output_key: str | None


def build_encoder(
    config: Config, name: str, checkpoints: Path, *, pretrained_only: bool = False, pretrained: Any = None
) -> tuple[Any, Checkpoint | None]:
    """Build the encoder of `[encoder.NAME]`, with the tensors of its checkpoint if one is in use.

    Parameters
    ----------
    pretrained_only : bool
        Ignore checkpoints, as fine-tuning does.
    pretrained : Encoder, optional
        The encoder without a checkpoint, if it is already built; a checkpoint's tensors are loaded into it.

    Returns
    -------
    tuple of Encoder and Checkpoint or None
        The encoder in eval mode on the CPU, and the checkpoint in use.
    """
    table = config.encoder[name]
    kind = kind_of(table)
    if kind.settings.fitted:
        return _restored(kind, config, name, checkpoints)
    encoder = kind.build(config, name) if pretrained is None else pretrained
    if pretrained_only:
        return encoder, None
    checkpoint = _choose(config, name, checkpoints, encoder)
    if checkpoint is not None and not checkpoint.frozen:
        from mmfeat.encoders.weights import load_strictly

        load_strictly(encoder, checkpoint.tensors(), checkpoint.encoder_file)
    if table.checkpoint not in ("latest", "none") and checkpoint is None:
        raise EncoderError(f'encoder.{name}: {table.checkpoint} belongs to another encoder. Set: checkpoint = "latest"')
    return encoder.eval(), checkpoint


def identify(
    config: Config,
    name: str,
    checkpoints: Path,
    memory: Path,
    *,
    pretrained_only: bool = False,
    built: BuiltEncoders | None = None,
) -> Identity:
    """The keys of an encoder, from the cache if no file that they depend on has changed.

    Parameters
    ----------
    memory : Path
        The cache file; use a different one for each value of `pretrained_only`.
    pretrained_only : bool
        Ignore checkpoints, as fine-tuning does.
    built : BuiltEncoders, optional
        The command's cache of built encoders.
    """
    from mmfeat.encoders.built_encoders import BuiltEncoders

    table = config.encoder[name]
    given = "none" if pretrained_only else table.checkpoint
    if known := known_identity(config, name, checkpoints, memory, given=given):
        return known
    remembered, made_from = Remembered(memory), _fingerprint(config, name, checkpoints, given=given)
    built = BuiltEncoders() if built is None else built
    encoder, checkpoint = built.build(config, name, checkpoints, pretrained_only=pretrained_only)
    identity = Identity(
        name=name,
        model=table.title(config.root),
        spec=encoder.spec(),
        width=encoder.width,
        size_mb=encoder.size_mb(),
        checkpoint=checkpoint.name if checkpoint else None,
        output_key=checkpoint.output().key if checkpoint else None,
    )
    value = {**dataclasses.asdict(identity), "spec": identity.spec.as_dict()}
    remembered.remember(name, value, made_from, files=stamps_of(_sources(config, table, encoder)))
    remembered.save()
    return identity


def known_identity(
    config: Config, name: str, checkpoints: Path, memory: Path, *, given: str | None = None
) -> Identity | None:
    """The keys of an encoder if they are remembered and nothing that they depend on has changed. Nothing is built.

    Parameters
    ----------
    given : str, optional
        Another checkpoint setting than that of mmfeat.toml.
    """
    given = config.encoder[name].checkpoint if given is None else given
    found = Remembered(memory).recall(name, _fingerprint(config, name, checkpoints, given=given))
    if found is None:
        return None
    model = config.encoder[name].title(config.root)  # the remembered one may be an earlier version's
    return Identity(**{**found, "spec": EncoderSpec.from_dict(found["spec"]), "model": model})


def checkpoint_of(config: Config, identity: Identity, checkpoints: Path) -> Checkpoint | None:
    """The checkpoint in use, if any."""
    if identity.checkpoint is None:
        return None
    given = config.encoder[identity.name].checkpoint
    return read_checkpoint(checkpoints / identity.checkpoint if given == "latest" else config.path(given))


def _restored(kind: EncoderKind, config: Config, name: str, checkpoints: Path) -> tuple[Any, Checkpoint]:
    """Load a fitted encoder, which exists only in its checkpoint."""
    table = config.encoder[name]
    checkpoint = _choose(config, name, checkpoints, None)
    if checkpoint is None:
        if table.checkpoint != "latest":
            raise EncoderError(f'encoder.{name}: {table.checkpoint} has other settings. Set: checkpoint = "latest"')
        raise EncoderError(
            f"encoder.{name}: {kind.name} has no {kind.fits} with these settings yet. Run: mmfeat finetune {name}"
        )
    return kind.restore(checkpoint, table), checkpoint


def _choose(config: Config, name: str, checkpoints: Path, encoder: Any) -> Checkpoint | None:
    """The newest checkpoint of the same model; if only a linear probe was fitted, also of the same embeddings."""
    table = config.encoder[name]
    if table.checkpoint == "none":
        return None
    given, settings = table.checkpoint, kind_of(table).fit_settings(table)
    candidates = checkpoints_of(checkpoints, name) if given == "latest" else [read_checkpoint(config.path(given))]
    key = None
    for candidate in candidates:
        recorded = candidate.record["table"]
        if recorded["model"] != table.model:
            continue
        if any(recorded.get(key) != value for key, value in settings.items()):
            continue
        if not candidate.frozen:
            return candidate
        key = key or encoder.spec().key
        if candidate.encoder_key == key:
            return candidate
    return None


def _sources(config: Config, table: EncoderTable, encoder: Any) -> list[Path]:
    """Files and folders that weights, tokenizer and configuration were read from."""
    sources: list[Path] = []
    if table.fitted:
        return sources
    if table.pretrained not in ("auto", "random"):
        sources.append(config.path(table.pretrained))
    return sources + encoder.own_files()


def _fingerprint(config: Config, name: str, checkpoints: Path, *, given: str) -> str:
    """Digest of everything that cached keys depend on except weight files; `given` is the checkpoint setting."""
    table = config.encoder[name]
    folders = {"latest": [c.folder for c in checkpoints_of(checkpoints, name)], "none": []}.get(
        given, [config.path(given)]
    )
    return digest_json(
        {
            "table": dataclasses.asdict(table),
            "root": str(config.root),
            "seed": config.file_seed,
            "checkpoints": stamps_of(folders),
            "versions": [package_version(package) for package in kind_of(table).packages],
            "mmfeat": [__version__, KEY_VERSION],  # another version may prepare samples differently
        }
    )
