"""A trained model applied to video files: short ones as a clip, long ones in sliding windows; no labels needed."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grain
import jax
import numpy as np
import tqdm
from jaxtyping import Float

from manet_jax import tasks as tasks_lib
from manet_jax.data import clips as clips_lib
from manet_jax.data.views import Views
from manet_jax.data.windows import EvalInputs, LoadedClip, SlidingWindows, read_windows
from manet_jax.models import Outputs
from tfds_ma52 import box_file, clip_frames, image_folder, untrimmed
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet

if TYPE_CHECKING:
    from manet_jax.ensemble import Ensemble
    from manet_jax.loaded_model import LoadedModel

LONG = 10.0  # seconds; what lasts longer is no clip of a micro-action
WINDOW, STRIDE = 2.0, 1.0  # seconds; clips of MA-52 last two on average
_LONGEST_WINDOW = 60.0  # seconds; all frames of a window are in memory, as the network sees them


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for a video, or for a window of a long one.

    Attributes:
      video: the file.
      start: of the video or window, in seconds.
      end: likewise.
      windowed: whether the video is long, so that this is one of its windows.
      error: why the video cannot be read, from here on; "" where it can.
      probabilities: of each action; None where the model recognises emotions only.
      emotion_probabilities: of each emotion; None where the model recognises none.
      labels: the actions and their body groups.
      emotions: the emotions' names.
      announces_length: whether the file says how long it is, so that it is known to be whole.
      disagreement: the standard deviation of each action's probability over the views, and over an ensemble's members
        by their weights; None where there is one view of one model.
    """

    video: str
    start: float
    end: float
    windowed: bool
    error: str
    probabilities: Float[np.ndarray, " n"] | None
    emotion_probabilities: Float[np.ndarray, " k"] | None
    labels: LabelSet
    emotions: tuple[str, ...]
    announces_length: bool = True
    disagreement: Float[np.ndarray, " n"] | None = None

    def top(self, count: int = 5) -> list[dict[str, Any]]:
        """The most probable actions, best first: `action`, `class_id`, body `group` and `probability` of each."""
        if self.probabilities is None:
            return []
        return [
            {
                "action": self.labels.names[i],
                "class_id": int(i),
                "group": self.labels.group_names[self.labels.groups[i]],
                "probability": float(self.probabilities[i]),
            }
            for i in np.argsort(-self.probabilities, kind="stable")[:count]
        ]

    def emotion(self) -> dict[str, Any] | None:
        """The most probable emotion: its name as `emotion`, and its `probability`; None without any."""
        if self.emotion_probabilities is None:
            return None
        best = int(self.emotion_probabilities.argmax())
        return {"emotion": self.emotions[best], "probability": float(self.emotion_probabilities[best])}


def predict(
    model: "LoadedModel | Ensemble",
    paths: Sequence[str | os.PathLike],
    *,
    window: float = WINDOW,
    stride: float = STRIDE,
    batch_size: int = 8,
    boxes: str | os.PathLike = "",
    frame_rate: float = clip_frames.FRAME_RATE,
    frame_pattern: str = "",
    views: Views | Sequence[Views] | None = None,
    whole_until: float = LONG,
    show_progress: bool = False,
) -> Iterator[Prediction]:
    """Applies a model to videos, in their order; those that cannot be read get an error, and the rest continue.

    A video of at most `whole_until` seconds is one clip, as in evaluation. A longer one is read once from its start to
    its end, in windows placed as in `mma52.read_folder`, so that memory does not grow with its length. All members of
    an ensemble see the same windows of one reading.

    Args:
      model: from `load_model` or `load_ensemble`.
      paths: files, or folders of images.
      window: seconds of a window of a long video.
      stride: seconds between the starts of two.
      batch_size: clips and windows in a batch.
      boxes: a csv file of the part of each video's picture that is wanted, see `box_file.read_boxes`; "": all of it.
      frame_rate: frames a second of folders of images.
      frame_pattern: of the names in them, see `image_folder.find_images`.
      views: of each clip and window, over which probabilities are averaged, for all members of an ensemble or for each
        of them; None takes each model's own.
      whole_until: seconds; 0 reads every video in windows.
      show_progress: whether to show a progress bar.

    Raises:
      UserError: `window`, `stride` or `frame_rate` is out of range, or `boxes` or `frame_pattern` is malformed.
    """
    untrimmed.check_windows(window, stride, 0.5)
    if window > _LONGEST_WINDOW:
        raise UserError(f"window is {window}; give at most {_LONGEST_WINDOW:g} seconds", field="window")
    if not 0.1 <= frame_rate <= 10_000:
        raise UserError(f"frame_rate is {frame_rate}; give 0.1 to 10000 frames a second", field="frame_rate")
    image_folder.check_pattern(frame_pattern)
    files = [pathlib.Path(path) for path in paths]
    found = box_file.read_boxes(pathlib.Path(boxes).expanduser()).match(files) if str(boxes) else {}
    videos = [
        ClipFrames(path, box=found.get(path), frame_pattern=frame_pattern, frame_rate=frame_rate) for path in files
    ]
    no_box = f"{boxes} has no box of it" if str(boxes) else ""
    with tqdm.tqdm(
        desc="predicting", total=len(files), unit="clip", leave=False, dynamic_ncols=True, disable=not show_progress
    ) as bar:
        waiting, size = None, 0
        wanted = _wanted(model.members, views)
        # What several members see alike, as those that differ in their seed do, is cut out once.
        eval_inputs = [each for i, each in enumerate(wanted) if each not in wanted[:i]]
        seen = [eval_inputs.index(each) for each in wanted]
        for batch in _batches(
            _read(videos, no_box, eval_inputs, SlidingWindows(window, stride), whole_until, bar), batch_size
        ):
            # A last batch that is not full is filled up, rather than compiled for, where there was a full one.
            size = max(size, sum(loaded.clips is not None for loaded in batch))
            # The device computes one batch while the next one is read.
            outputs = [_apply(each, batch, i, size) for each, i in zip(model.members, seen, strict=True)]
            waiting, ready = (batch, outputs), waiting
            if ready:
                yield from _predictions(model, *ready)
                bar.update(len(ready[0]))
        if waiting:
            yield from _predictions(model, *waiting)
            bar.update(len(waiting[0]))


