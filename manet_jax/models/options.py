"""Options of networks: plain, frozen values that a checkpoint keeps as JSON; and clip specifications."""

import dataclasses
from collections.abc import Mapping
from typing import Any

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)
DTYPES = ("float32", "bfloat16")
SAMPLINGS = ("segments", "dense")
SHORT_VIDEOS = ("spread", "wrap")

Numbers = tuple[Any, ...]  # of a config, whose values are checked here rather than assumed


class OptionError(ValueError):
    """Options that no network can be made of.

    Attributes:
      problems: a text for each, which begins with the name of the option.
    """

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """A clip specification: the frames of a video that a network sees, the part of them, its size and its scale.

    Attributes:
      num_frames: frames a clip.
      sampling: "segments" takes one frame from each of `num_frames` equal segments of the video, "dense" takes frames
        `frame_interval` apart, see `data.sampling`.
      frame_interval: of "dense", in frames of the video.
      short_videos: what "dense" does with a video shorter than the clip's `span`: "spread" takes frames from its first
        to its last, evenly, and "wrap" continues with its start.
      subset_of: the frames are one from each of `num_frames` segments of so many frames, which are sampled from the
        video first and shared with an input of that many frames; 0 samples the video itself.
      box: top, left, bottom and right edge of the part that is seen, as shares of the frame's height and width.
      short_side: pixels of the part's shorter side before cropping.
      crop_size: pixels of the crop's sides, the network's input.
      crop_scales: sides of training crops, as shares of the shorter side, from the largest to the smallest.
      center_crop_first: whether training crops are cut from the center crop, what evaluation sees, rather than from
        the whole part.
      mean: of the pixels, RGB, 0..255; the network subtracts it.
      std: of the pixels likewise; the network divides by it.
    """

    num_frames: int = 8
    sampling: str = "segments"
    frame_interval: int = 1
    short_videos: str = "spread"
    subset_of: int = 0
    box: Numbers = (0.0, 0.0, 1.0, 1.0)
    short_side: int = 256
    crop_size: int = 224
    crop_scales: Numbers = (1.0, 0.875, 0.75, 0.66)
    center_crop_first: bool = False
    mean: Numbers = IMAGENET_MEAN
    std: Numbers = IMAGENET_STD

    def __post_init__(self):
        problems = at_least(self, num_frames=1, frame_interval=1, crop_size=32)
        problems += one_of(self, sampling=SAMPLINGS, short_videos=SHORT_VIDEOS)
        if self.sampling == "segments":
            problems += [
                f"{name} is {value!r}; that is for sampling 'dense'"
                for name, value, unused in (
                    ("frame_interval", self.frame_interval, 1),
                    ("short_videos", self.short_videos, "spread"),
                )
                if value != unused
            ]
        if self.subset_of and self.num_frames > self.subset_of:
            problems.append(f"num_frames is {self.num_frames}, more than the video's {self.subset_of}: lower it")
        box = self.box
        if len(box) != 4 or not _all_numbers(box) or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            problems.append(f"box is {box}; give the top, left, bottom and right edge as shares of the frame, 0..1")
        if self.crop_size > self.short_side:
            problems.append(f"crop_size is {self.crop_size}, more than short_side {self.short_side}: lower it")
        if not self.crop_scales or not all(_all_numbers([scale]) and 0 < scale <= 1 for scale in self.crop_scales):
            problems.append(f"crop_scales is {self.crop_scales}; each must be a number in 0..1, above 0")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not _all_numbers(values) or (name == "std" and min(values) <= 0):
                problems.append(f"{name} is {values}; give a number for each of red, green and blue, 0..255")
        raise_any(problems)

    @property
    def span(self) -> int:
        """The frames of the video from a dense clip's first to its last."""
        return ((self.subset_of or self.num_frames) - 1) * self.frame_interval + 1

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ClipSpec":
        """Makes a specification from what JSON leaves of `dataclasses.asdict` of one."""
        return cls(**with_tuples(value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The options that all networks over one clip have in common.

    Attributes:
      num_classes: number of actions.
      embedding_dim: dimensions of the label vectors; 0 leaves the joint-embedding head out.
      num_groups: number of body groups; 0 leaves their head out, which only training needs.
      dropout: share of the pooled features that training drops.
      dtype: of the computation, "float32" or "bfloat16"; parameters are always float32.
      remat: whether training computes what is inside a block again for its gradient rather than keep it.
      clip: what the network sees.
    """

    num_classes: int = 52
    embedding_dim: int = 0
    num_groups: int = 0
    dropout: float = 0.5
    dtype: str = "float32"
    remat: bool = False
    clip: ClipSpec = dataclasses.field(default_factory=ClipSpec)

    def __post_init__(self):
        raise_any(self.problems())

    def problems(self) -> list[str]:
        """Texts for `OptionError`; a network adds its own."""
        problems = at_least(self, num_classes=1, embedding_dim=0, num_groups=0) + one_of(self, dtype=DTYPES)
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout}; it must lie in 0..1, below 1")
        return problems

    @property
    def inputs(self) -> dict[str, ClipSpec]:
        """The clip specification of each input, by its key."""
        return {"video": self.clip}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs for tasks, see `Outputs`."""
        return ("logits", "embedding") if self.embedding_dim else ("logits",)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The paths of the modules and parameters of each layer, from the input to the heads; () knows no order."""
        return ()

    @property
    def min_clips(self) -> int:
        """Clips of which training's BatchNorms have to see at least so many at once."""
        return 1

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "NetworkOptions":
        """Makes options from what JSON leaves of `dataclasses.asdict` of some."""
        options = with_tuples(value) | {"clip": ClipSpec.from_json(value["clip"])}
        return cls(**options)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A network by its name in `MODELS`, and its options: all that it takes to make it with fresh weights."""

    name: str
    options: Any

    def to_json(self) -> dict[str, Any]:
        """Nested dicts; `models.spec_from_json` reads them."""
        return dataclasses.asdict(self)


def with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with tuples for lists, which JSON has in their place."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}


def raise_any(problems: list[str]) -> None:
    """Raises an `OptionError` if there are problems."""
    if problems:
        raise OptionError(problems)


def at_least(options: Any, **minima: int | float) -> list[str]:
    """A text for each option that is below its minimum."""
    values = {name: getattr(options, name) for name in minima}
    return [
        f"{name} is {values[name]}; it must be at least {minimum}"
        for name, minimum in minima.items()
        if values[name] < minimum
    ]


def one_of(options: Any, **choices: tuple) -> list[str]:
    """A text for each option that is none of its choices."""
    values = {name: getattr(options, name) for name in choices}
    return [
        f"{name} is {values[name]!r}; choose one of {', '.join(map(str, known))}"
        for name, known in choices.items()
        if values[name] not in known
    ]


def _all_numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)
