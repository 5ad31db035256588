"""Checks configs, compares them, and hands their fields on as the plain arguments of the modules below."""

from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from manet_jax import models, optimizers, parallel
from tfds_ma52 import synthetic
from tfds_ma52.errors import UserError
from tfds_ma52.folder import report
from tfds_ma52.labels import Labels

_CHOICES = {
    "model.depth": tuple(models.STAGES),
    "model.dtype": ("float32", "bfloat16"),
    "optimizer.boosted_layer": optimizers.BOOSTED_LAYERS,
    "schedule.name": optimizers.SCHEDULES,
    "parallel": parallel.MAPPINGS,
}
_LEAST = {
    "seed": 0,
    "batch_size": 1,
    "eval.batch_size": 1,
    "model.width": 4,
    "model.num_segments": 1,
    "model.shift_div": 2,
    "data.crop_size": 32,
    "data.read_threads": 0,
    "data.prefetch_batches": 1,
    "data.allow_damaged": 0,
    "log_every_steps": 1,
    "checkpoint_every_steps": 1,
    "schedule.warmup_epochs": 0,
    "optimizer.learning_rate": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "embedding_weight": 0,
}
# Fields that change neither the numbers of a training nor what it is.
_FREE = tuple(
    f"{field}."
    for field in (
        *("data.manual_dir", "data.data_dir", "data.video_folder", "data.list_file", "data.allow_damaged"),
        *("data.read_threads", "data.prefetch_batches", "data.synthetic", "eval.batch_size"),
        *("log_every_steps", "checkpoint_every_steps", "parallel"),
    )
)


def check(config: ml_collections.ConfigDict) -> None:
    """Checks the values of a config.

    Raises:
      UserError: names every field that is out of range, and the range.
    """
    values = dict(flatten(config.to_dict()))
    problems = [
        f"{field} is {values[field]!r}; choose one of {', '.join(map(str, choices))}"
        for field, choices in _CHOICES.items()
        if values[field] not in choices
    ]
    problems += [
        f"{field} is {values[field]}; the least is {least}" for field, least in _LEAST.items() if values[field] < least
    ]
    problems += [
        f"{field} is {values[field]}; it must be positive"
        for field in ("num_epochs", "eval.every_epochs")
        if not values[field] > 0  # not a number neither
    ]
    if not 0 <= config.model.dropout < 1:
        problems.append(f"model.dropout is {config.model.dropout}; it must lie in 0..1, below 1")
    scales = config.data.crop_scales
    if not scales or not all(isinstance(scale, int | float) and 0 < scale <= 1 for scale in scales):
        problems.append(f"data.crop_scales is {scales}; each must be a number in 0..1, above 0")
    if config.data.synthetic.size:
        try:
            synthetic.check_settings(**config.data.synthetic.to_dict())
        except UserError as error:
            problems.append(f"data.synthetic.{str(error).removesuffix('.')}")
    if config.data.crop_size > config.data.short_side:
        problems.append(
            f"data.crop_size is {config.data.crop_size}, more than data.short_side {config.data.short_side}: lower it"
        )
    if config.model.shift and config.model.width < config.model.shift_div:
        problems.append(
            f"model.shift_div is {config.model.shift_div}: with width {config.model.width} no channel moves"
        )
    if problems:
        raise UserError(report("the config cannot be run", [f"config.{problem}" for problem in problems]))


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names the fields, with both values, in which a run's config differs so that it cannot go on from the old one."""
    # Through JSON, as the old one came, tuples are lists.
    before, after = (dict(flatten(config)) for config in (old, new))
    fields = [field for field in sorted(before.keys() | after.keys()) if not (field + ".").startswith(_FREE)]
    return [
        f"{field} ({before.get(field)} before, {after.get(field)} now)"
        for field in fields
        if before.get(field) != after.get(field)
    ]


def flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the fields of nested dicts as `outer.inner` with their values, tuples as lists."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, list(value) if isinstance(value, tuple) else value


def data_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Arguments of `input_pipeline.open_dataset`."""
    names = ("manual_dir", "data_dir", "builder_config", "video_folder", "list_file", "allow_damaged")
    return {name: config.data[name] for name in names} | {"synthetic_clips": config.data.synthetic.to_dict()}


def model_options(
    config: ml_collections.ConfigDict, labels: Labels, label_vectors: np.ndarray | None
) -> dict[str, Any]:
    """Arguments of `models.MANet`."""
    options = {name: value for name, value in config.model.items() if name != "embedding"}
    embedding_dim = 0 if label_vectors is None else label_vectors.shape[1]
    return options | {"num_classes": len(labels.names), "embedding_dim": embedding_dim}


def view_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """How clips are cut: arguments of the batches of `input_pipeline`."""
    names = ("short_side", "crop_size")
    return {"num_segments": config.model.num_segments} | {name: config.data[name] for name in names}


def reading_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """How batches are read: arguments of the batches of `input_pipeline`."""
    return {
        "num_threads": config.data.read_threads,
        "num_prefetch": config.data.prefetch_batches,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def evaluation_arguments(config: ml_collections.ConfigDict, trained: ml_collections.ConfigDict) -> dict[str, Any]:
    """Arguments of `evaluate.create_evaluation`: frames and crops as `trained`, everything else as `config`."""
    return {
        "split": config.eval.split,
        "batch_size": config.eval.batch_size,
        "mapping": config.parallel,
        **view_arguments(trained),
        **reading_arguments(config),
    }
