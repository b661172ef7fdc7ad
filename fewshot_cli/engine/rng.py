"""Random numbers that stay the same: on every platform, with every version of numpy, whatever was drawn elsewhere."""

import hashlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[np.int64]
"""Of images, classes or labels."""


class Draws:
    """A stream of random numbers that `seed`, `name` and `index` alone decide.

    Only raw 64-bit words are taken from numpy, whose order it guarantees for PCG64; what its generators make of them
    has changed between versions. The three are hashed, so that neighbouring indices have streams that are unrelated.
    """

    def __init__(self, seed: int, name: str, index: int) -> None:
        text = f"{seed} {index} {name}".encode("utf-8", "surrogatepass")  # a folder's name may be broken Unicode
        self._bits = np.random.PCG64(int.from_bytes(hashlib.sha256(text).digest(), "big"))

    def uniform(self, n: int) -> npt.NDArray[np.float64]:
        """Numbers `(n,)` uniform in [0, 1), multiples of 2^-53."""
        return (self._words(n) >> np.uint64(11)).astype(np.float64) * np.float64(2**-53)

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included; each as likely as the others, to 1 in 2^64."""
        return low + (int(self._bits.random_raw()) * (high - low + 1) >> 64)

    def choose(self, n: int, k: int) -> Numbers:
        """The numbers `(k,)` of k different ones of n things, in random order.

        Takes n words whatever k is, and the first of k are those of a smaller k: asking for more adds to what is there.
        """
        return np.argsort(self._words(n), kind="stable")[:k].astype(np.int64, copy=False)

    def subset(self, n: int, k: int) -> Numbers:
        """The numbers `(k,)`, rising, of k different ones of n < 2^32 things, every set of them as likely as any other
        (a thing by up to n in 2^32). Takes time and memory for k of them only."""
        if 2 * k > n:
            left = np.ones(n, dtype=bool)
            left[self.subset(n, n - k)] = False
            return np.flatnonzero(left)
        chosen = np.empty(0, dtype=np.uint32)
        while len(chosen) < k:  # never too many: each draw adds one thing or none
            drawn = (self._words(k - len(chosen)) >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)
            together = np.sort(np.concatenate([chosen, drawn.astype(np.uint32)]))
            chosen = together[np.concatenate([[True], together[1:] != together[:-1]])]
        return chosen.astype(np.int64)

    def shuffled(self, things: Numbers) -> Numbers:
        """The same things in random order."""
        return things[self.choose(len(things), len(things))]

    def _words(self, n: int) -> npt.NDArray[np.uint64]:
        words: npt.NDArray[np.uint64] = self._bits.random_raw(n)
        return words
