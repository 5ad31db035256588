"""The order of training clips: every clip once a pass, or each class as often as a power of its number of clips."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True, eq=False)  # the identity is enough to remember its orders by
class ClassSampling:
    """Draws each class in proportion to N^q for its N clips.

    Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, equation 1. A pass
    has as many draws as there are clips. The clips of a class come in rounds, each of them once a round, in a new
    order; a round continues over the end of a pass. All is a function of the seed and the number of the pass.

    Attributes:
      classes: of each clip.
      exponent: q, in 0..1: with 1 every clip comes once a pass, with 0 all classes equally often.
    """

    classes: Int[np.ndarray, " n"]
    exponent: float

    def order(self, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
        """The clips of a pass."""
        start = self._draws_before(epoch)
        counts = self._draws_before(epoch + 1) - start
        drawn = np.repeat(np.arange(len(counts)), counts)[shuffled(seed, epoch, len(self.classes))]
        order = np.empty_like(drawn)
        for i, members in enumerate(self._members):
            order[drawn == i] = _in_rounds(members, (seed, i + 1), int(start[i]), int(counts[i]))
        return order

    @functools.cached_property
    def _members(self) -> list[Int[np.ndarray, " k"]]:
        """The clips of each class that has any."""
        return [np.flatnonzero(self.classes == each) for each in np.unique(self.classes)]

    def _draws_before(self, epoch: int) -> Int[np.ndarray, " k"]:
        """How often each class is drawn before a pass: its exact share, but for rounding."""
        powers = np.array([len(members) for members in self._members]) ** float(self.exponent)
        bounds = np.cumsum(powers) * (epoch * len(self.classes) / powers.sum())
        return np.diff(np.floor(bounds + 0.5).astype(np.int64), prepend=0)


def shuffled(seed: int, epoch: int, length: int) -> Int[np.ndarray, " length"]:
    """The numbers below a length in an order of their own for each pass.

    Grain's own shuffling holds the interpreter's lock for 0.5 ms a clip in a set of 500, and 3 ms in one of 16.
    """
    return np.random.default_rng((seed, epoch)).permutation(length)


def _in_rounds(
    members: Int[np.ndarray, " k"], seed: tuple[int, ...], start: int, count: int
) -> Int[np.ndarray, " count"]:
    """Draws number `start` to `start + count` of an endless sequence that has all members once in each round."""
    first, last = start // len(members), (start + count) // len(members)
    rounds = [np.random.default_rng((*seed, number)).permutation(members) for number in range(first, last + 1)]
    return np.concatenate(rounds)[start - first * len(members) :][:count]
