"""Dropout with random numbers and rates as arguments, so that the heads of one vectorised fit can differ in both.

torch's dropout uses one rate and one generator for all heads that are trained together. Here a head names the rate (a
setting: `dropout`, `input_dropout`, ...), and the fit supplies the rate and random bytes. Dropout thus depends only on the
head's seed, the epoch and the row, and not on other heads of the same pass. Each value takes one random byte, because more
would take longer than the arithmetic of a linear head; rates are therefore rounded to multiples of 1/256.
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
        A setting's name to the dropped share in units of 1/256, a uint8 scalar.
    random : dict of str to Tensor
        The same names to `(B, W)` random uint8, where W is the number of values per row that dropout applies to, counted by
        :class:`Widths`. A rate without random numbers drops nothing.
    """

    def __init__(self, rates: dict[str, Tensor], random: dict[str, Tensor]) -> None:
        self.rates, self.random = rates, random
        self._at = dict.fromkeys(random, 0)

    def __call__(self, x: Tensor, rate: str) -> Tensor:
        """Apply dropout to `x` `(B, ...)`: drop a share of its values and scale up the others."""
        if rate not in self.random:
            return x
        scale = LEVELS / (LEVELS - self.rates[rate].to(x.dtype))
        return x * (self.kept(x.shape, rate) * scale)

    def kept(self, shape: torch.Size | tuple[int, ...], rate: str) -> Tensor:
        """A bool mask of the kept values of a shape `(B, ...)`; all true if nothing is dropped at this rate."""
        if rate not in self.random:
            return torch.ones(tuple(shape), dtype=torch.bool)
        start = self._at[rate]
        self._at[rate] = stop = start + math.prod(shape[1:])
        return self.random[rate][:, start:stop].reshape(shape) >= self.rates[rate]


class Widths(Noise):
    """Drops nothing; counts in `counted` the random numbers that a head needs per row, by rate."""

    def __init__(self) -> None:
        super().__init__({}, {})
        self.counted: dict[str, int] = {}

    def __call__(self, x: Tensor, rate: str) -> Tensor:
        """Count the values of `x`, and return it unchanged."""
        self.kept(x.shape, rate)
        return x

    def kept(self, shape: torch.Size | tuple[int, ...], rate: str) -> Tensor:
        """Count the values, and keep all of them."""
        self.counted[rate] = self.counted.get(rate, 0) + math.prod(shape[1:])
        return super().kept(shape, rate)


QUIET = Noise({}, {})
