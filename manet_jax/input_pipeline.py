"""Data pipelines: a built data set -> shuffled, decoded, cropped batches, sliced per process.

A batch is {"video": uint8 [b, t, h, w, 3], "label": int32 [b] (-1 where hidden), "video_id": str [b]}. With several
labels a clip it has "labels" (float32 [b, n], 1 for each class shown) and "emotion" (int32 [b], -1 where unknown) in
place of "label"; and "appearance" (uint8 [b, t2, h2, w2, 3]) beside or in place of "video" where that is asked for. In
evaluation it has "index" (int32 [b]), the clips' places in their split.
"""

import dataclasses
import logging
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from manet_jax import parallel, preprocess
from tfds_ma52 import labels as labels_lib
from tfds_ma52 import ma52_dataset_builder, synthetic
from tfds_ma52.errors import UserError

_log = logging.getLogger(__name__)


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
    labels: labels_lib.Labels
    emotions: tuple[str, ...]
    fingerprint: str
    hidden: tuple[str, ...]

    @property
    def multilabel(self) -> bool:
        """Whether clips have several labels."""
        return "labels" in self.builder.info.features

    def positive_weights(self) -> Float[np.ndarray, " n"]:
        """Of each class, training clips without it over those with it; 1 for a class that none has."""
        counts = np.array(self.builder.info.metadata["label_counts"]["train"])
        absent = self.builder.info.splits["train"].num_examples - counts
        return np.where((counts > 0) & (absent > 0), absent / np.maximum(counts, 1), 1).astype(np.float32)

    def source(self, split: str) -> "Source":
        """Random access to the examples of a split.

        Raises:
          UserError: there is no such split.
        """
        if split not in self.builder.info.splits:
            known = ", ".join(self.builder.info.splits)
            raise UserError(f"{self.builder.data_dir} has no split {split!r}; it has {known}")
        return Source(self.builder.as_data_source(split), split, self.builder.data_dir)


class Source:
    """Random access to the examples of a split of a built data set; damaged files are a user's error."""

    def __init__(self, examples: Any, split: str, data_dir: str | os.PathLike):
        self._examples, self._split, self._data_dir = examples, split, data_dir

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict:
        """The example; UserError where its file is damaged, which ArrayRecord tells by its checksums."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._examples[index]
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"split {self._split!r} of {self._data_dir} cannot be read ({str(error).splitlines()[0]}): its files "
                "are damaged; build the set again with python -m tfds_ma52 --overwrite"
            ) from error


def open_dataset(
    *,
    manual_dir: str,
    data_dir: str,
    builder_config: str,
    video_folder: str,
    list_file: str,
    allow_damaged: int,
    windows: dict,
    synthetic_clips: dict,
) -> Dataset:
    """Opens a data set; makes and builds it first where it is missing.

    Args:
      manual_dir: a folder with clips and lists.
      data_dir: where built sets are kept; "" stands for `<manual_dir>/tfds`.
      builder_config: the folder's layout and how clips are stored, a config of `ma52_dataset_builder`.
      video_folder: where a split's clips lie in `manual_dir`; "" looks for the usual places.
      list_file: where a split's list lies; "" looks for the usual places.
      allow_damaged: how many damaged clips a build may leave out.
      windows: of untrimmed videos, arguments of `ma52_dataset_builder.build`.
      synthetic_clips: arguments of `tfds_ma52.synthetic.write_synthetic`, which makes `manual_dir` if their `size` is
        not 0.

    Raises:
      UserError: data are missing, damaged, or of another set than the built one.
    """
    if synthetic_clips["size"]:
        synthetic.write_synthetic(pathlib.Path(manual_dir).expanduser(), **synthetic_clips)
    builder = ma52_dataset_builder.build(
        manual_dir,
        data_dir,
        config=builder_config,
        video_folder=video_folder,
        list_file=list_file,
        allow_damaged=allow_damaged,
        **windows,
    )
    info = builder.info
    if info.metadata["left_out"]:
        _log.warning("%d damaged clips were left out of %s", len(info.metadata["left_out"]), builder.data_dir)
    labels = labels_lib.Labels(**{name: tuple(values) for name, values in info.metadata["labels"].items()})
    emotions, hidden = tuple(info.metadata["emotions"]), tuple(info.metadata["hidden"])
    return Dataset(builder, labels, emotions, info.metadata["fingerprint"], hidden)


def train_batches(
    source,
    *,
    batch_size: int,
    num_segments: int,
    short_side: int,
    crop_scales: Sequence[float],
    crop_middle: bool,
    crop_size: int,
    video: bool = True,
    appearance: preprocess.Appearance | None = None,
    seed: int,
    start_step: int = 0,
    num_threads: int = 2,
    num_prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Returns an endless data set of this process's part of the training batches.

    Every pass over the data is shuffled anew. Differs from the release: where the batch size does not divide the number
    of clips, a batch takes the end of one pass and the start of the next, rather than be short.

    Batch i is a function of the seed and i alone, so that a run goes on at `start_step` as if it had never stopped, on
    any number of processes.

    Args:
      source: random access to examples.
      batch_size: clips a batch, over all processes.
      num_segments: frames a clip.
      short_side: see `preprocess.train_views`.
      crop_scales: see `preprocess.train_views`.
      crop_middle: see `preprocess.train_views`.
      crop_size: pixels of the crop's sides.
      video: see `preprocess.train_views`.
      appearance: see `preprocess.train_views`.
      seed: draws order, frames, crops and flips.
      start_step: the first batch to return.
      num_threads: how many batches are read at once.
      num_prefetch: how many batches are read ahead.
      process_index: of this process.
      process_count: number of processes.
    """

    def load(example: dict, rng: np.random.Generator) -> dict:
        crops = {"crop_scales": crop_scales, "crop_middle": crop_middle, "size": crop_size}
        view = {"num_segments": num_segments, "short_side": short_side, "video": video, "appearance": appearance}
        return _decode(preprocess.train_views, example, rng=rng, **crops, **view) | _labels(example)

    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(load)
    dataset = _of_process(dataset, batch_size, process_index, process_count)
    return _read(dataset[start_step:], num_threads, num_prefetch)


