"""Dropout that gets its random numbers and rates as arguments, so that the heads of one vectorised fit differ in both.

torch's own dropout takes one rate and one generator for all heads that are trained at once. Here a head names the rate
(a setting: `dropout`, `input_dropout`, ...), and the fit supplies that rate and random bytes. So dropout is a function of
the head's seed, the epoch and the row, whatever else is trained in the same pass. Each value takes one random byte, since
more would cost more than the arithmetic of a linear head; rates are therefore rounded to 256ths.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 256


class Noise:
    """The random numbers of one batch.

    Parameters
    ----------
    rates : dict of str to Tensor
        A setting's name to the share that is dropped in 256ths, a uint8 scalar.
    random : dict of str to Tensor
        The same names to `(B, W)` random uint8: W is the number of values that the head drops from in one row, counted by
        :class:`Widths`. A rate without random numbers drops nothing.
    """

    def __init__(self, rates: dict[str, Tensor], random: dict[str, Tensor]) -> None:
        self.rates, self.random = rates, random
        self._at = dict.fromkeys(random, 0)

    def __call__(self, x: Tensor, rate: str) -> Tensor:
        """`x` `(B, ...)` with a share of its values dropped and the others scaled up accordingly."""
        if rate not in self.random:
            return x
        scale = LEVELS / (LEVELS - self.rates[rate].to(x.dtype))
        return x * (self.kept(x.shape, rate) * scale)

    def kept(self, shape: torch.Size | tuple[int, ...], rate: str) -> Tensor:
        """Which values of a shape `(B, ...)` are kept, as bool; all of them if nothing is dropped at this rate."""
        if rate not in self.random:
            return torch.ones(tuple(shape), dtype=torch.bool)
        start = self._at[rate]
        self._at[rate] = stop = start + math.prod(shape[1:])
        return self.random[rate][:, start:stop].reshape(shape) >= self.rates[rate]


class Widths(Noise):
    """Drops nothing, and counts in `counted` how many random numbers a head takes for one row, by rate."""

    def __init__(self) -> None:
        super().__init__({}, {})
        self.counted: dict[str, int] = {}

    def __call__(self, x: Tensor, rate: str) -> Tensor:
        """`x` as it is."""
        self.kept(x.shape, rate)
        return x

    def kept(self, shape: torch.Size | tuple[int, ...], rate: str) -> Tensor:
        """All of them."""
        self.counted[rate] = self.counted.get(rate, 0) + math.prod(shape[1:])
        return super().kept(shape, rate)


QUIET = Noise({}, {})
