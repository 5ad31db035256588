"""Data pipelines: a built data set -> shuffled, decoded, cropped batches, sliced per process.

A batch is {"video": uint8 [b, t, h, w, 3], "label": int32 [b] (-1 where hidden), "video_id": str [b]}. With several
labels a clip it has "labels" (float32 [b, n], 1 for each class present) and "emotion" (int32 [b], -1 where unknown)
instead of "label"; and a key for every other input of the network. In evaluation it has
"index" (int32 [b]), the clips' positions in their split; with several views of a clip, that of view v of n of clip i is
i * n + v.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Int

from manet_jax import parallel
from manet_jax.data import clips
from manet_jax.data.augment import NO_AUGMENTATION, Augmentation
from manet_jax.data.class_sampling import ClassSampling, shuffled
from manet_jax.data.views import SINGLE_VIEW, Views
from manet_jax.models import ClipSpec
from tfds_ma52.errors import UserError
from tfds_ma52.video import DamagedVideoError

_ENDLESS = 2**62  # clips; grain rounds the number of batches up, which must not pass the largest integer
_ALIGNMENT = 64  # bytes, of memory that JAX shares with NumPy on a CPU


@dataclasses.dataclass(frozen=True)
class Reading:
    """Threads and processes of reading.

    Attributes:
      num_threads: how many batches are read at once.
      num_prefetch: how many batches are read ahead.
      process_index: of this process.
      process_count: number of processes.
    """

    num_threads: int = 2
    num_prefetch: int = 2
    process_index: int = 0
    process_count: int = 1


def train_batches(
    source: grain.sources.RandomAccessDataSource | Sequence[dict],
    inputs: dict[str, ClipSpec],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    reading: Reading = Reading(),
    augmentation: Augmentation = NO_AUGMENTATION,
    sampling: ClassSampling | None = None,
) -> grain.IterDataset:
    """Returns an endless data set of this process's part of the training batches.

    Every pass over the data is shuffled anew. Differs from the release: where the batch size does not divide the number
    of clips, a batch takes the end of one pass and the start of the next, rather than be short.

    Batch i is a function of the seed and i alone, so that a run resumes at `start_step` as if it had never stopped, on
    any number of processes.

    Args:
      source: random access to examples, as `dataset.Source` gives them.
      inputs: what the network sees.
      batch_size: clips a batch, over all processes.
      seed: draws order, frames, crops and flips.
      start_step: the first batch to return.
      reading: how batches are read.
      augmentation: of the clips, and how many of a video follow each other; a pass has as many more clips.
      sampling: how often each class is drawn; None takes every clip once a pass.
    """

    def load(example: dict, rng: np.random.Generator) -> dict:
        clip = _readable(example, lambda: clips.train_clip(rng, example["video"], inputs, augmentation))
        return clip | _annotation(example)

    def example(index: int) -> dict:
        epoch, position = divmod(index // augmentation.repeats, len(source))
        return source[int(_order(seed, epoch, len(source), sampling)[position])]

    dataset: Any = grain.MapDataset.range(_ENDLESS).seed(seed).map(example).random_map(load)
    return _read(_of_process(dataset, batch_size, reading)[start_step:], reading)


def eval_batches(
    source: grain.sources.RandomAccessDataSource | Sequence[dict],
    inputs: dict[str, ClipSpec],
    *,
    batch_size: int,
    views: Views = SINGLE_VIEW,
    reading: Reading = Reading(),
) -> grain.IterDataset:
    """Returns this process's part of the batches of one pass over the data, in order, every clip in all its views.

    A view counts as a clip of a batch, so that memory does not grow with their number. The last batch is filled up with
    black clips whose index is -1, so that every view counts once and every process gets the same number of batches.
    Args: see `train_batches`.
    """

    # A video is decoded once: a thread reads its views one after the other.
    @functools.lru_cache(2 * max(1, reading.num_threads))
    def read(clip: int) -> tuple[dict, clips.EvalClips]:
        example = source[clip]
        decode = functools.partial(clips.stored_eval_clips, example["video"], inputs, views)
        return _annotation(example), _readable(example, decode)

    def load(index: int) -> dict:
        clip, view = divmod(index, len(views))
        if clip >= len(source):
            blank = {"index": np.int32(-1), "video_id": np.str_("")}
            return clips.blank_clip(inputs) | _annotation(source[len(source) - 1]) | blank
        annotation, eval_clips = read(clip)
        return eval_clips[view] | annotation | {"index": np.int32(index)}

    length = math.ceil(len(source) * len(views) / batch_size) * batch_size
    return _read(_of_process(grain.MapDataset.range(length).map(load), batch_size, reading), reading)


def to_devices(batches: grain.IterDataset, mesh: jax.sharding.Mesh, num_prefetch: int) -> grain.IterDataset:
    """Puts this process's part of batches on its devices, `num_prefetch` ahead, in a thread of its own."""
    batches = batches.map(lambda batch: parallel.shard_batch(batch, mesh))
    return grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=num_prefetch)


@functools.lru_cache(maxsize=8)  # threads read a few batches at once, and a batch may span passes
def _order(seed: int, epoch: int, length: int, sampling: ClassSampling | None) -> Int[np.ndarray, " length"]:
    """The order of the clips in a pass over the data."""
    return shuffled(seed, epoch, length) if sampling is None else sampling.order(seed, epoch)


def _annotation(example: dict) -> dict:
    """A clip's name and labels."""
    known = {"video_id": np.str_(example["video_id"].decode())}
    if "labels" in example:
        labels, emotion = example["labels"].astype(np.float32), np.int32(example["emotion"])
        return known | {"labels": labels, "emotion": emotion}
    return known | {"label": np.int32(example["label"])}


def _readable(example: dict, decode: Callable[[], Any]) -> Any:
    try:
        return decode()
    except DamagedVideoError as error:
        name = example["video_id"].decode()
        raise UserError(
            f"clip {name} of the built data set cannot be decoded ({error}): build the set again with "
            "python -m tfds_ma52 --overwrite"
        ) from error


def _of_process(dataset: grain.MapDataset, batch_size: int, reading: Reading) -> grain.MapDataset:
    """Batches of this process's clips: of every whole batch, those of its devices."""
    count = reading.process_count
    if batch_size % count:
        raise UserError(f"batch size {batch_size} does not divide among {count} processes; choose a multiple")
    size = batch_size // count
    first = reading.process_index * size

    def load(index: int) -> Any:
        return dataset[index // size * batch_size + first + index % size]

    return grain.MapDataset.range(len(dataset) // count).map(load).batch(size, batch_fn=_stack)


def _stack(examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """A batch of examples, in memory that JAX takes as that of a CPU without another copy."""
    return {key: _stack_arrays([example[key] for example in examples]) for key in examples[0]}


def _stack_arrays(arrays: Sequence[np.ndarray | np.generic]) -> np.ndarray:
    first = arrays[0]
    if not first.ndim:  # text may be longer in others
        return np.stack(arrays)
    num_bytes = len(arrays) * first.nbytes
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    aligned = memory[start : start + num_bytes].view(first.dtype).reshape(len(arrays), *first.shape)
    return np.stack(arrays, out=aligned)


def _read(dataset: grain.MapDataset, reading: Reading) -> grain.IterDataset:
    # Threads are enough: decord, simplejpeg and OpenCV release the interpreter's lock. No more of them work than may
    # read ahead.
    buffer_size = max(reading.num_threads, reading.num_prefetch)
    options = grain.ReadOptions(num_threads=reading.num_threads, prefetch_buffer_size=buffer_size)
    return dataset.to_iter_dataset(options)
