"""Observations: what a person coded of a video with a tool such as ELAN or BORIS."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One annotated stretch of a video.

    Attributes:
      location: of the annotation, for problems: the file and where in it.
      tier: where the tool keeps it: ELAN's tier, BORIS's behavioral category.
      value: what was coded, perhaps "".
      start: seconds on the tool's clock.
      end: likewise, later than `start`.
    """

    location: str
    tier: str
    value: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Media:
    """A video that a tool linked.

    Attributes:
      name: of its file, without folders.
      origin: the second of the video at which the tool's clock is 0.
    """

    name: str
    origin: float = 0.0


@dataclasses.dataclass(frozen=True)
class Observation:
    """What was coded of one video.

    Attributes:
      location: the file, and which part of it.
      stem: a video of this name, whatever its ending, may be meant too; "" stands for none.
      media: the videos that are linked.
      annotations: in the file's order.
    """

    location: str
    stem: str
    media: tuple[Media, ...]
    annotations: tuple[Annotation, ...]


def file_name(path: str) -> str:
    """The last part of a path or address of any system."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def check_times(start: float, end: float) -> None:
    """Checks the times of an annotation.

    Raises:
      ValueError: it has no length.
    """
    if start >= end:
        raise ValueError(f"it starts at {start:.3f} s, but ends at {end:.3f} s: give it a length")
