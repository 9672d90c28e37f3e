"""Measures the fastest batch size and settings on a device; none of them changes an embedding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmfeat.encoders.kinds import modality_kind

SECONDS = 1.0  # of measuring each setting
_CLOSE = 0.97  # a smaller batch that is nearly as fast is preferred, since it saves memory


@dataclass(frozen=True)
class Tuning:
    """The fastest settings, and all measurements.

    Attributes
    ----------
    settings : dict
        For the encoder's `set_speed`.
    measured : list of (dict, int, float)
        Settings, batch size, rows per second.
    """

    batch_size: int
    settings: dict[str, Any]
    measured: list[tuple[dict[str, Any], int, float]] = field(default_factory=list)


def tune(encoder: Any, device: Any, prepared: Sequence[Any], *, tokens: int = 0) -> Tuning:
    """Measure an encoder's settings and batch sizes on prepared samples.

    Parameters
    ----------
    encoder : Encoder
        In eval mode on `device`; the fastest settings stay set.
    prepared : sequence
        Prepared samples, at least one; they are repeated to fill a batch.
    """
    measured = []
    for settings in encoder.speed_settings():
        encoder.set_speed(**settings)
        best = 0.0
        for size in modality_kind(encoder.modality).batch_sizes:
            inputs = encoder.collate([prepared[i % len(prepared)] for i in range(size)])
            try:
                rate = _rate(encoder, device, inputs, size=size, tokens=tokens)
            except Exception as error:
                if not encoder.out_of_memory(error):
                    raise
                break
            measured.append((settings, size, rate))
            if rate < 0.9 * best:  # larger batches will not be faster
                break
            best = max(best, rate)
    if not measured:
        return Tuning(1, {})
    fastest = max(rate for *_, rate in measured)
    settings, size, _ = next(one for one in sorted(measured, key=lambda m: m[1]) if one[2] >= _CLOSE * fastest)
    encoder.set_speed(**settings)
    return Tuning(size, settings, measured)


def _rate(encoder: Any, device: Any, inputs: Any, *, size: int, tokens: int) -> float:
    """Rows per second, after one batch to warm up."""
    encoder.encode(inputs, device, tokens)
    start, n = time.perf_counter(), 0
    while not n or time.perf_counter() - start < SECONDS:
        encoder.encode(inputs, device, tokens)
        n += size
    return n / (time.perf_counter() - start)
