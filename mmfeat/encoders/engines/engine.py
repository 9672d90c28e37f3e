"""The base class of engines, their registry, and the arithmetic that each precision class allows."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mmfeat.common.errors import ConfigError
from mmfeat.common.package_versions import package_version
from mmfeat.common.plugins import Registry
from mmfeat.config.encoder_tables import MIXED
from mmfeat.config.schema import ENGINES
from mmfeat.encoders.batches import Encoded

if TYPE_CHECKING:
    from mmfeat.encoders.encoder import Encoder
    from mmfeat.store.keys import EncoderSpec


@dataclass(frozen=True)
class Choice:
    """An engine, its arithmetic, and settings that change its speed but no embedding."""

    engine: str
    arithmetic: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """As JSON values, the arguments of :class:`Choice`."""
        return dataclasses.asdict(self)

    @property
    def record(self) -> str:
        """Engine and arithmetic, which each segment records."""
        return f"{self.engine} {self.arithmetic}"

    def __str__(self) -> str:
        more = [f"{name.replace('_', '-')} {'on' if on else 'off'}" for name, on in self.settings.items()]
        return f"{self.engine} ({', '.join([self.arithmetic, *more])})"


class Engine:
    """An encoder's network, executed by one library on one device. Several threads may call `encode`.

    Parameters
    ----------
    encoder : Encoder
        In eval mode on `device`.
    choice : Choice
        One of `choices(encoder, device)`.
    tokens : int
        The setting `tokens` of the encoder; 0 for embeddings alone.
    spec : EncoderSpec, optional
        `encoder.spec()`, if it is known: it takes a digest of all weights.

    Attributes
    ----------
    package : str
        The distribution that executes the network.
    modules : tuple of str
        Modules that must be installed.
    extra : str
        The extra of mmfeat that installs them; empty if mmfeat always does.
    exported : bool
        Whether it executes a graph that is exported once per encoder, which takes seconds.
    at_once : int
        Number of batches that as many threads should encode at the same time.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    exported: ClassVar[bool] = False
    at_once: int = 1

    def __init__(
        self,
        encoder: Encoder,
        device: torch.device,
        choice: Choice,
        *,
        tokens: int = 0,
        spec: EncoderSpec | None = None,
    ) -> None:
        self.encoder, self.device, self.choice, self.tokens, self.spec = encoder, device, choice, tokens, spec
        encoder.set_speed(**choice.settings)

    @classmethod
    def installed(cls) -> bool:
        """Whether all modules that it needs are installed; imports none of them."""
        return all(importlib.util.find_spec(module) is not None for module in cls.modules)

    @classmethod
    def choices(cls, encoder: Encoder, device: torch.device) -> list[Choice]:
        """What it offers for an encoder on a device, the usual one first; empty if it cannot execute the network there."""
        raise NotImplementedError

    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """Embeddings of one batch of `Encoder.collate`, and tokens if they were asked for."""
        raise NotImplementedError

    def for_many(self) -> Engine:
        """The same engine, prepared for many batches: `at_once` of them at the same time."""
        return self

    @classmethod
    def version(cls) -> str:
        """Name and version: a measurement holds for them only."""
        return f"{cls.name} {cls.library_version()}"

    @classmethod
    def library_version(cls) -> str:
        """The version of its package; `unknown` where another package has its modules, such as onnxruntime-gpu."""
        try:
            return package_version(cls.package)
        except PackageNotFoundError:
            return "unknown"


_ENGINES: Registry[type[Engine]] = Registry("engine", like=dict.fromkeys(ENGINES))


def register_engine(cls: type[Engine]) -> type[Engine]:
    """Class decorator: register an engine."""
    _ENGINES.register(cls.name, cls)
    return cls


def engines() -> dict[str, type[Engine]]:
    """All engines by name, installed or not."""
    from mmfeat.encoders.engines import (  # noqa: F401 - they register themselves
        compile_engine,
        onnxruntime_engine,
        openvino_engine,
        torch_engine,
    )

    return dict(_ENGINES)


def engine_class(name: str) -> type[Engine]:
    """An engine by its name.

    Raises
    ------
    ConfigError
        It is not installed; the message says what to type.
    """
    found = engines()[name]
    if not found.installed():
        raise ConfigError(f"engine {name!r} is not installed. Run: pip install 'mmfeat[{found.extra}]'")
    return found


def arithmetics(precision: str, fast: Iterable[str]) -> list[str]:
    """The arithmetic that a precision class allows: `fast` ones and float32 for `mixed`, otherwise only its own."""
    return [*fast, "float32"] if precision == MIXED else [precision]