def _wanted(members: "Sequence[LoadedModel]", views: Views | Sequence[Views] | None) -> list[EvalInputs]:
    """What each model sees of a video."""
    if views is None:
        views = [member.views for member in members]
    elif isinstance(views, Views):
        views = [views] * len(members)
    return [EvalInputs(member.inputs, each) for member, each in zip(members, views, strict=True)]


def _read(
    videos: list[ClipFrames],
    no_box: str,
    eval_inputs: Sequence[EvalInputs],
    windows: SlidingWindows,
    whole_until: float,
    bar: tqdm.tqdm,
) -> Iterator[LoadedClip]:
    """The clips and windows of videos; `no_box` is the error of one without a box, "" where none is wanted."""
    num_threads = min(os.cpu_count() or 1, len(videos), 16)
    decoder_threads = (os.cpu_count() or 1) // num_threads
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)

    def start(index: int) -> tuple[LoadedClip, Iterator[LoadedClip]]:
        """Reads a video until there is a clip, the only one of a short video."""
        if no_box and not videos[index].box:
            return LoadedClip(videos[index].path, error=no_box), iter(())
        clips_of_video = read_windows(
            videos[index], eval_inputs, windows, whole_until=whole_until, num_threads=decoder_threads
        )
        return next(clips_of_video), clips_of_video

    started = grain.MapDataset.range(len(videos)).map(start).to_iter_dataset(options)
    for each, (first, others) in zip(videos, started, strict=True):
        if first.windowed:
            bar.total += max(0, len(windows.of(each.estimate_duration())) - 1)
        yield first
        yield from others


def _batches(loaded: Iterable[LoadedClip], batch_size: int) -> Iterator[list[LoadedClip]]:
    """Groups clips so that each group has at most `batch_size` without an error, the last of them at its end."""
    batch, count = [], 0
    for each in loaded:
        batch.append(each)
        count += each.clips is not None
        if count == batch_size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _apply(model: "LoadedModel", batch: list[LoadedClip], seen: int, size: int) -> list[Outputs]:
    """The model's outputs in each view for the clips without an error, filled up with black ones to `size`."""
    readable = [loaded.clips[seen] for loaded in batch if loaded.clips is not None]
    outputs: list[Outputs] = []
    for view in range(len(readable[0].views) if readable else 0):
        jax.block_until_ready(outputs[-1:])  # so that the clips of one view after the other are in memory
        clips = [each[view] for each in readable]
        clips += [clips_lib.blank_clip(model.inputs)] * (size - len(clips))
        outputs.append(model({name: np.stack([clip[name] for clip in clips]) for name in model.inputs}))
    return outputs


def _predictions(
    model: "LoadedModel | Ensemble", batch: list[LoadedClip], outputs: list[list[Outputs]]
) -> Iterator[Prediction]:
    """The predictions for a batch, given the outputs of each member in each view."""
    probabilities, disagreement = {}, None
    if all(outputs):
        of_members = [_average_views(*each) for each in zip(model.members, outputs, strict=True)]
        averaged = tasks_lib.average_models(model.tasks, of_members, model.weights)
        probabilities = {task.name: task.probabilities(averaged[task.output]) for task in model.tasks}
        disagreement = _disagreement(model, outputs)
    row = 0
    for loaded in batch:
        readable = loaded.clips is not None
        of_clip = {name: values[row] for name, values in probabilities.items()} if readable else {}
        yield Prediction(
            video=str(loaded.path),
            start=loaded.span[0],
            end=loaded.span[1],
            windowed=loaded.windowed,
            error=loaded.error,
            probabilities=of_clip.get("actions"),
            emotion_probabilities=of_clip.get("emotions"),
            labels=model.labels,
            emotions=model.emotions,
            announces_length=loaded.announces_length,
            disagreement=disagreement[row] if readable and disagreement is not None else None,
        )
        row += readable


def _disagreement(model: "LoadedModel | Ensemble", outputs: list[list[Outputs]]) -> Float[np.ndarray, "b n"] | None:
    """See `Prediction.disagreement`, for the clips of a batch."""
    views = [
        (task, view, weight / len(of_member))
        for member, weight, of_member in zip(model.members, model.weights, outputs, strict=True)
        for task in member.tasks
        if task.name == "actions"
        for view in of_member
    ]
    if len(views) < 2:
        return None
    probabilities = np.stack([task.probabilities(np.asarray(getattr(view, task.output))) for task, view, _ in views])
    weights = [weight for *_, weight in views]
    mean = np.average(probabilities, axis=0, weights=weights)
    return np.sqrt(np.average((probabilities - mean) ** 2, axis=0, weights=weights))


def _average_views(model: "LoadedModel", views: list[Outputs]) -> tasks_lib.Arrays:
    stacked = {each.output: np.stack([getattr(view, each.output) for view in views], axis=1) for each in model.tasks}
    return tasks_lib.average_views(model.tasks, stacked)
