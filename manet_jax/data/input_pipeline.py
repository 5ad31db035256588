"""Data pipelines: a built data set -> shuffled, decoded, cropped batches, sliced per process.

A batch is {"video": uint8 [b, t, h, w, 3], "label": int32 [b] (-1 where hidden), "video_id": str [b]}. With several
labels a clip it has "labels" (float32 [b, n], 1 for each class present) and "emotion" (int32 [b], -1 where unknown)
instead of "label"; and a key for every other input of the network. In evaluation it has
"index" (int32 [b]), the clips' positions in their split; with several views of a clip, that of view v of n of clip i is
i * n + v.
"""

import dataclasses
import functools
import logging
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int

from manet_jax import parallel
from manet_jax.data import clips, decoding, selection
from manet_jax.data.augment import NO_AUGMENTATION, Augmentation
from manet_jax.data.class_sampling import ClassSampling, shuffled
from manet_jax.data.decoding import StoredVideo
from manet_jax.data.views import SINGLE_VIEW, Views
from manet_jax.models import ClipSpec
from tfds_ma52 import jpegs, ma52_dataset_builder, synthetic, video
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet
from tfds_ma52.video import DamagedVideoError

_log = logging.getLogger(__name__)
_Record = TypeVar("_Record")

_ENDLESS = 2**62  # clips; grain rounds the number of batches up, which must not pass the largest integer
_ALIGNMENT = 64  # bytes, of memory that JAX shares with NumPy on a CPU


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A built data set.

    Attributes:
      builder: the TFDS builder that reads it.
      labels: its classes and groups.
      emotions: names of the emotions; empty where the set has none.
      fingerprint: the same for the same lists and label names.
      hidden: the splits whose labels are not public.
    """

    builder: tfds.core.DatasetBuilder
    labels: LabelSet
    emotions: tuple[str, ...]
    fingerprint: str
    hidden: tuple[str, ...]

    @property
    def location(self) -> str:
        """The folder that holds it."""
        return str(self.builder.data_dir)

    @property
    def multilabel(self) -> bool:
        """Whether clips have several labels."""
        return "labels" in self.builder.info.features

    @property
    def counts(self) -> dict[str, dict[str, list[int]]]:
        """The number of clips of each class, `label_counts`, and emotion, `emotion_counts`, by split."""
        return {name: self.builder.info.metadata[name] for name in ("label_counts", "emotion_counts")}

    def training_counts(self, splits: Sequence[str], name: str = "label_counts") -> Int[np.ndarray, " n"]:
        """The number of clips of each class, or emotion, in the splits that are trained on; see `counts`."""
        counts = self.counts[name]
        return np.array([counts[split] for split in splits if split in counts], np.int64).sum(0)

    def positive_weights(self, splits: Sequence[str]) -> Float[np.ndarray, " n"]:
        """For each class, training clips without it over those with it; 1 for a class without training clips."""
        counts = self.training_counts(splits)
        absent = sum(self.builder.info.splits[split].num_examples for split in splits) - counts
        return np.where((counts > 0) & (absent > 0), absent / np.maximum(counts, 1), 1).astype(np.float32)

    def source(self, split: str) -> "Source":
        """Random access to the examples of a split.

        Raises:
          UserError: there is no such split.
        """
        if split not in self.builder.info.splits:
            known = ", ".join(self.builder.info.splits)
            raise UserError(f"{self.location} has no split {split!r}; it has {known}")
        form = ma52_dataset_builder.stored_form(self.builder)
        frames = jpegs.frames_path(self.location, split) if form == "jpeg" else None
        return Source(self.builder.as_data_source(split), split, self.location, decoding.DECODERS[form], frames)

    def training_source(self, splits: Sequence[str], train_list: str = "") -> "JoinedSource":
        """Random access to the examples of several splits, one after the other.

        Args:
          splits: their names.
          train_list: a file of the clips that are wanted, see `selection.find_rows`; "": all.

        Raises:
          UserError: there is no such split, its labels are hidden, or the list does not fit.
        """
        known = [split for split in self.builder.info.splits if split not in self.hidden]
        unknown = [split for split in splits if split not in known]
        if unknown:
            raise UserError(
                f"{{flag}}: {self.location} has no split {unknown[0]!r} with public labels; name some of "
                f"{', '.join(known)}",
                field="train_splits",
            )
        source = JoinedSource(tuple(self.source(split) for split in splits))
        rows = selection.find_rows(pathlib.Path(train_list).expanduser(), source) if train_list else None
        return dataclasses.replace(source, rows=rows)

    def video_ids(self, split: str) -> list[str]:
        """The names of a split's clips, in their order."""
        source = self.source(split)
        return [source[i]["video_id"].decode() for i in range(len(source))]

    def listed_ids(self, split: str) -> list[str]:
        """The names of the clips in a split's list: those of `video_ids`, and those that the build left out."""
        return [*self.video_ids(split), *self.builder.info.metadata["left_out_ids"].get(split, [])]


