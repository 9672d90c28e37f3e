"""Random numbers as a function of (seed, epoch, id), so that interruptions and the order of rows do not change them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def id_numbers(ids: Sequence[object]) -> np.ndarray:
    """Hash each id to 64 bits, `(N,)` uint64: an 8-byte BLAKE2b digest."""
    digests = b"".join(hashlib.blake2b(str(i).encode("utf-8", "surrogatepass"), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype="<u8").copy()


def mix(numbers: np.ndarray, *salts: int) -> np.ndarray:
    """Scramble 64-bit numbers with salts such as (seed, epoch); splitmix64 (Steele et al., 2014), vectorised."""
    mixed = numbers.astype(np.uint64, copy=True)
    with np.errstate(over="ignore"):
        for salt in salts:
            mixed += np.uint64(salt % 2**64) * np.uint64(0xD1342543DE82EF95) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
    return mixed


def epoch_order(numbers: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits the rows, `(N,)` int64; it depends only on the ids' numbers, seed and epoch."""
    return np.argsort(mix(numbers, seed, epoch), kind="stable")


def torch_seed(seed: int, epoch: int) -> int:
    """A seed for torch's generator at the start of an epoch."""
    return int(mix(np.array([seed], dtype=np.uint64), epoch)[0] >> np.uint64(1))
