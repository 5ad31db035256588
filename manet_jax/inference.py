"""A trained model applied to video files: short ones as a clip, long ones in sliding windows; no labels needed."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
import tqdm
from jaxtyping import Float

from manet_jax.data import clips, decoding
from manet_jax.models import ClipSpec, Outputs
from tfds_ma52 import mma52, transcode
from tfds_ma52.labels import LabelSet

if TYPE_CHECKING:
    from manet_jax.loaded_model import LoadedModel

LONG = 10.0  # seconds; what lasts longer is no clip of a micro-action
WINDOW, STRIDE = 2.0, 1.0  # seconds; clips of MA-52 last two on average


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
    """

    path: pathlib.Path
    span: tuple[float, float] = (0.0, 0.0)
    windowed: bool = False
    error: str = ""
    clip: clips.Clip | None = None


@dataclasses.dataclass(frozen=True)
class _LongVideo:
    """A long video, which is read when its turn comes: its windows in seconds, its frame rate and number of frames."""

    path: pathlib.Path
    spans: list[tuple[float, float]]
    frame_rate: float
    num_frames: int


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
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    opened = grain.MapDataset.range(len(paths)).map(lambda i: _open(paths[i], inputs, window, stride))
    for loaded in opened.to_iter_dataset(options):
        if isinstance(loaded, _LongVideo):
            bar.total += len(loaded.spans) - 1
            yield from _read_windows(loaded, inputs)
        else:
            yield loaded


def _open(path: pathlib.Path, inputs: dict[str, ClipSpec], window: float, stride: float) -> LoadedClip | _LongVideo:
    try:
        transcode.check_file(path)
        reader = decoding.open_video(path)
        frame_rate = float(reader.get_avg_fps())
        if not 0.1 <= frame_rate <= 10_000:
            return LoadedClip(path, error=f"the file announces {frame_rate:.3g} frames a second")
        duration = len(reader) / frame_rate
        if duration > LONG:
            return _LongVideo(path, mma52.windows(duration, window, stride), frame_rate, len(reader))
        return LoadedClip(path, (0.0, duration), clip=clips.eval_clip(path, inputs))
    except (transcode.DamagedVideoError, decoding.UnreadableVideoError, OSError) as error:
        return LoadedClip(path, error=str(error))


def _read_windows(video: _LongVideo, inputs: dict[str, ClipSpec]) -> Iterator[LoadedClip]:
    spans = iter(video.spans)
    try:
        frames = [(round(start * video.frame_rate), round(end * video.frame_rate)) for start, end in video.spans]
        frames = [(first, max(first + 1, min(end, video.num_frames))) for first, end in frames]
        for clip in clips.sliding_window_clips(video.path, frames, inputs):
            yield LoadedClip(video.path, next(spans), windowed=True, clip=clip)
    except decoding.UnreadableVideoError as error:
        yield LoadedClip(video.path, next(spans), windowed=True, error=str(error))


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
        )
        row += readable
