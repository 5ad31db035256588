"""Videos of a minute or two in which micro-actions come and go, several at once, as in MMA-52; longer than those."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from tfds_ma52.labels import MA52_COUNTS, MA52_NAMES
from tfds_ma52.synthetic import skeleton
from tfds_ma52.synthetic.motions import FPS, MOTIONS, Motion, Variation, draw_variation, idle_curves, motion_curves
from tfds_ma52.synthetic.pro import LABELS, PARTS

NUM_VIDEOS = {"train": 200, "val": 100, "test": 100}  # of size 1; on average 90 s each
HEADER = ("id", "video_id", "start_frame", "end_frame", "class", "total_frames", "fps")

_DURATION = (60.0, 120.0)  # seconds, all as probable
# Of an action, seconds: the logarithm is normal, with the median and the mean of MMA-52's, 2.6 and 4.1.
_MEDIAN, _SPREAD = 2.6, 0.95
_LENGTH = (0.3, 15.0)
_LENGTH_OF_REPEATS = 1.0  # the least that a movement to and fro takes, or a hand that goes somewhere and back
# Between two actions of a part of the body, seconds: each part acts a third of the time, so that about as many actions
# are in progress at once as in MMA-52, and a quarter of the time none is.
_SHORTEST_PAUSE, _MEAN_PAUSE = 0.5, 8.0
_MOVING = 0.97  # of an act's frames: then its curves are back at rest (`motions.motion_curves`)
_CHUNK = 10 * FPS  # frames that are posed at once, at most


@dataclasses.dataclass(frozen=True)
class TimedAction:
    """An action of a video: an index of `LABELS`, and its frames, from `first` to before `end`, 30 a second."""

    class_id: int
    first: int
    end: int


@dataclasses.dataclass(frozen=True)
class PlannedVideo:
    """One video to write.

    Attributes:
      split: "train", "val" or "test".
      number: the video's number within its split.
      subject: the person.
      frames: its length, 30 a second.
      actions: by their start.
    """

    split: str
    number: int
    subject: int
    frames: int
    actions: tuple[TimedAction, ...]

    @property
    def name(self) -> str:
        """File name, as in MMA-52."""
        return f"{self.split}{self.number:04d}.mp4"


def plan_videos(settings: dict[str, Any], split: str, people: range) -> list[PlannedVideo]:
    """Draws the person, the length and the actions of each video of a split."""
    rng = np.random.default_rng([settings["seed"], 6, list(NUM_VIDEOS).index(split)])
    videos: list[PlannedVideo] = []
    for number in range(max(1, round(settings["size"] * NUM_VIDEOS[split]))):
        subject, frames = int(rng.choice(people)), round(FPS * rng.uniform(*_DURATION))
        actions = [action for part in PARTS for action in _draw_actions(rng, part, frames)]
        videos.append(PlannedVideo(split, number, subject, frames, tuple(sorted(actions, key=lambda a: a.first))))
    return videos


def class_probabilities(part: str) -> Float[np.ndarray, " action"]:
    """The probability of each action of a part that acts: its share of MA-52's clips."""
    counts = [MA52_COUNTS[MA52_NAMES.index(name)][0] for name in PARTS[part]]
    return np.array(counts) / sum(counts)


def _draw_actions(rng: np.random.Generator, part: str, frames: int) -> list[TimedAction]:
    """Draws what a part of the body does in a video: one action after another, with pauses between them."""
    actions: list[TimedAction] = []
    # The first pause has begun before the video.
    start = _SHORTEST_PAUSE + rng.exponential(_MEAN_PAUSE)
    while True:
        name = PARTS[part][rng.choice(len(PARTS[part]), p=class_probabilities(part))]
        end = start + _draw_length(rng, MOTIONS[MA52_NAMES.index(name)])
        if end > frames / FPS - _SHORTEST_PAUSE:
            return actions
        actions.append(TimedAction(LABELS.names.index(name), round(FPS * start), round(FPS * end)))
        start = end + _SHORTEST_PAUSE + rng.exponential(_MEAN_PAUSE)


def _draw_length(rng: np.random.Generator, motion: Motion) -> float:
    """Draws how many seconds an action lasts."""
    shortest = _LENGTH_OF_REPEATS if motion.pulse or motion.swing or motion.target else _LENGTH[0]
    while True:
        length = rng.lognormal(math.log(_MEDIAN), _SPREAD)
        if shortest <= length <= _LENGTH[1]:
            return length


