"""A built data set, as TFDS keeps it: its facts, and random access to the examples of its splits."""

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int

from manet_jax.data import decoding, selection
from manet_jax.data.decoding import StoredVideo
from tfds_ma52 import jpegs, ma52_dataset_builder, synthetic, video
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet

_log = logging.getLogger(__name__)
_Record = TypeVar("_Record")


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