def eval_batches(
    source,
    *,
    batch_size: int,
    num_segments: int,
    short_side: int,
    crop_size: int,
    video: bool = True,
    appearance: preprocess.Appearance | None = None,
    num_threads: int = 2,
    num_prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Returns this process's part of the batches of one pass over the data, in order.

    The last batch is filled up with black clips whose index is -1, so that every clip counts once and every process
    gets the same number of batches. Args: see `train_batches`.
    """

    def load(index: int) -> dict:
        example = source[min(index, len(source) - 1)]
        view = {"num_segments": num_segments, "short_side": short_side, "size": crop_size}
        if index < len(source):
            views = _decode(preprocess.middle_views, example, video=video, appearance=appearance, **view)
            return views | _labels(example) | {"index": np.int32(index)}
        blank = _labels(example) | {"index": np.int32(-1), "video_id": np.str_("")}
        if video:
            blank["video"] = np.zeros((num_segments, crop_size, crop_size, 3), np.uint8)
        if appearance:
            blank["appearance"] = np.zeros((appearance.num_frames, appearance.size, appearance.size, 3), np.uint8)
        return blank

    length = math.ceil(len(source) / batch_size) * batch_size
    dataset = grain.MapDataset.range(length).map(load)
    dataset = _of_process(dataset, batch_size, process_index, process_count)
    return _read(dataset, num_threads, num_prefetch)


def to_devices(batches: grain.IterDataset, mesh: jax.sharding.Mesh, num_prefetch: int) -> grain.IterDataset:
    """Puts this process's part of batches on its devices, `num_prefetch` ahead, in a thread of its own."""
    batches = batches.map(lambda batch: parallel.shard_batch(batch, mesh))
    return grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=num_prefetch)


def _labels(example: dict) -> dict:
    """What is known of a clip, without its pictures."""
    known = {"video_id": np.str_(example["video_id"].decode())}
    if "labels" in example:
        labels, emotion = example["labels"].astype(np.float32), np.int32(example["emotion"])
        return known | {"labels": labels, "emotion": emotion}
    return known | {"label": np.int32(example["label"])}


def _decode(view, example: dict, **options) -> dict[str, np.ndarray]:
    try:
        return view(content=example["video"], **options)
    except preprocess.UnreadableVideoError as error:
        name = example["video_id"].decode()
        raise UserError(
            f"clip {name} of the built data set cannot be decoded ({error}): build the set again with "
            "python -m tfds_ma52 --overwrite"
        ) from error


def _of_process(dataset: grain.MapDataset, batch_size: int, process_index: int, process_count: int) -> grain.MapDataset:
    """Batches of this process's clips: of every whole batch, those of its devices."""
    if batch_size % process_count:
        raise UserError(f"batch size {batch_size} does not divide among {process_count} processes; choose a multiple")
    size = batch_size // process_count
    first = process_index * size

    def load(index: int) -> dict:
        return dataset[index // size * batch_size + first + index % size]

    return grain.MapDataset.range(len(dataset) // process_count).map(load).batch(size)


def _read(dataset: grain.MapDataset, num_threads: int, num_prefetch: int) -> grain.IterDataset:
    # Threads are enough: decord and OpenCV release the interpreter's lock. No more of them work than may read ahead.
    buffer_size = max(num_threads, num_prefetch)
    return dataset.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffer_size))
