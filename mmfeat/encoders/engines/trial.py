"""An engine on trial: torch answers until the engine has agreed with it on enough real samples."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from torch import Tensor

from mmfeat.common.errors import one_line
from mmfeat.encoders.batches import Encoded
from mmfeat.encoders.engines.agreement import disagreement
from mmfeat.encoders.engines.engine import Choice, Engine

ENOUGH = 32  # samples that an engine is compared on


class OnTrial(Engine):
    """Returns a reference's embeddings, and compares an engine's with them; after enough samples, those of what was decided.

    Parameters
    ----------
    decide : callable
        From the engine, and why it must not be used (empty if it agrees), to the engine that executes all further batches.
    """

    def __init__(self, engine: Engine, reference: Engine, decide: Callable[[Engine, str], Engine]) -> None:
        self.encoder, self.device, self.tokens = engine.encoder, engine.device, engine.tokens
        self._engine, self._reference, self._decide = engine, reference, decide
        self._found: list[np.ndarray] = []
        self._wanted: list[np.ndarray] = []
        self._decided: Engine | None = None
        self._lock = threading.Lock()

    @property
    def choice(self) -> Choice:
        """The choice on trial, or the one that was decided."""
        return (self._decided or self._engine).choice

    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """Embeddings by the engine that was decided; before, by the reference."""
        if self._decided is None:
            with self._lock:
                if self._decided is None:
                    return self._tried(batch)
        return self._decided.encode(batch)

    def _tried(self, batch: dict[str, Tensor]) -> Encoded:
        wanted, why = self._reference.encode(batch), ""
        self._wanted.append(wanted.embeddings)
        try:
            self._found.append(self._engine.encode(batch).embeddings)
        except Exception as error:  # libraries have errors of their own
            why = one_line(error)
        if not why and sum(map(len, self._found)) >= ENOUGH:
            found, reference = np.concatenate(self._found), np.concatenate(self._wanted)
            self._decided = self._decide(self._engine, disagreement(found, reference, self._engine.choice.arithmetic))
        elif why:
            self._decided = self._decide(self._engine, why)
        return wanted
