"""Encoders that a command has built, so that it builds none of them twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat.common.files import digest_json
from mmfeat.encoders import resolve
from mmfeat.encoders.decoding import Decoding

if TYPE_CHECKING:
    from mmfeat.config.schema import Config
    from mmfeat.encoders.checkpoint import Checkpoint

_FEWEST = 2  # encoders that are kept, or as many as the project has: networks may have some hundred megabytes


class BuiltEncoders:
    """The encoders that were built last.

    They are shared: encode with them, and build another one to train it.
    """

    def __init__(self) -> None:
        # By digest of the settings, and encoder key of the checkpoint whose tensors are loaded.
        self._kept: dict[tuple[str, str], Any] = {}

    def build(
        self, config: Config, name: str, checkpoints: Path, *, pretrained_only: bool = False
    ) -> tuple[Any, Checkpoint | None]:
        """An encoder and its checkpoint, as :func:`mmfeat.encoders.resolve.build_encoder` gives them."""
        settings = _digest(config, name)
        pretrained = self._kept.pop((settings, ""), None)  # a checkpoint's tensors may be loaded into it
        encoder, checkpoint = resolve.build_encoder(
            config,
            name,
            checkpoints,
            pretrained_only=pretrained_only,
            pretrained=None if pretrained is None else pretrained.cpu(),
        )
        self._kept[settings, _loaded(checkpoint)] = encoder
        for oldest in list(self._kept)[: -max(_FEWEST, len(config.encoder))]:
            del self._kept[oldest]
        return encoder, checkpoint

    def of(self, config: Config, identity: resolve.Identity, checkpoints: Path) -> Any:
        """The encoder of an identity, on the CPU."""
        checkpoint = resolve.checkpoint_of(config, identity, checkpoints)
        kept = self._kept.get((_digest(config, identity.name), _loaded(checkpoint)))
        if kept is None:
            bare = identity.checkpoint is None  # whatever checkpoints there are: `finetune --freeze` encodes without
            kept, _ = self.build(config, identity.name, checkpoints, pretrained_only=bare)
        return kept.cpu().eval()


def _loaded(checkpoint: Checkpoint | None) -> str:
    """The encoder key of a checkpoint that has tensors of its own; empty for the encoder as it was pretrained."""
    return checkpoint.encoder_key if checkpoint is not None and not checkpoint.frozen else ""


def _digest(config: Config, name: str) -> str:
    """Digest of all that an encoder without a checkpoint depends on."""
    table = {key: value for key, value in dataclasses.asdict(config.encoder[name]).items() if key != "checkpoint"}
    return digest_json([table, str(config.root), config.file_seed, Decoding.of(config).record])
