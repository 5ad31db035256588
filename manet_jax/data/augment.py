"""RandAugment and random erasing of training clips: every frame of a clip is changed alike."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from manet_jax.models import ClipSpec
from manet_jax.models.options import at_least, raise_any

_Change = Callable[[Image.Image], Image.Image]
_MAX_LEVEL = 10
_CHANCE = 0.5  # of each drawn operation to take place
_LEVEL_STD = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Section `augmentation`.

    Attributes:
      operations: how many operations of RandAugment are drawn for a clip; 0 is none.
      magnitude: of them, 0..10.
      erasing: the share of clips of which a box is erased.
      repeats: how many clips of a video follow each other in a batch, each drawn anew.
    """

    operations: int = 0
    magnitude: float = 7.0
    erasing: float = 0.0
    repeats: int = 1

    def __post_init__(self):
        problems = at_least(self, operations=0, repeats=1)
        if not 0 <= self.magnitude <= _MAX_LEVEL:
            problems.append(f"magnitude is {self.magnitude}; it must lie in 0..{_MAX_LEVEL}")
        if not 0 <= self.erasing <= 1:
            problems.append(f"erasing is {self.erasing}; it must lie in 0..1")
        raise_any(problems)


NO_AUGMENTATION = Augmentation()


def augment(
    rng: np.random.Generator, frames: UInt8[np.ndarray, "t h w 3"], spec: ClipSpec, augmentation: Augmentation
) -> UInt8[np.ndarray, "t h w 3"]:
    """Changes the colours and the geometry of a cropped clip at random, then erases a box of it.

    Args:
      rng: draws the changes.
      frames: of the clip.
      spec: its mean colour fills what moves in from outside, and its mean and deviation the erased box.
      augmentation: what is drawn.
    """
    if augmentation.operations:
        frames = _rand_augment(rng, frames, spec, augmentation)
    if augmentation.erasing and rng.random() < augmentation.erasing:
        frames = _erase(rng, frames, spec)
    return frames


def _rand_augment(rng: np.random.Generator, frames: np.ndarray, spec: ClipSpec, settings: Augmentation) -> np.ndarray:
    """RandAugment (Cubuk et al., 2020) with operations that change more with their level, as in timm's "inc1"."""
    names = rng.choice(list(_OPERATIONS), settings.operations)
    changes: list[_Change] = []
    for name in names:
        level = float(np.clip(rng.normal(settings.magnitude, _LEVEL_STD), 0, _MAX_LEVEL)) / _MAX_LEVEL
        sign = 1 if rng.random() < 0.5 else -1
        if rng.random() < _CHANCE:
            changes.append(_OPERATIONS[name](level, sign, frames.shape[1:3], spec))
    if not changes:
        return frames
    images = (functools.reduce(lambda image, change: change(image), changes, Image.fromarray(x)) for x in frames)
    return np.stack([np.asarray(image) for image in images])


def _enhance(of: type) -> Callable[..., _Change]:
    """Brings an image nearer to or farther from its grey, mean, black or smooth form."""
    return lambda level, sign, *_: lambda image: of(image).enhance(max(0.1, 1 + sign * 0.9 * level))


def _affine(matrix: Callable[[float, float, float], tuple[float, ...]]) -> Callable[..., _Change]:
    """Moves the pixels by a matrix of a level with its sign, the height and the width."""

    def make(level: float, sign: int, size: tuple[int, int], spec: ClipSpec) -> _Change:
        fill = tuple(round(value) for value in spec.mean)
        coefficients = matrix(sign * level, *size)

        def apply(image: Image.Image) -> Image.Image:
            return image.transform(
                image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC, fillcolor=fill
            )

        return apply

    return make


def _rotate(level: float, sign: int, _: tuple[int, int], spec: ClipSpec) -> _Change:
    fill = tuple(round(value) for value in spec.mean)
    return lambda image: image.rotate(sign * 30 * level, Image.Resampling.BICUBIC, fillcolor=fill)


def _add_below_middle(level: float, *_: object) -> _Change:
    table = [min(255, value + int(110 * level)) if value < 128 else value for value in range(256)]
    return lambda image: image.point(table * 3)


# Each makes a change of a level in 0..1, a sign, the frames' size and what the network sees. Strengths are timm's.
_OPERATIONS: dict[str, Callable[..., _Change]] = {
    "autocontrast": lambda *_: ImageOps.autocontrast,
    "equalize": lambda *_: ImageOps.equalize,
    "invert": lambda *_: ImageOps.invert,
    "rotate": _rotate,
    "posterize": lambda level, *_: lambda image: ImageOps.posterize(image, max(1, 4 - int(4 * level))),
    "solarize": lambda level, *_: lambda image: ImageOps.solarize(image, min(256, 256 - int(256 * level))),
    "add below the middle": _add_below_middle,
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear along x": _affine(lambda level, *_: (1, 0.3 * level, 0, 0, 1, 0)),
    "shear along y": _affine(lambda level, *_: (1, 0, 0, 0.3 * level, 1, 0)),
    "move along x": _affine(lambda level, height, width: (1, 0, 0.45 * level * width, 0, 1, 0)),
    "move along y": _affine(lambda level, height, width: (1, 0, 0, 0, 1, 0.45 * level * height)),
}


def _erase(rng: np.random.Generator, frames: np.ndarray, spec: ClipSpec) -> np.ndarray:
    """Random erasing (Zhong et al., AAAI 2020) of one box in all frames, by noise of the pixels' mean and deviation.

    The box has 2 % to a third of the area and sides of a ratio of 0.3 to 3.3; one that does not fit is drawn anew, ten
    times at most (timm).
    """
    height, width = frames.shape[1:3]
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * height * width
        ratio = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        rows, columns = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if rows < height and columns < width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            noise = rng.normal(spec.mean, spec.std, (len(frames), rows, columns, 3))
            erased = frames.copy()
            erased[:, top : top + rows, left : left + columns] = np.clip(np.round(noise), 0, 255)
            return erased
    return frames