@dataclasses.dataclass(frozen=True)
class Source:
    """Random access to the examples of a split of a built data set; damaged files are a user's error.

    Attributes:
      examples: as TFDS reads them.
      split: its name.
      data_dir: the folder of the set.
      decode: of `decoding.DECODERS`, for its videos.
      frames_path: see `jpegs.frames_path`; None where the examples hold the videos.
    """

    examples: Any
    split: str
    data_dir: str | os.PathLike
    decode: decoding.Decode
    frames_path: pathlib.Path | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict:
        """The example, its "video" a `StoredVideo`; UserError where ArrayRecord's checksums find its file damaged."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        example = self.read(lambda: self.examples[index])
        num_frames = int(example["num_frames"])
        content = _Frames(self, example["first_frame"], num_frames) if self.frames_path else example["video"]
        return example | {"video": StoredVideo(content, num_frames, self.decode)}

    @functools.cached_property
    def frames(self) -> grain.sources.RandomAccessDataSource[bytes]:
        """The frames of all videos, of a set that stores them apart."""
        return grain.sources.ArrayRecordDataSource(str(self.frames_path))

    def read(self, record: Callable[[], _Record]) -> _Record:
        """Returns a record; UserError where a file is damaged."""
        try:
            return record()
        except (RuntimeError, OSError, ValueError) as error:
            raise UserError(
                f"split {self.split!r} of {self.data_dir} cannot be read ({str(error).splitlines()[0]}): its files "
                "are damaged; build the set again with python -m tfds_ma52 --overwrite"
            ) from error


@dataclasses.dataclass(frozen=True)
class JoinedSource(Sequence[dict]):
    """The examples of several sources, one source's after the other's; with `rows`, those at these positions alone."""

    sources: tuple[Source, ...]
    rows: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sources)) if self.rows is None else len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if self.rows is not None:
            index = self.rows[index]
        for source in self.sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(index)

    def labels(self) -> Int[np.ndarray, " n"]:
        """The class of each clip, where clips have one; it reads all of them."""
        return np.array([example["label"] for example in self])


@dataclasses.dataclass(frozen=True)
class _Frames(Sequence[bytes]):
    """The frames of a video: `num_frames` of a source's, from `first` on; each is read when it is asked for."""

    source: Source
    first: int
    num_frames: int

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.num_frames:
            raise IndexError(index)
        return self.source.read(lambda: self.source.frames[self.first + index])


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


def open_dataset(build: Mapping[str, Any], synthetic_clips: Mapping[str, Any] | None = None) -> Dataset:
    """Opens a data set; draws its clips and builds it first where it is missing.

    Args:
      build: arguments of `ma52_dataset_builder.build`.
      synthetic_clips: arguments of `tfds_ma52.synthetic.write_synthetic`, which draws the clips of `manual_dir` if they
        are missing; None for real data.

    Raises:
      UserError: data are missing, damaged, or other than the built set; its `field` is an argument of `build`.
    """
    if synthetic_clips:
        synthetic.write_synthetic(pathlib.Path(build["manual_dir"]).expanduser(), **synthetic_clips)
    builder = ma52_dataset_builder.build(**build)
    info = builder.info
    if info.metadata["left_out"]:
        _log.warning("%d damaged clips were left out of %s", len(info.metadata["left_out"]), builder.data_dir)
    if unchecked := info.metadata.get("unchecked"):
        _log.warning(video.unchecked(unchecked))
    labels = LabelSet.from_json(info.metadata["labels"])
    emotions, hidden = tuple(info.metadata["emotions"]), tuple(info.metadata["hidden"])
    return Dataset(builder, labels, emotions, info.metadata["fingerprint"], hidden)


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
      source: random access to examples, as `Source` gives them.
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
