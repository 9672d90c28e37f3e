"""From an `[encoder.NAME]` table to the encoder it means, and to the keys under which its features are filed.

Building an encoder imports timm or transformers and reads all its weights. `identify` remembers what came of it, with
the size, time and inode of every file that went into it, so that commands which only need the keys do neither.
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
from mmfeat.config.schema import TFIDF, Config, EncoderConfig, TfidfEncoderConfig
from mmfeat.encoders.checkpoint import Checkpoint, checkpoints_of, read_checkpoint
from mmfeat.encoders.decoding import Decoding
from mmfeat.store.keys import KEY_VERSION, EncoderSpec

if TYPE_CHECKING:
    from mmfeat.encoders.built_encoders import BuiltEncoders


@dataclass(frozen=True)
class Identity:
    """An encoder as the right side of the wall knows it: names and keys, no weights.

    Attributes
    ----------
    spec : EncoderSpec
        What its embeddings depend on; `spec.key` is the encoder key.
    checkpoint : str or None
        The checkpoint in use, such as `image-1`.
    output_key : str or None
        What its logits are filed under; None where it has no linear output.
    size_mb : float or None
        None of an imported encoder: how large the network was is not known.
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
    """Build the encoder that `[encoder.NAME]` means, with its checkpoint's tensors where one is in use.

    Parameters
    ----------
    pretrained_only : bool
        Leave checkpoints aside: what fine-tuning starts from.
    pretrained : Encoder, optional
        The encoder without a checkpoint, where it is built already; a checkpoint's tensors are loaded into it.

    Returns
    -------
    tuple of Encoder and Checkpoint or None
        The encoder in eval mode on the CPU, and the checkpoint in use.
    """
    table = config.encoder[name]
    if table.model == TFIDF:
        return _counted_words(config, name, checkpoints)
    encoder = _pretrained(config, name) if pretrained is None else pretrained
    if pretrained_only:
        return encoder, None
    checkpoint = _choose(config, name, checkpoints, encoder)
    if checkpoint is not None and not checkpoint.frozen:
        from mmfeat.encoders.weights import load_strictly

        load_strictly(encoder, checkpoint.tensors(), checkpoint.encoder_file)
    if table.checkpoint not in ("latest", "none") and checkpoint is None:
        raise EncoderError(f'encoder.{name}: {table.checkpoint} is of another encoder. Set: checkpoint = "latest"')
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
    """The keys of an encoder, from memory where nothing that went into them has changed.

    Parameters
    ----------
    memory : Path
        A file for each meaning of `pretrained_only`.
    pretrained_only : bool
        Leave checkpoints aside: what fine-tuning starts from.
    built : BuiltEncoders, optional
        Gives the encoder where it has to be built.
    """
    from mmfeat.encoders.built_encoders import BuiltEncoders

    table = config.encoder[name]
    given = "none" if pretrained_only else table.checkpoint
    remembered, made_from = Remembered(memory), _fingerprint(config, name, checkpoints, given)
    if found := remembered.recall(name, made_from):
        return Identity(**{**found, "spec": EncoderSpec.from_dict(found["spec"])})
    built = BuiltEncoders() if built is None else built
    encoder, checkpoint = built.build(config, name, checkpoints, pretrained_only=pretrained_only)
    identity = Identity(
        name=name,
        model=Path(table.model).name,
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


def checkpoint_of(config: Config, identity: Identity, checkpoints: Path) -> Checkpoint | None:
    """The checkpoint in use, if there is one."""
    if identity.checkpoint is None:
        return None
    given = config.encoder[identity.name].checkpoint
    return read_checkpoint(checkpoints / identity.checkpoint if given == "latest" else config.path(given))


def _pretrained(config: Config, name: str) -> Any:
    table = config.encoder[name]
    if table.modality == "image":
        from mmfeat.encoders.families.image_network import build_image_encoder

        encoder = build_image_encoder(name, table, config.root, config.file_seed)
        encoder.preparation.decoding = Decoding.of(config)
        return encoder
    from mmfeat.encoders.families.transformer_text import build_text_encoder

    return build_text_encoder(name, table, config.root, config.file_seed)


def _counted_words(config: Config, name: str, checkpoints: Path) -> tuple[Any, Checkpoint]:
    """A TF-IDF encoder, which is nothing without its checkpoint."""
    table = config.encoder[name]
    checkpoint = _choose(config, name, checkpoints, None)
    if checkpoint is None:
        if table.checkpoint != "latest":
            raise EncoderError(f'encoder.{name}: {table.checkpoint} is of other settings. Set: checkpoint = "latest"')
        raise EncoderError(
            f"encoder.{name}: {TFIDF} has no vocabulary of these settings yet. Run: mmfeat finetune {name}"
        )
    return words_of(checkpoint, table), checkpoint


def words_of(checkpoint: Checkpoint, table: TfidfEncoderConfig) -> Any:
    """The TF-IDF encoder of a checkpoint.

    Raises
    ------
    EncoderError
        Its files are damaged.
    """
    from mmfeat.encoders.families.tfidf import TfidfEncoder

    tensors, terms = checkpoint.tensors(), checkpoint.record.get("terms")
    if not isinstance(terms, list) or list(tensors) != ["idf"] or tensors["idf"].shape != (len(terms),):
        raise EncoderError(
            f"{checkpoint.folder}: damaged: its weights are not those of its terms. Remove the folder and run: mmfeat finetune"
        )
    return TfidfEncoder(terms, tensors["idf"], table.ngrams).eval()


def _choose(config: Config, name: str, checkpoints: Path, encoder: Any) -> Checkpoint | None:
    """The checkpoint in use: of the same model and, where only the output was fitted, of the very same embeddings."""
    table = config.encoder[name]
    if table.checkpoint == "none":
        return None
    given = table.checkpoint
    candidates = checkpoints_of(checkpoints, name) if given == "latest" else [read_checkpoint(config.path(given))]
    key = None
    for candidate in candidates:
        recorded = candidate.record["table"]
        if recorded["model"] != table.model:
            continue
        if table.model == TFIDF and (recorded.get("width"), recorded.get("ngrams")) != (table.width, table.ngrams):
            continue
        if not candidate.frozen:
            return candidate
        key = key or encoder.spec().key
        if candidate.encoder_key == key:
            return candidate
    return None


def _sources(config: Config, table: EncoderConfig, encoder: Any) -> list[Path]:
    """The files and folders that the weights, the tokenizer and their configuration were read from."""
    sources: list[Path] = []
    if table.model == TFIDF:
        return sources
    if table.pretrained not in ("auto", "random"):
        sources.append(config.path(table.pretrained))
    return sources + encoder.own_files()


def _fingerprint(config: Config, name: str, checkpoints: Path, given: str) -> str:
    """Digest of all that a remembered identity rests on but the files that it was read from.

    `given` says which checkpoint may be in use.
    """
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
            "versions": [package_version(package) for package in ("timm", "torchvision", "transformers")],
            "mmfeat": [__version__, KEY_VERSION],  # another may prepare samples or digest them otherwise
        }
    )
