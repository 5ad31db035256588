"""A trained model applied to video files: a clip at once, a long video through sliding windows; no labels needed."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
import tqdm
from jaxtyping import Float, UInt8

from manet_jax import preprocess
from tfds_ma52 import mma52, transcode
from tfds_ma52.labels import Labels

LONG = 10.0  # seconds; what lasts longer is no clip of a micro-action
WINDOW, STRIDE = 2.0, 1.0  # seconds; clips of MA-52 last two on average


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of a clip, or of a window of a long video.

    Attributes:
      video: the file.
      start: of what was seen, in seconds.
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
    labels: Labels
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
class _Clip:
    """What is read of a video: a whole short one, a window of a long one, or what is wrong with it."""

    path: pathlib.Path
    span: tuple[float, float] = (0.0, 0.0)
    windowed: bool = False
    error: str = ""
    views: dict[str, UInt8[np.ndarray, "..."]] | None = None


@dataclasses.dataclass(frozen=True)
class _Long:
    """A long video, which is read when its turn comes: its windows in seconds, its frame rate and number of frames."""

    path: pathlib.Path
    spans: list[tuple[float, float]]
    frame_rate: float
    num_frames: int


def predict(
    model,
    paths: Sequence[str | os.PathLike],
    *,
    window: float = WINDOW,
    stride: float = STRIDE,
    batch_size: int = 8,
    show_progress: bool = False,
) -> Iterator[Prediction]:
    """Applies a model to video files, in their order; those that cannot be read are named, and the rest go on.

    A video of at most `LONG` seconds is one clip, seen as evaluation sees it. A longer one is read once from its start
    to its end, in windows placed as in `mma52.read_folder`, so that memory does not grow with its length.

    Args:
      model: a `checkpoint.LoadedModel`.
      paths: the files.
      window: seconds of a window of a long video.
      stride: seconds between the starts of two.
      batch_size: clips and windows that the model sees at once.
      show_progress: whether to show a progress bar.

    Raises:
      UserError: `window` or `stride` is out of range.
    """
    mma52.check_windows(window, stride, 0.5)
    paths = [pathlib.Path(path) for path in paths]
    with tqdm.tqdm(
        desc="predicting", total=len(paths), unit="clip", leave=False, dynamic_ncols=True, disable=not show_progress
    ) as bar:
        waiting, size = None, 0
        for batch in _batches(_read(paths, model.views, window, stride, bar), batch_size):
            # A last batch that is not full is filled up, rather than compiled for, where there was a full one.
            size = max(size, sum(clip.views is not None for clip in batch))
            # The device computes one batch while the next one is read.
            waiting, ready = (batch, _apply(model, batch, size)), waiting
            if ready:
                yield from _answer(model, *ready)
                bar.update(len(ready[0]))
        if waiting:
            yield from _answer(model, *waiting)
            bar.update(len(waiting[0]))


def _read(
    paths: list[pathlib.Path], view: dict[str, Any], window: float, stride: float, bar: tqdm.tqdm
) -> Iterator[_Clip]:
    num_threads = min(os.cpu_count() or 1, len(paths), 16)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    opened = grain.MapDataset.range(len(paths)).map(lambda i: _open(paths[i], view, window, stride))
    for clip in opened.to_iter_dataset(options):
        if isinstance(clip, _Long):
            bar.total += len(clip.spans) - 1
            yield from _read_windows(clip, view)
        else:
            yield clip


def _open(path: pathlib.Path, view: dict[str, Any], window: float, stride: float) -> _Clip | _Long:
    try:
        transcode.check_file(path)
        reader = preprocess.open_video(path)
        frame_rate = float(reader.get_avg_fps())
        if not 0.1 <= frame_rate <= 10_000:
            return _Clip(path, error=f"the file announces {frame_rate:.3g} frames a second")
        duration = len(reader) / frame_rate
        if duration > LONG:
            return _Long(path, mma52.windows(duration, window, stride), frame_rate, len(reader))
        return _Clip(path, (0.0, duration), views=preprocess.middle_views(path, **view))
    except (transcode.DamagedVideoError, preprocess.UnreadableVideoError, OSError) as error:
        return _Clip(path, error=str(error))


def _read_windows(video: _Long, view: dict[str, Any]) -> Iterator[_Clip]:
    spans = iter(video.spans)
    try:
        frames = [(round(start * video.frame_rate), round(end * video.frame_rate)) for start, end in video.spans]
        frames = [(first, max(first + 1, min(end, video.num_frames))) for first, end in frames]
        for views in preprocess.window_views(video.path, frames, **view):
            yield _Clip(video.path, next(spans), windowed=True, views=views)
    except preprocess.UnreadableVideoError as error:
        yield _Clip(video.path, next(spans), windowed=True, error=str(error))


def _batches(clips: Iterable[_Clip], batch_size: int) -> Iterator[list[_Clip]]:
    """Groups clips so that each group has at most `batch_size` with views, the last of them at its end."""
    batch, count = [], 0
    for clip in clips:
        batch.append(clip)
        count += clip.views is not None
        if count == batch_size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _apply(model, batch: list[_Clip], size: int) -> tuple[jax.Array | None, ...]:
    """What the model says of the clips that have views, filled up with black ones to `size`: logits and emotions."""
    views = [clip.views for clip in batch if clip.views is not None]
    if not views:
        return None, None
    blank = {name: np.zeros_like(value) for name, value in views[0].items()}
    views += [blank] * (size - len(views))
    stacked = {name: np.stack([each[name] for each in views]) for name in blank}
    said = model(stacked.get("video"), stacked.get("appearance"))
    return said[0], (said[2] if model.emotions else None)


def _answer(model, batch: list[_Clip], said: tuple[jax.Array | None, ...]) -> Iterator[Prediction]:
    logits, emotion = (None if each is None else np.asarray(each) for each in said)
    probabilities = None if logits is None else to_probabilities(logits, model.multilabel)
    emotion = None if emotion is None else to_probabilities(emotion, multilabel=False)
    row = 0
    for clip in batch:
        seen = clip.views is not None
        yield Prediction(
            str(clip.path),
            *clip.span,
            clip.windowed,
            clip.error,
            probabilities[row] if seen and probabilities is not None else None,
            emotion[row] if seen and emotion is not None else None,
            model.labels,
            model.emotions,
        )
        row += seen


def to_probabilities(logits: Float[np.ndarray, "b n"], multilabel: bool) -> Float[np.ndarray, "b n"]:
    """The probability of each class: a sigmoid where clips have several labels, else a softmax."""
    logits = logits.astype(np.float64)
    if multilabel:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
