"""What a network makes of a video along time: features and probabilities of windows around each moment."""

import dataclasses
import hashlib
import io
import itertools
import json
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from jaxtyping import Float

from manet_jax.data.clips import blank_clip
from manet_jax.data.views import SINGLE_VIEW
from manet_jax.data.windows import DenseWindows, EvalInputs, LoadedClip, read_windows
from manet_jax.loaded_model import LoadedModel
from manet_jax.models import Outputs
from manet_jax.models.outputs import present
from tfds_ma52 import untrimmed
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.errors import UserError, report
from tfds_ma52.files import write_atomically
from tfds_ma52.video import DamagedVideoError

# Micro-actions last 0.3 to 15 seconds, half of them less than 2.6.
WINDOWS = DenseWindows(lengths=(1.0, 2.0, 4.0), stride=0.25)

_HALF = 0.5  # of the shorter of window and action, as in building


@dataclasses.dataclass(frozen=True)
class VideoFeatures:
    """What a network makes of a video, at the moments of `DenseWindows`.

    Attributes:
      duration: seconds of the video.
      features: of each window, what the network's heads see.
      probabilities: of each class in each window.
    """

    duration: float
    features: Float[np.ndarray, "t l c"]
    probabilities: Float[np.ndarray, "t l n"]

    @property
    def scores(self) -> Float[np.ndarray, "t n"]:
        """The mean probability of each class over the windows of a moment."""
        return self.probabilities.mean(1)


def compute_features(
    model: LoadedModel, path: pathlib.Path, windows: DenseWindows = WINDOWS, batch_size: int = 32, *, progress: str = ""
) -> VideoFeatures:
    """Applies a network to all windows of a video, which is read once; windows that overlap share its frames.

    Args:
      model: recognises actions.
      path: of the video.
      windows: around each moment.
      batch_size: windows that the network sees at once.
      progress: the title of a progress bar; "": none.

    Raises:
      DamagedVideoError: the video cannot be read to its end.
    """
    source = ClipFrames(path)
    clips = read_windows(source, [EvalInputs(model.inputs, SINGLE_VIEW)], windows)
    if progress:
        count = len(windows.lengths) * windows.num_moments(source.estimate_duration())
        clips = iter(tqdm.tqdm(clips, progress, count, unit="window", leave=False, disable=None))
    computed: list[_Computed] = []
    waiting, duration = None, 0.0
    for batch in _batches(clips, batch_size):
        duration = batch[-1].span[1]
        # The device computes one batch while the next one is read.
        waiting, ready = (_apply(model, batch, batch_size), len(batch)), waiting
        computed += _fetch(ready)
    computed += _fetch(waiting)
    features, logits = (np.concatenate(parts) for parts in zip(*computed, strict=True))
    (task,) = (task for task in model.tasks if task.output == "logits")
    shape = windows.num_moments(duration), len(windows.lengths), -1
    moments, lengths = np.array(windows.order(duration)).T
    order = np.lexsort((lengths, moments))  # by moment, and then by length
    return VideoFeatures(
        duration,
        features[order].reshape(shape),
        task.probabilities(logits[order]).astype(np.float32).reshape(shape),
    )


def perfect_scores(
    actions: Sequence[untrimmed.Action], duration: float, windows: DenseWindows, num_classes: int
) -> Float[np.ndarray, "t n"]:
    """The `scores` of a network that knows which classes each window has: those that fill half of it, or lie in it."""
    present = np.zeros((windows.num_moments(duration), len(windows.lengths), num_classes), np.float32)
    for (moment, length), span in zip(windows.order(duration), windows.of(duration), strict=True):
        present[moment, length, list(untrimmed.labels_of(actions, span, _HALF))] = 1
    return present.mean(1)


_Computed = tuple[Float[np.ndarray, "b c"], Float[np.ndarray, "b n"]]


