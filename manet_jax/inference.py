"""A trained model applied to video files: short ones as a clip, long ones in sliding windows; no labels needed."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
import tqdm
from jaxtyping import Float

from manet_jax.data import clips
from manet_jax.models import ClipSpec, Outputs
from tfds_ma52 import mma52, video
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet
from tfds_ma52.video import Frame

if TYPE_CHECKING:
    from manet_jax.loaded_model import LoadedModel

LONG = 10.0  # seconds; what lasts longer is no clip of a micro-action
WINDOW, STRIDE = 2.0, 1.0  # seconds; clips of MA-52 last two on average
_LONGEST_WINDOW = 60.0  # seconds; all frames of a window are in memory, scaled


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


@dataclasses.dataclass(frozen=True)
class LoadedClip:
    """A short video or a window of a long one, decoded, or the error that prevented it.

    Attributes:
      path: of the video.
      span: start and end in seconds.
      windowed: whether it is a window.
      error: why it cannot be read; "" where it can.
      clip: what the model sees of it; None with an error.
      announces_length: whether the file says how long it is, so that it is known to be whole.
    """

    path: pathlib.Path
    span: tuple[float, float] = (0.0, 0.0)
    windowed: bool = False
    error: str = ""
    clip: clips.Clip | None = None
    announces_length: bool = True


def predict(
    model: "LoadedModel",
    paths: Sequence[str | os.PathLike],
    *,
    window: float = WINDOW,
    stride: float = STRIDE,
    batch_size: int = 8,
    show_progress: bool = False,
) -> Iterator[Prediction]:
    """Applies a model to video files, in their order; those that cannot be read get an error, and the rest continue.

    A video of at most `LONG` seconds is one clip, as in evaluation. A longer one is read once from its start to its
    end, in windows placed as in `mma52.read_folder`, so that memory does not grow with its length.

    Args:
      model: from `load_model`.
      paths: the files.
      window: seconds of a window of a long video.
      stride: seconds between the starts of two.
      batch_size: clips and windows in a batch.
      show_progress: whether to show a progress bar.

    Raises:
      UserError: `window` or `stride` is out of range.
    """
    mma52.check_windows(window, stride, 0.5)
    if window > _LONGEST_WINDOW:
        raise UserError(f"window is {window}; give at most {_LONGEST_WINDOW:g} seconds", field="window")
    files = [pathlib.Path(path) for path in paths]
    with tqdm.tqdm(
        desc="predicting", total=len(files), unit="clip", leave=False, dynamic_ncols=True, disable=not show_progress
    ) as bar:
        waiting, size = None, 0
        for batch in _batches(_read(files, model.inputs, window, stride, bar), batch_size):
            # A last batch that is not full is filled up, rather than compiled for, where there was a full one.
            size = max(size, sum(loaded.clip is not None for loaded in batch))
            # The device computes one batch while the next one is read.
            waiting, ready = (batch, _apply(model, batch, size)), waiting
            if ready:
                yield from _predictions(model, *ready)
                bar.update(len(ready[0]))
        if waiting:
            yield from _predictions(model, *waiting)
            bar.update(len(waiting[0]))


def _read(
    paths: list[pathlib.Path], inputs: dict[str, ClipSpec], window: float, stride: float, bar: tqdm.tqdm
) -> Iterator[LoadedClip]:
    num_threads = min(os.cpu_count() or 1, len(paths), 16)
    decoder_threads = (os.cpu_count() or 1) // num_threads
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)

    def start(index: int) -> tuple[LoadedClip, Iterator[LoadedClip]]:
        """Reads a video until there is a clip, the only one of a short video."""
        clips_of_video = _read_video(paths[index], inputs, window, stride, decoder_threads)
        return next(clips_of_video), clips_of_video

    started = grain.MapDataset.range(len(paths)).map(start).to_iter_dataset(options)
    for path, (first, others) in zip(paths, started, strict=True):
        if first.windowed:
            bar.total += max(0, len(mma52.windows(video.estimate_duration(path), window, stride)) - 1)
        yield first
        yield from others


def _read_video(
    path: pathlib.Path, inputs: dict[str, ClipSpec], window: float, stride: float, num_threads: int
) -> Iterator[LoadedClip]:
    """The clip of a short video, or the windows of a long one; the error where it cannot be read on comes last."""
    frames: collections.deque[Frame[clips.CroppedFrame]] = collections.deque()
    count, duration = 0, 0.0  # of windows so far; seconds read
    try:
        announced = video.announces_length(path)
        for frame in video.read_frames(path, num_threads=num_threads):
            frames.append(Frame(frame.start, frame.end, clips.crop_frame(frame.picture.image(), inputs)))
            duration = frame.end
            while _is_long(duration) and (end := count * stride + window) <= frame.middle:
                yield _load(path, frames, (end - window, end), inputs, announced)
                count += 1
            # The last window ends with the video; a video may turn out to be short.
            needed = min(count * stride, duration - (window if _is_long(duration) else LONG))
            while frames[0].end <= needed:
                frames.popleft()
        if not _is_long(duration):
            clip = clips.clip_of_frames([frame.picture for frame in frames], inputs)
            yield LoadedClip(path, (0.0, duration), clip=clip, announces_length=announced)
        else:
            for span in mma52.windows(duration, window, stride)[count:]:
                yield _load(path, frames, span, inputs, announced)
    except (video.DamagedVideoError, OSError) as error:
        start = count * stride
        yield LoadedClip(path, (start, max(start, duration)), windowed=_is_long(duration), error=str(error))


def _is_long(duration: float) -> bool:
    return duration > LONG + 1e-6  # what rounding may cost


def _load(
    path: pathlib.Path,
    frames: Iterable[Frame[clips.CroppedFrame]],
    span: tuple[float, float],
    inputs: dict[str, ClipSpec],
    announced: bool,
) -> LoadedClip:
    """A window of a long video, given frames around it."""
    clip = clips.clip_of_frames([frame.picture for frame in video.frames_between(frames, *span)], inputs)
    return LoadedClip(path, span, windowed=True, clip=clip, announces_length=announced)


def _batches(loaded: Iterable[LoadedClip], batch_size: int) -> Iterator[list[LoadedClip]]:
    """Groups clips so that each group has at most `batch_size` without an error, the last of them at its end."""
    batch, count = [], 0
    for each in loaded:
        batch.append(each)
        count += each.clip is not None
        if count == batch_size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _apply(model: "LoadedModel", batch: list[LoadedClip], size: int) -> Outputs | None:
    """The model's outputs for the clips without an error, filled up with black ones to `size`; None without any."""
    readable = [loaded.clip for loaded in batch if loaded.clip is not None]
    if not readable:
        return None
    readable += [clips.blank_clip(model.inputs)] * (size - len(readable))
    return model({name: np.stack([clip[name] for clip in readable]) for name in model.inputs})


def _predictions(model: "LoadedModel", batch: list[LoadedClip], outputs: Outputs | None) -> Iterator[Prediction]:
    probabilities = {}
    for task in model.tasks if outputs is not None else ():
        probabilities[task.name] = task.probabilities(np.asarray(getattr(outputs, task.output)))
    row = 0
    for loaded in batch:
        readable = loaded.clip is not None
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
        )
        row += readable
