"""Selects the engine of an encoder on this machine, by measurement where the work is long enough to pay for it."""

from __future__ import annotations

import functools
import math
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path

from mmfeat.common.errors import ConfigError, EncoderError, one_line
from mmfeat.common.files import digest_json
from mmfeat.common.machine import processor
from mmfeat.common.progress import say
from mmfeat.common.remembered import Remembered
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.engines.agreement import disagreement
from mmfeat.encoders.engines.engine import Choice, Engine, engine_class, engines
from mmfeat.encoders.engines.trial import OnTrial
from mmfeat.encoders.kinds import encoder_kind
from mmfeat.store.keys import EncoderSpec

AUTO, TORCH = "auto", "torch"
SECONDS = 1.0  # of measuring each engine and batch size, if the user asks for it
SHARE = 0.03  # of the estimated time that may be spent on measuring
LONG = 45.0  # seconds of work from which on it is worth to export a network and to measure engines
_FEW = 256  # samples below which nothing is measured
_CLOSE = 0.97  # a smaller batch that is nearly as fast is preferred, since it saves memory
_BATCHES = 3  # that are measured at least
_REMEMBERED = 500
_TRIAL = "trial"  # of a remembered value: choices that were measured on generated samples, the fastest first


@dataclass(frozen=True)
class Measured:
    """The speed of an engine in batches of one size."""

    choice: Choice
    batch_size: int
    rate: float  # samples per second


@dataclass(frozen=True)
class Selected:
    """An engine to encode with.

    Attributes
    ----------
    batch_size : int
        Samples encoded at a time.
    measured : list of Measured
        The measurements that selected it, the fastest first; empty if nothing was measured now.
    is_usual : bool
        Whether it was taken without a measurement.
    missing : str
        An engine that might be faster and is not installed; empty if there is none.
    """

    engine: Engine
    batch_size: int
    measured: Sequence[Measured] = ()
    is_usual: bool = False
    missing: str = ""

    @property
    def summary(self) -> str:
        """The engine and its speed, and the fastest setting of each other engine; empty if nothing was measured."""
        if not self.measured:
            return ""
        best: dict[str, Measured] = {}
        for one in self.measured:
            best.setdefault(one.choice.engine, one)
        first, *others = best.values()
        text = f"{first.choice}, batches of {first.batch_size}: {first.rate:,.0f} rows/s"
        text += "".join(f"; {one.choice.engine} {one.rate:,.0f}" for one in others)
        return text + (f". For {self.missing}: pip install 'mmfeat[{self.missing}]'" if self.missing else "")


