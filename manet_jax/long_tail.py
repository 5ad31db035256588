"""The long tail: classes that are rare, and the body groups that classes belong to, in the loss of actions."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from manet_jax import losses, parallel
from manet_jax.models import Outputs
from manet_jax.models.options import at_least, raise_any
from manet_jax.models.outputs import present


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassBalance:
    """Section `class_balance`.

    Attributes:
      sampling: q, a class of N clips has a share of the drawn clips in proportion to N^q, see `data.class_sampling`.
      effective_number: beta of `class_weights`; 0 is none.
      logit_adjustment: tau, of which times the logarithm of a class's share of the drawn clips is added to its logit in
        the loss (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021); 0 is none.
      focal: gamma of `losses.focal`; 0 is none.
      soft_f1: weight of 1 - `losses.soft_macro_f1` of a batch; 0 is none.
    """

    sampling: float = 1.0
    effective_number: float = 0.0
    logit_adjustment: float = 0.0
    focal: float = 0.0
    soft_f1: float = 0.0

    def __post_init__(self):
        problems = at_least(self, logit_adjustment=0, focal=0, soft_f1=0)
        if not 0 <= self.sampling <= 1:
            problems.append(f"sampling is {self.sampling}; it must lie in 0..1")
        if not 0 <= self.effective_number < 1:
            problems.append(f"effective_number is {self.effective_number}; it must lie in 0..1, below 1")
        raise_any(problems)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BodyGroups:
    """Section `body_groups`.

    Attributes:
      head: weight of the cross-entropy of a head of body groups beside the classifier, an auxiliary task (Caruana,
        "Multitask Learning", 1997); 0 makes no such head.
      consistency: weight of the cross-entropy of the body group under the actions' probabilities, summed into groups: a
        hierarchical cross-entropy (Bertinetto et al., "Making Better Mistakes", CVPR 2020); 0 is none.
      label_smoothing: see `smoothed_targets`.
    """

    head: float = 0.0
    consistency: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self):
        problems = at_least(self, head=0, consistency=0)
        if not 0 <= self.label_smoothing < 1:
            problems.append(f"label_smoothing is {self.label_smoothing}; it must lie in 0..1, below 1")
        raise_any(problems)


@dataclasses.dataclass(frozen=True)
class LongTail:
    """What the loss of a task of actions does about rare classes and body groups; nothing by default.

    Attributes:
      balance: section `class_balance`.
      body_groups: section `body_groups`.
      counts: training clips of each class; None where neither section needs them.
    """

    balance: ClassBalance = ClassBalance()
    body_groups: BodyGroups = BodyGroups()
    counts: Int[np.ndarray, " n"] | None = None

    def cross_entropy(
        self, logits: Float[Array, "b n"], label: Int[Array, " b"], label_smoothing: float, groups: Sequence[int]
    ) -> Float[Array, " b"]:
        """The loss of the logits against the true class.

        Args:
          logits: one for each class.
          label: the true class.
          label_smoothing: see `losses.cross_entropy`.
          groups: the body group of each class.
        """
        if self.balance.logit_adjustment:
            log_shares = np.log(class_shares(self._counts, self.balance.sampling))
            logits += jnp.asarray(self.balance.logit_adjustment * log_shares, jnp.float32)[None]
        if not (self.balance.effective_number or self.balance.focal or self.body_groups.label_smoothing):
            return losses.cross_entropy(logits, label, label_smoothing)
        targets = smoothed_targets(groups, label_smoothing, self.body_groups.label_smoothing)
        if self.balance.effective_number:
            targets *= class_weights(self._counts, self.balance.effective_number)[:, None]
        return losses.focal(logits, jnp.asarray(targets, jnp.float32)[label], self.balance.focal)

    def terms(
        self, outputs: Outputs, target: Float[Array, "b n"], groups: Sequence[int], *, exclusive: bool
    ) -> dict[str, tuple[float, Float[Array, ""]]]:
        """The weight and the value of each loss beside that of the logits, by name.

        Args:
          outputs: of the network.
          target: 1 for each class that a clip has.
          groups: the body group of each class; a group is present where any of its classes is.
          exclusive: whether a clip has one class. With several, the logit of a group is the largest of its classes'.
        """
        logits, found = present(outputs.logits), {}
        if weight := self.balance.soft_f1:
            probabilities = jax.nn.softmax(logits) if exclusive else jax.nn.sigmoid(logits)
            found["soft_f1_loss"] = weight, 1 - losses.soft_macro_f1(probabilities, target, parallel.AXIS)
        cross_entropy = optax.softmax_cross_entropy if exclusive else losses.binary_cross_entropy
        if weight := self.body_groups.head:
            of_groups = losses.over_groups(target, groups, jnp.max)
            found["group_cross_entropy"] = weight, cross_entropy(present(outputs.groups), of_groups).mean()
        if weight := self.body_groups.consistency:
            of_groups = losses.over_groups(target, groups, jnp.max)
            summed = losses.over_groups(logits, groups, jax.nn.logsumexp if exclusive else jnp.max)
            found["group_consistency"] = weight, cross_entropy(summed, of_groups).mean()
        return found

    @property
    def _counts(self) -> Int[np.ndarray, " n"]:
        if self.counts is None:
            raise ValueError("the loss depends on the number of training clips of each class, which is not given")
        return self.counts


NO_LONG_TAIL = LongTail()


def class_shares(counts: Int[np.ndarray, " n"], exponent: float) -> Float[np.ndarray, " n"]:
    """The shares of the classes, proportional to their numbers of clips to a power; one without clips counts as one."""
    powers = np.maximum(counts, 1) ** float(exponent)
    return powers / powers.sum()


def class_weights(counts: Int[np.ndarray, " n"], beta: float) -> Float[np.ndarray, " n"]:
    """Weights of the classes by the effective number of their clips, which sum to the number of classes.

    Proportional to (1 - beta) / (1 - beta^N) for N clips (Cui et al., "Class-Balanced Loss Based on Effective Number of
    Samples", CVPR 2019); a class without clips counts as one with a single clip.
    """
    weights = (1 - beta) / (1 - beta ** np.maximum(counts, 1))
    return weights * len(weights) / weights.sum()


def smoothed_targets(groups: Sequence[int], over_all: float, over_group: float) -> Float[np.ndarray, "n n"]:
    """The target of a clip of each class (row): a distribution over the classes.

    With both shares they are the soft labels of a hierarchy of two levels (Bertinetto et al., "Making Better Mistakes",
    CVPR 2020).

    Args:
      groups: the body group of each class.
      over_all: the share that is spread over all classes.
      over_group: the share that is spread over the classes of the same body group, the true one included.
    """
    of_group = np.equal.outer(groups, groups).astype(np.float64)
    of_group /= of_group.sum(1, keepdims=True)
    return (1 - over_all - over_group) * np.eye(len(of_group)) + over_all / len(of_group) + over_group * of_group
