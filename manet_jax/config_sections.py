"""Sections of the config that need no other: typed, and checked when they are made.

The fields are those of configs/ma52.py, where each is described. A value out of range raises `OptionError`.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from manet_jax import losses, optimizers
from manet_jax.data import input_pipeline
from manet_jax.data.dataset import Dataset, JoinedSource, open_dataset
from manet_jax.data.views import Views
from manet_jax.models.options import Numbers, OptionError, at_least, one_of, raise_any
from tfds_ma52 import folder, synthetic, untrimmed
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Section `optimizer`."""

    learning_rate: float
    momentum: float
    weight_decay: float
    clip_norm: float
    head_lr_multiplier: float
    head: str
    name: str
    nesterov: bool
    betas: Numbers
    layer_decay: float

    def __post_init__(self):
        problems = one_of(self, name=optimizers.OPTIMIZERS, head=optimizers.HEADS)
        problems += at_least(self, learning_rate=0, weight_decay=0, clip_norm=0, head_lr_multiplier=0)
        if not 0 <= self.momentum < 1:
            problems.append(f"momentum is {self.momentum}; it must lie in 0..1, below 1")
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            problems.append("nesterov is True; that is for name 'sgd' with a momentum")
        if len(self.betas) != 2 or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas is {self.betas}; give two numbers in 0..1, below 1")
        if not 0 < self.layer_decay <= 1:
            problems.append(f"layer_decay is {self.layer_decay}; it must lie in 0..1, above 0")
        raise_any(problems)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Section `schedule`."""

    name: str
    decay_epochs: Numbers
    decay_factor: float
    warmup_epochs: float

    def __post_init__(self):
        problems = one_of(self, name=optimizers.SCHEDULES) + at_least(self, decay_factor=0, warmup_epochs=0)
        if not all(isinstance(epoch, int | float) and 0 <= epoch < math.inf for epoch in self.decay_epochs):
            problems.append(f"decay_epochs is {self.decay_epochs}; each must be a number from 0 on")
        raise_any(problems)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """Section `data.windows`."""

    window: float
    stride: float
    min_overlap: float

    def __post_init__(self):
        raise_any(_user_error(lambda: untrimmed.check_windows(**dataclasses.asdict(self))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Section `data.synthetic`."""

    size: float
    pro: bool
    untrimmed: bool
    subjects: str
    short_side: int
    frame_rate: int
    seed: int

    def __post_init__(self):
        if self.size:
            raise_any(_user_error(lambda: synthetic.check_settings(**dataclasses.asdict(self))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Section `data`."""

    manual_dir: str
    data_dir: str
    builder_config: str
    video_folder: str
    list_file: str
    boxes: str
    frame_pattern: str
    allow_damaged: int
    train_splits: tuple[Any, ...]
    train_list: str
    read_threads: int
    prefetch_batches: int
    windows: Windows
    synthetic: Synthetic

    def __post_init__(self):
        problems = at_least(self, read_threads=0, prefetch_batches=1, allow_damaged=0)
        splits = self.train_splits
        if not splits or not all(isinstance(split, str) for split in splits) or len(set(splits)) < len(splits):
            problems.append(f"train_splits is {splits}; give the name of each split to train on once")
        raise_any(problems)

    def open(self, check_labels: Callable[[LabelSet], object] | None = None) -> Dataset:
        """Opens the data set; draws its clips and builds it first where it is missing.

        Args:
          check_labels: see `ma52_dataset_builder.build`.

        Raises:
          UserError: see `dataset.open_dataset`.
        """
        names = ("manual_dir", "data_dir", "video_folder", "list_file", "boxes", "frame_pattern", "allow_damaged")
        build = {name: getattr(self, name) for name in names} | dataclasses.asdict(self.windows)
        drawn = dataclasses.asdict(self.synthetic) if self.synthetic.size else None
        try:
            build |= {"config": self.builder_config, "check_labels": check_labels}
            return open_dataset(build, drawn)
        except UserError as error:
            raise _located(error) from error

    def training_source(self, dataset: Dataset) -> JoinedSource:
        """The clips of a data set to train on.

        Raises:
          UserError: see `dataset.Dataset.training_source`.
        """
        try:
            return dataset.training_source(self.train_splits, self.train_list)
        except UserError as error:
            raise _located(error) from error

    def training_counts(self, dataset: Dataset, source: JoinedSource) -> Int[np.ndarray, " n"]:
        """The number of clips of each class that are trained on."""
        if self.train_list:
            return np.bincount(source.labels(), minlength=len(dataset.labels.names))
        return dataset.training_counts(self.train_splits)

    def recorded_list(self, counts: Int[np.ndarray, " n"]) -> dict[str, Any]:
        """What a run records of the list of its training clips, if there is one: its content, and `training_counts`."""
        if not self.train_list:
            return {}
        digest = folder.digest([pathlib.Path(self.train_list).expanduser()])
        return {"training list": digest, "training counts": counts.tolist()}

    @property
    def reading(self) -> input_pipeline.Reading:
        """This process's way of reading batches."""
        return input_pipeline.Reading(
            num_threads=self.read_threads,
            num_prefetch=self.prefetch_batches,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Section `eval`."""

    split: str
    batch_size: int
    every_epochs: float
    num_clips: int
    num_crops: int
    flip: bool

    def __post_init__(self):
        problems = at_least(self, batch_size=1) + positive(self, "every_epochs")
        try:
            _ = self.views
        except OptionError as error:
            problems += error.problems
        raise_any(problems)

    @property
    def views(self) -> Views:
        """The views of each clip."""
        return Views(num_clips=self.num_clips, num_crops=self.num_crops, flip=self.flip)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multilabel:
    """Section `multilabel`."""

    loss: str

    def __post_init__(self):
        raise_any(one_of(self, loss=losses.MULTILABEL))


def positive(values: Any, *names: str) -> list[str]:
    """A text for each value that is not positive."""
    return [f"{name} is {getattr(values, name)}; it must be positive" for name in names if getattr(values, name) <= 0]


def _user_error(check: Callable[[], None]) -> list[str]:
    """The text of the user's error that a check raises, as a list."""
    try:
        check()
    except UserError as error:
        return [str(error).removesuffix(".")]
    return []


def _located(error: UserError) -> UserError:
    """An error of the data set's builder, its field the config's."""
    names = {"config": "builder_config"} | {name: f"windows.{name}" for name in ("window", "stride", "min_overlap")}
    located = UserError(error.args[0], names.get(error.field, error.field)).under("config.data")
    if error.field != "manual_dir":
        return located
    return UserError(
        f"{located.args[0]} To see everything work without data, run: python -m manet_jax.main --config "
        "configs/ma52_synthetic.py --workdir runs/first",
        located.field,
    )