def draw_frames(
    video: PlannedVideo, settings: dict[str, Any], size: tuple[int, int]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Draws a video frame by frame; it depends on the seed and the video alone.

    Args:
      video: the plan.
      settings: of the set.
      size: (height, width) of the frames in pixels.
    """
    from tfds_ma52.synthetic import render  # OpenCV only where it is needed

    rng = np.random.default_rng([settings["seed"], 1, video.subject])
    body, looks = skeleton.draw_body(rng), render.draw_looks(rng, 0)
    rng = np.random.default_rng([settings["seed"], 7, list(NUM_VIDEOS).index(video.split), video.number])
    drawing = render.Drawing(body, looks, render.draw_scene(rng), size, rng)
    step, first = FPS // settings["frame_rate"], 0
    for points in pose(video, body, rng):
        length, points = len(points["pelvis"]), {name: point[-first % step :: step] for name, point in points.items()}
        first += length
        if len(points["pelvis"]):
            yield from drawing.frames(points)


def pose(
    video: PlannedVideo, body: skeleton.Body, rng: np.random.Generator
) -> Iterator[dict[str, Float[np.ndarray, "t 3"]]]:
    """Poses a video's figure for all its frames, some seconds at a time; it is still but for its actions and idling.

    Limbs return to rest after each action. One side of the body acts throughout the video.

    Args:
      video: the plan.
      body: the person.
      rng: draws the variation of the video and of each action.

    Returns:
      Of each part of the video, the figure's points as `skeleton.pose_trajectory` gives them.
    """
    # A hand that lies elsewhere, or a crossed leg, would jump when it begins to act.
    variation = dataclasses.replace(draw_variation(rng), frames=video.frames, hold="", crossed=False)
    acts = [_lasting(action, variation.side, rng) for action in video.actions]
    channels = _add_channels(acts, idle_curves(variation))
    for start, end in itertools.pairwise(_cuts(acts, video.frames)):
        motions = [(motion, draws) for first, motion, draws in acts if first < end and start < first + draws.frames]
        part = {name: curve[start:end] for name, curve in channels.items()}
        yield skeleton.pose_channels(motions, part, body, dataclasses.replace(variation, frames=end - start))


_Act = tuple[int, Motion, Variation]  # its first frame, and what `motion_curves` takes


def _lasting(action: TimedAction, side: int, rng: np.random.Generator) -> _Act:
    """An action that moves from its first frame to its last, and ends where it began."""
    motion = MOTIONS[MA52_NAMES.index(LABELS.names[action.class_id])]
    # What a clip shows from its first frame to its last comes and goes here.
    motion = dataclasses.replace(motion, once=motion.once + motion.held, held=(), end="return")
    frames = math.ceil((action.end - action.first) / _MOVING)
    # The earliest start and the latest way back that `motions._envelope` knows.
    draws = dataclasses.replace(draw_variation(rng), frames=frames, side=side, start=-1 / 3, dwell=1.0)
    return action.first, motion, draws


def _add_channels(acts: list[_Act], channels: dict[str, Float[np.ndarray, " t"]]) -> dict[str, Float[np.ndarray, " t"]]:
    """Adds the curves of acts to those of the whole video."""
    length = len(next(iter(channels.values())))
    for first, motion, draws in acts:
        curves = motion_curves(motion, draws)
        if motion.effector not in skeleton.HAND_EFFECTORS:
            del curves["reach"]
        for name, curve in curves.items():
            channel = channels.setdefault(name, np.zeros(length))
            channel[first : first + draws.frames] += curve[: length - first]
    return channels


def _cuts(acts: list[_Act], frames: int) -> list[int]:
    """Frames between which at most one act is of hands and one of legs, from 0 to the last, and never far apart."""
    limbs = (*skeleton.HAND_EFFECTORS, *skeleton.LEG_EFFECTORS)
    starts = {0, frames} | {first for first, motion, _ in acts if motion.effector in limbs}
    return sorted(starts | set(range(0, frames, _CHUNK)))


def rows(videos: list[PlannedVideo], frame_rate: int) -> list[tuple[str, ...]]:
    """The rows of a split's csv file in MMA-52's form; of a test split its dummies, one a video."""
    step, found = FPS // frame_rate, []
    for video in videos:
        length = math.ceil(video.frames / step)
        actions = [(action.first // step, -(-action.end // step), action.class_id) for action in video.actions]
        if video.split == "test":
            actions = [(0, 20, video.number % len(LABELS.names))]
        name = video.name.removesuffix(".mp4")
        found += [(name, str(start), str(end), str(i), str(length), f"{frame_rate:.1f}") for start, end, i in actions]
    return [(str(number), *row) for number, row in enumerate(found)]
