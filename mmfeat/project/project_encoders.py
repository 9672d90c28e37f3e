"""Encoders of a project: their identities and checkpoints, and the project's references to the store."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from mmfeat.common.errors import ConfigError, MmfeatError
from mmfeat.config.encoder_tables import EncoderTable
from mmfeat.config.schema import FILE_NAME
from mmfeat.encoders.built_encoders import BuiltEncoders
from mmfeat.encoders.checkpoint import Checkpoint, LinearProbe
from mmfeat.encoders.kinds import kind_of
from mmfeat.encoders.resolve import Identity, checkpoint_of
from mmfeat.project.project_folder import ProjectFolder
from mmfeat.store import FeatureStore
from mmfeat.store.commits import tokens_kind
from mmfeat.store.references import note_reference


class ProjectEncoders(ProjectFolder):
    """A project's folder with its encoders and the store of their features."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.built_encoders = BuiltEncoders()

    @functools.cached_property
    def store(self) -> FeatureStore:
        """The feature store."""
        return FeatureStore(self.config.path(self.config.store.path), self.config.store.dtype)

    def encoder_table(self, name: str) -> EncoderTable:
        """An encoder's table in mmfeat.toml."""
        if name not in self.config.encoder:
            known = ", ".join(self.config.encoder)
            raise ConfigError(f"no encoder {name!r} in {FILE_NAME}. Use one of: {known}")
        return self.config.encoder[name]

    def model_title(self, name: str) -> str:
        """The name of an encoder's model in every output. An import has the name that it was given."""
        table = self.encoder_table(name)
        if table.made_elsewhere:
            with contextlib.suppress(MmfeatError):
                return self.identity(name).model
        return table.title(self.root)

    def identity(self, name: str) -> Identity:
        """An encoder's names and keys, as mmfeat.toml and its checkpoint define them now."""
        return kind_of(self.encoder_table(name)).identify(self, name)

    def known_identity(self, name: str) -> Identity | None:
        """An encoder's names and keys; None if it would have to be built for them."""
        return kind_of(self.encoder_table(name)).known(self, name)

    def pretrained(self, name: str) -> Identity:
        """An encoder's names and keys without any checkpoint: the start of fine-tuning."""
        return kind_of(self.encoder_table(name)).identify(self, name, pretrained_only=True)

    def built(self, identity: Identity) -> Any:
        """The encoder of an identity, on the CPU. It is built once and shared: encode with it, but do not train it."""
        return self.built_encoders.of(self.config, identity, self.checkpoints)

    def checkpoint(self, identity: Identity) -> Checkpoint | None:
        """The checkpoint that an encoder uses."""
        return checkpoint_of(self.config, identity, self.checkpoints)

    def output(self, identity: Identity) -> LinearProbe | None:
        """The linear probe of an encoder's checkpoint."""
        checkpoint = self.checkpoint(identity)
        return checkpoint.output() if checkpoint else None

    def tokens_kind(self, name: str) -> str | None:
        """The kind under which the store keeps an encoder's tokens; None if it keeps none."""
        number = self.config.encoder[name].tokens
        return tokens_kind(number) if number else None

    def register(self, identities: dict[str, Identity]) -> None:
        """Note in the store that this project refers to the features of some encoders, so that `store gc` keeps them."""
        for name, identity in identities.items():
            self.refer(identity.spec.key, identity.output_key, self.tokens_kind(name))

    def refer(self, encoder_key: str, *kinds: str | None, imported: str = "") -> None:
        """Note in the store that this project refers to an encoder's features, and to its logits and tokens of some `kinds`.

        An import is noted under its name, since mmfeat.toml does not list it yet.
        """
        if not self.dry:
            with contextlib.suppress(OSError):  # a store that is read-only: nothing can be removed from it either
                note_reference(self.store.path, self.root, encoder_key, *kinds, imported=imported)
