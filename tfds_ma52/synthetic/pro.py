"""Clips of several micro-actions and an emotion: their distribution, and the best accuracy that it allows."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tfds_ma52.labels import MA52_NAMES, LabelSet
from tfds_ma52.synthetic.face import Expression

# The parts of the body that act, each on its own, and their actions: those of MA-52's 52 that can happen at once.
PARTS = {
    "torso": ("shaking body", "sitting straightly", "shrugging"),
    "head": ("bowing head", "tilting head", "nodding", "shaking head"),
    "hands": (
        "rubbing hands",
        "illustrative gestures",
        "crossing arms",
        "playing or tidying hair",
        "patting legs",
    ),
    "legs": ("shaking legs", "spread legs", "crossing legs", "stretching feet"),
}
LABELS = LabelSet(
    names=tuple(name for names in PARTS.values() for name in names),
    group_names=tuple(PARTS),
    groups=tuple(group for group, names in enumerate(PARTS.values()) for _ in names),
)
NUM_ACTS = (2, 3, 4)  # parts that act in a clip, each number as probable as the others

# An emotion's favourite of each part is FAVOUR times as probable as any other action of that part.
FAVOUR = 6
FAVOURITES = {
    "anger": ("sitting straightly", "shaking head", "crossing arms", "spread legs"),
    "fear": ("shaking body", "tilting head", "playing or tidying hair", "shaking legs"),
    "happiness": ("shrugging", "nodding", "rubbing hands", "stretching feet"),
    "sadness": ("shaking body", "bowing head", "patting legs", "crossing legs"),
    "surprise": ("shrugging", "tilting head", "illustrative gestures", "shaking legs"),
}
EMOTIONS = tuple(FAVOURITES)  # all as probable

# The face expresses the emotion with this probability, else one of the others, all as probable.
FACE_RIGHT = 0.6
EXPRESSIONS = {
    "anger": Expression(
        brow_up=-0.014, brow_tilt=0.05, brow_height=0.009, eye_open=0.8, mouth_curve=-0.008, mouth_width=0.034
    ),
    "fear": Expression(brow_up=0.016, brow_tilt=-0.04, eye_open=2.0, mouth_width=0.046, mouth_open=0.013),
    "happiness": Expression(brow_up=0.006, eye_open=0.7, mouth_curve=0.036, mouth_width=0.05, mouth_open=0.005),
    "sadness": Expression(
        brow_up=0.006, brow_tilt=-0.045, brow_height=0.007, eye_open=0.5, mouth_curve=-0.034, mouth_width=0.04
    ),
    "surprise": Expression(brow_up=0.03, eye_open=2.2, mouth_width=0.024, mouth_open=0.034),
}


def action_probabilities() -> dict[str, Float[np.ndarray, "emotion action"]]:
    """The probability of each action of a part that acts, given the emotion."""
    weights = {
        part: [[FAVOUR if name in FAVOURITES[emotion] else 1 for name in names] for emotion in EMOTIONS]
        for part, names in PARTS.items()
    }
    return {part: np.array(rows) / np.sum(rows, axis=1, keepdims=True) for part, rows in weights.items()}


def face_probabilities() -> Float[np.ndarray, "emotion expression"]:
    """The probability of each expression of the face, given the emotion."""
    wrong = (1 - FACE_RIGHT) / (len(EMOTIONS) - 1)
    return wrong + (FACE_RIGHT - wrong) * np.eye(len(EMOTIONS))


def draw_acts(rng: np.random.Generator, emotion: int) -> tuple[int, ...]:
    """Draws the micro-actions of a clip, MA-52's ids, given its emotion."""
    probabilities, parts = action_probabilities(), list(PARTS)
    acting = rng.permutation(len(parts))[: rng.choice(NUM_ACTS)]
    return tuple(
        MA52_NAMES.index(PARTS[parts[part]][rng.choice(len(PARTS[parts[part]]), p=probabilities[parts[part]][emotion])])
        for part in sorted(acting)
    )


def draw_expression(rng: np.random.Generator, emotion: int) -> int:
    """Draws the emotion that the face expresses, given that of the clip."""
    return int(rng.choice(len(EMOTIONS), p=face_probabilities()[emotion]))


def posterior(acts: Sequence[str] | None, expression: int | None) -> Float[np.ndarray, " emotion"]:
    """The probability of each emotion, given the micro-actions, the expression, or both; None for what is unseen."""
    likelihood = np.ones(len(EMOTIONS))
    if acts is not None:
        for part, probabilities in action_probabilities().items():
            for name in acts:
                if name in PARTS[part]:
                    likelihood *= probabilities[:, PARTS[part].index(name)]
    if expression is not None:
        likelihood *= face_probabilities()[:, expression]
    return likelihood / likelihood.sum()


def bayes_accuracy() -> dict[str, float]:
    """The largest accuracy that any rule can reach on emotions: from the face, the micro-actions, and both.

    The sum, over all observations, of the probability of each with its most probable emotion.
    """
    probabilities, faces = action_probabilities(), face_probabilities()
    prior = 1 / len(EMOTIONS)
    from_acts = from_both = 0.0
    for count in NUM_ACTS:
        subsets = list(itertools.combinations(PARTS, count))
        for subset in subsets:
            joint: Float[np.ndarray, "acts emotion"] = np.full((1, len(EMOTIONS)), prior)
            for part in subset:
                joint = (joint[:, None, :] * probabilities[part].T[None]).reshape(-1, len(EMOTIONS))
            share = 1 / len(NUM_ACTS) / len(subsets)
            from_acts += share * joint.max(1).sum()
            from_both += share * (joint[:, None, :] * faces.T[None]).max(2).sum()
    return {
        "appearance": float(prior * faces.max(0).sum()),
        "micro_action": float(from_acts),
        "fused": float(from_both),
    }


def windows(rng: np.random.Generator, frames: int, count: int) -> Int[np.ndarray, "count 2"]:
    """Draws when each micro-action may happen: first frame and length; all windows hold the clip's middle frame."""
    length = rng.integers(45, frames + 1, count)
    first = rng.integers(np.maximum(0, frames // 2 + 1 - length), np.minimum(frames // 2, frames - length) + 1)
    return np.stack([first, length], axis=1)