class EngineSelection:
    """Selects the engine of one encoder on one device.

    The fastest engine is remembered for this machine, this encoder and the installed versions, in the user's cache folder.

    Parameters
    ----------
    encoder : Encoder
        In eval mode on `device`.
    asked : str
        An engine's name, or `auto`.
    tokens : int
        The setting `tokens` of the encoder.
    spec : EncoderSpec, optional
        `encoder.spec()`, if the caller has it: it takes a digest of all weights.

    Raises
    ------
    ConfigError
        The engine is not installed, or cannot execute this encoder on this device.
    """

    def __init__(
        self,
        encoder: Encoder,
        device: torch.device,
        asked: str = AUTO,
        *,
        tokens: int = 0,
        spec: EncoderSpec | None = None,
    ) -> None:
        self.encoder, self.device, self.asked, self.tokens = encoder, device, asked, tokens
        self.kind, self._known_spec = encoder_kind(encoder.kind), spec
        if asked == AUTO:
            self.choices = [
                choice
                for name, engine in engines().items()
                if engine.installed() and (name != "compile" or device.type == "cuda")  # compiling takes a minute
                for choice in engine.choices(encoder, device)
            ]
        else:
            self.choices = engine_class(asked).choices(encoder, device)
        if not self.choices:
            raise ConfigError(
                f"engine {asked!r} cannot execute {encoder.architecture} with precision {encoder.precision!r} on "
                f'{device.type}. Use: engine = "auto"'
            )
        self.usual_size = self.kind.usual_batch_size(device.type)
        self._rate: float | None = None  # of torch, once it is measured
        self._memory = Remembered(user_cache_path("mmfeat") / "engines.json", most=_REMEMBERED)
        versions = {one.engine: engine_class(one.engine).version() for one in self.choices}
        self._made_from = [versions, [one.values for one in self.choices]]

    @functools.cached_property
    def _spec(self) -> EncoderSpec:
        return self._known_spec or self.encoder.spec()

    @functools.cached_property
    def _place(self) -> str:
        """The name under which the fastest engine is remembered."""
        where = [socket.gethostname(), processor(), str(self.device), torch.get_num_threads()]
        return digest_json([where, self._spec.key, self.tokens])

    def usual(self) -> Selected:
        """The usual engine, without a measurement."""
        return Selected(self._open(self.choices[0]), self.usual_size, is_usual=True)

    def may_measure(self, n_rows: int, long: float = LONG) -> bool:
        """Whether so many rows may be work of at least `long` seconds. Where only torch serves, its usual setting is used."""
        if self.asked == TORCH or (len(self.choices) == 1 and self.choices[0].engine == TORCH):
            return False
        return self.asked != AUTO or (n_rows >= _FEW and (self._rate is None or n_rows / self._rate >= long))

    def select(
        self,
        n_rows: int,
        prepared: Callable[[], list[Any]],
        *,
        tune: bool = False,
        earlier: Iterable[str] = (),
        long: float = LONG,
        generated: bool = False,
    ) -> Selected:
        """The engine for `n_rows` rows.

        It is the engine that was the fastest before, else the engine that began the work, else the fastest of a measurement
        now if the work is long enough to pay for it, else the usual one.

        Parameters
        ----------
        prepared : callable
            Some prepared samples of the work.
        tune : bool
            Measure now, and all batch sizes.
        earlier : iterable of str
            :attr:`Choice.record` of features that this machine has stored.
        long : float
            Seconds of work with torch from which on engines are measured.
        generated : bool
            Whether the samples are made up: the engine is then on trial until it has agreed with torch on real ones.

        Raises
        ------
        EncoderError
            The engine that was asked for does not agree with torch, or cannot execute the network.
        """
        if not tune and (found := self._remembered(generated)):
            return found
        if not tune and not self.may_measure(n_rows, long):
            return self.usual()
        samples = prepared()
        if not samples:
            return self.usual()
        reference, self._rate = self._reference(samples)
        seconds, known = n_rows / self._rate, set(earlier)
        begun = [one for one in self.choices if one.engine != TORCH and one.record in known]
        if not tune and self.asked == AUTO and seconds < long and not begun:
            return self.usual()
        choices = self.choices if tune or not begun else begun[:1]
        budget = SECONDS if tune else min(SECONDS, SHARE * seconds / len(choices))
        sizes = self.kind.batch_sizes if tune else (self.usual_size,)
        measured: list[Measured] = []
        opened: dict[str, Engine] = {}
        for choice in choices:
            try:
                engine = opened[str(choice)] = self._checked(choice, samples, reference, generated=generated)
            except Exception as error:  # libraries have errors of their own
                if self.asked != AUTO and choice is choices[-1] and not measured:
                    raise EncoderError(f"{self.encoder.architecture}: {choice}: {one_line(error)}") from None
                say(f"{self.encoder.architecture}: {choice} is left out: {one_line(error)}")
                continue
            measured += self._measured(engine, samples, sizes, budget)
        return self._fastest(measured, opened, generated)

    def _remembered(self, generated: bool) -> Selected | None:
        """The fastest engine of an earlier measurement on this machine; None if there is none.

        One that was measured on generated samples serves only those who would measure on them again.
        """
        found = self._memory.recall(self._place, self._made_from)
        if found is None or (_TRIAL in found and not generated):
            return None
        try:
            if _TRIAL in found:
                return Selected(self._on_trial([Choice(**one) for one in found[_TRIAL]]), int(found["batch_size"]))
            return Selected(self._open(Choice(**found["choice"])), int(found["batch_size"]))
        except Exception as error:
            say(f"{self.encoder.architecture}: {found['choice']['engine']} cannot be used: {one_line(error)}")
            return None

    def _fastest(self, measured: list[Measured], opened: dict[str, Engine], generated: bool) -> Selected:
        if not measured:
            return self.usual()
        measured = sorted(measured, key=lambda one: -one.rate)
        close = [one for one in measured if one.rate >= _CLOSE * measured[0].rate]
        best = min(close, key=lambda one: one.batch_size)
        measured = [best, *(one for one in measured if one is not best)]
        if generated:
            engine = self._on_trial([one.choice for one in measured], opened)
        else:
            self._remember(best.choice, best.batch_size)
            engine = opened[str(best.choice)]
            self.encoder.set_speed(**best.choice.settings)
        return Selected(engine, best.batch_size, measured, missing=self._missing())

    def _remember(self, choice: Choice, batch_size: int, trial: Sequence[Choice] = ()) -> None:
        """Remember a choice, or those to try, the fastest first."""
        value = {"choice": choice.values, "batch_size": batch_size}
        more = {_TRIAL: [one.values for one in trial]} if trial else {}
        self._memory.remember(self._place, {**value, **more}, self._made_from)
        self._memory.save()

    def _on_trial(self, choices: Sequence[Choice], opened: dict[str, Engine] | None = None) -> Engine:
        """The first of some choices, in use once it has agreed with torch on real samples; if it does not, the next one."""
        first, *others = choices
        reference = self._torch_choice()
        if first.record == reference.record:  # nothing to compare
            self._remember(first, self.usual_size)
            return self._open(first)
        engine = (opened or {}).get(str(first)) or self._open(first)

        def decide(tried: Engine, why: str) -> Engine:
            if not why:
                self._remember(first, self.usual_size)
                self.encoder.set_speed(**first.settings)
                return tried
            say(f"{self.encoder.architecture}: {first} is left out: {why}")
            return self._on_trial(others) if others else self._open(reference)

        self._remember(first, self.usual_size, choices)
        return OnTrial(engine, self._open(reference), decide)

    def _missing(self) -> str:
        """An engine for exported graphs that is not installed, if this encoder can be exported."""
        if self.asked != AUTO or not any(engine_class(one.engine).exported for one in self.choices):
            return ""
        return next((name for name, engine in engines().items() if engine.extra and not engine.installed()), "")

    def _open(self, choice: Choice) -> Engine:
        engine = engine_class(choice.engine)
        spec = self._spec if engine.exported else self._known_spec
        return engine(self.encoder, self.device, choice, tokens=self.tokens, spec=spec)

    def _checked(self, choice: Choice, samples: list[Any], reference: np.ndarray, *, generated: bool) -> Engine:
        """An engine whose embeddings agree with the reference. Raises whatever the engine raises, or EncoderError."""
        engine = self._open(choice)
        found = self._embeddings(engine, samples)
        if why := disagreement(found, reference, choice.arithmetic, generated=generated):
            raise EncoderError(why)
        return engine

    def _reference(self, samples: list[Any]) -> tuple[np.ndarray, float]:
        """Embeddings of torch, in float32 if the precision class allows it, and its rows per second."""
        engine = self._open(self._torch_choice())
        engine.encode(self.encoder.collate(samples[:1]))
        begin = time.perf_counter()
        found = self._embeddings(engine, samples)
        return found, len(samples) / (time.perf_counter() - begin)

    def _torch_choice(self) -> Choice:
        choices = engine_class(TORCH).choices(self.encoder, self.device)
        return next((one for one in choices if one.arithmetic == "float32"), choices[0])

    def _embeddings(self, engine: Engine, samples: list[Any]) -> np.ndarray:
        parts = (samples[start : start + self.usual_size] for start in range(0, len(samples), self.usual_size))
        return np.concatenate([self.encoder.compared(engine.encode(self.encoder.collate(part))) for part in parts])

    def _measured(self, engine: Engine, samples: list[Any], sizes: Iterable[int], seconds: float) -> Iterable[Measured]:
        """The rates in batches of some sizes; larger ones are left out once they are slower, or do not fit."""
        best = 0.0
        for size in sizes:
            inputs = self.encoder.collate([samples[i % len(samples)] for i in range(size)])
            try:
                rate = _rate(engine, inputs, size, seconds)
            except Exception as error:
                if not self.encoder.out_of_memory(error):
                    raise
                return
            yield Measured(engine.choice, size, rate)
            if rate < 0.9 * best:
                return
            best = max(best, rate)


def _rate(engine: Engine, inputs: Any, size: int, seconds: float) -> float:
    """Rows per second of the fastest batch, after one to warm up: other work on the machine only slows batches down."""
    engine.encode(inputs)
    fastest, n, begin = math.inf, 0, time.perf_counter()
    while n < _BATCHES or time.perf_counter() - begin < seconds:
        before = time.perf_counter()
        engine.encode(inputs)
        fastest, n = min(fastest, time.perf_counter() - before), n + 1
    return size / fastest