def _batches(clips: Iterable[LoadedClip], size: int) -> Iterator[list[LoadedClip]]:
    """Groups the windows of a video; the last group may be smaller."""
    whole = iter(clips)
    while batch := list(itertools.islice(whole, size)):
        if error := batch[-1].error:  # comes last
            raise DamagedVideoError(error)
        yield batch


def _apply(model: LoadedModel, batch: Sequence[LoadedClip], size: int) -> Outputs:
    """The network's outputs, on the device, for some windows, filled up with black ones, lest it compile once more."""
    clips = [loaded.clips[0][0] for loaded in batch if loaded.clips is not None]
    clips += [blank_clip(model.inputs)] * (size - len(clips))
    return model({name: np.stack([clip[name] for clip in clips]) for name in model.inputs})


def _fetch(computed: tuple[Outputs, int] | None) -> list[_Computed]:
    """Features and logits of a batch, without what filled it up."""
    if computed is None:
        return []
    outputs, count = computed
    return [(np.asarray(present(outputs.features))[:count], np.asarray(present(outputs.logits))[:count])]


def cached_features(
    model: LoadedModel,
    videos: Mapping[str, pathlib.Path],
    folder: pathlib.Path,
    windows: DenseWindows = WINDOWS,
    *,
    batch_size: int = 32,
    progress: str = "",
) -> Iterator[tuple[str, VideoFeatures]]:
    """The features of videos, each computed unless a folder has it already, where it is kept for the next time.

    Features are kept as float16, and probabilities as float32. One video follows the other, as the features of many
    fill the memory: those of half an hour take 177 MB with 2,048 channels.

    Args:
      model: recognises actions.
      videos: files by the names that their features have in the folder.
      folder: has a file for each video.
      windows: around each moment.
      batch_size: windows that the network sees at once.
      progress: the title of a progress bar; "": none.

    Yields:
      The name and the features of each video.

    Raises:
      UserError: the folder cannot be written, or videos cannot be read; all of these are listed, the others are kept.
    """
    problems: list[str] = []
    for name, path in tqdm.tqdm(videos.items(), progress, unit="video", disable=None if progress else True):
        file = folder / f"{name}.npz"
        origin = _origin(model, path, windows)
        try:
            features = _read(file, origin)
            if features is None:
                features = compute_features(model, path, windows, batch_size)
                _write(file, features, origin)
        except DamagedVideoError as error:
            problems.append(f"{path}: {error}")
        except OSError as error:
            raise UserError(
                f"{folder} cannot be read or written ({error.strerror or error}): make it writable"
            ) from error
        else:
            yield name, features
    if problems:
        raise UserError(report("videos cannot be read", problems))


def _origin(model: LoadedModel, path: pathlib.Path, windows: DenseWindows) -> str:
    """What the features of a video depend on."""
    status = path.stat() if path.exists() else None
    file = [status.st_size, status.st_mtime_ns] if status else []
    return digest(network_digest(model), file, dataclasses.astuple(windows))


def network_digest(model: LoadedModel) -> str:
    """A digest of what the weights of a network come from."""
    return digest(model.metadata.step, model.metadata.config, model.metadata.source, model.metadata.data)


def digest(*values: Any) -> str:
    """A digest of plain values."""
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]


def _read(file: pathlib.Path, origin: str) -> VideoFeatures | None:
    """The features in a file; None where there are none, or of something else."""
    try:
        with np.load(file, allow_pickle=False) as content:
            if str(content["origin"]) != origin:
                return None
            features = content["features"].astype(np.float32)
            return VideoFeatures(float(content["duration"]), features, content["probabilities"])
    except (EOFError, FileNotFoundError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _write(file: pathlib.Path, features: VideoFeatures, origin: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez(
        content,
        origin=origin,
        duration=features.duration,
        features=features.features.astype(np.float16),
        probabilities=features.probabilities,
    )
    write_atomically(file, content.getvalue())
