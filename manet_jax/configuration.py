"""Checks configs, compares them, and hands their fields on as the plain arguments of the modules below."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from manet_jax import emotion, losses, models, optimizers, parallel, preprocess
from tfds_ma52 import mma52, synthetic
from tfds_ma52.errors import UserError
from tfds_ma52.folder import report
from tfds_ma52.labels import Labels

_CHOICES = {
    "model.depth": tuple(models.STAGES),
    "model.dtype": ("float32", "bfloat16"),
    "optimizer.boosted_layer": optimizers.BOOSTED_LAYERS,
    "multilabel.loss": losses.MULTILABEL,
    "emotion.form": ("", *emotion.FORMS),
    "emotion.training": ("joint", "after"),
    "emotion.depth": tuple(models.STAGES),
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
    "schedule.decay_factor": 0,
    "optimizer.learning_rate": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "embedding_weight": 0,
    "emotion.weight": 0,
    "emotion.width": 4,
    "emotion.num_frames": 1,
    "emotion.crop_size": 32,
}
# Fields that change neither the numbers of a training nor what it is.
_FREE = tuple(
    f"{field}."
    for field in (
        *("data.manual_dir", "data.data_dir", "data.video_folder", "data.list_file", "data.allow_damaged"),
        *("data.read_threads", "data.prefetch_batches", "data.synthetic", "eval.batch_size"),
        *("log_every_steps", "checkpoint_every_steps", "parallel", "model.remat"),
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
        f"{field} is {value}; it must be a finite number"
        for field, value in values.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    problems += [
        f"{field} is {values[field]}; it must be positive"
        for field in ("num_epochs", "eval.every_epochs")
        if values[field] <= 0
    ]
    problems += [
        f"{field} is {values[field]}; it must lie in 0..1, below 1"
        for field in ("model.dropout", "emotion.dropout", "optimizer.momentum")
        if not 0 <= values[field] < 1
    ]
    for field, scales in (
        ("data.crop_scales", config.data.crop_scales),
        ("emotion.crop_scales", config.emotion.crop_scales),
    ):
        if not scales or not all(isinstance(scale, int | float) and 0 < scale <= 1 for scale in scales):
            problems.append(f"{field} is {scales}; each must be a number in 0..1, above 0")
    epochs = config.schedule.decay_epochs
    if not all(isinstance(epoch, int | float) and 0 <= epoch < math.inf for epoch in epochs):
        problems.append(f"schedule.decay_epochs is {epochs}; each must be a number from 0 on")
    if config.parallel == "pmap" and jax.process_count() > 1:
        problems.append("parallel is 'pmap', which is for one process: set it to 'shard_map'")
    try:
        mma52.check_windows(**config.data.windows.to_dict())
    except UserError as error:
        problems.append(f"data.windows.{error}")
    problems += _emotion_problems(config.emotion, config.init_from, config.model.num_segments)
    if config.data.synthetic.size:
        try:
            settings = config.data.synthetic.to_dict()
            synthetic.check_settings(**{name: value for name, value in settings.items() if name != "pro"})
        except UserError as error:
            problems.append(f"data.synthetic.{str(error).removesuffix('.')}")
    problems += [
        f"{part}.crop_size is {values[f'{part}.crop_size']}, more than {part}.short_side "
        f"{values[f'{part}.short_side']}: lower it"
        for part in ("data", "emotion")
        if values[f"{part}.crop_size"] > values[f"{part}.short_side"]
    ]
    if config.model.shift and config.model.width < config.model.shift_div:
        problems.append(
            f"model.shift_div is {config.model.shift_div}: with width {config.model.width} no channel moves"
        )
    if problems:
        raise UserError(report("the config cannot be run", [f"config.{problem}" for problem in problems]))


def _emotion_problems(options: ml_collections.ConfigDict, init_from: str, num_segments: int) -> list[str]:
    problems = []
    box = options.box
    numbers = len(box) == 4 and all(isinstance(edge, int | float) for edge in box)
    if not numbers or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        problems.append(f"emotion.box is {box}; give the top, left, bottom and right edge as shares of the frame, 0..1")
    if options.form in ("appearance", "fused") and options.num_frames > num_segments:
        problems.append(
            f"emotion.num_frames is {options.num_frames}, more than model.num_segments {num_segments}: lower it"
        )
    if options.training == "after" and options.form not in ("micro_action", "fused"):
        problems.append("emotion.training is 'after'; that is for emotion.form 'micro_action' and 'fused'")
    elif options.training == "after" and not init_from:
        problems.append("emotion.training is 'after'; name the workdir of the micro-action training in init_from")
    if options.appearance_from and options.form != "fused":
        problems.append("emotion.appearance_from is for emotion.form 'fused'; use init_from")
    return problems


def check_emotions(config: ml_collections.ConfigDict, emotions: Sequence[str], place: str) -> None:
    """Checks that there are the emotions that a config's form asks for.

    Raises:
      UserError: there are fewer than two in the data set at `place`.
    """
    if config.emotion.form and len(emotions) < 2:
        raise UserError(
            f"config.emotion.form is {config.emotion.form!r}, but {place} has {len(emotions)} emotions: set it to '', "
            "or add a column 'emotion' to the annotation files (README, several labels a clip)"
        )


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
    made = {"windows": config.data.windows.to_dict(), "synthetic_clips": config.data.synthetic.to_dict()}
    return {name: config.data[name] for name in names} | made


def model_options(
    config: ml_collections.ConfigDict, labels: Labels, label_vectors: np.ndarray | None, num_emotions: int = 0
) -> dict[str, Any]:
    """Arguments of `models.MANet` or, with an `emotion.form`, of `emotion.EmotionNet`."""
    options = {name: value for name, value in config.model.items() if name != "embedding"}
    embedding_dim = 0 if label_vectors is None else label_vectors.shape[1]
    options |= {"num_classes": len(labels.names), "embedding_dim": embedding_dim}
    form = config.emotion.form
    if not form:
        return options
    appearance = {name: config.emotion[name] for name in ("depth", "width", "dropout")}
    appearance |= {"num_segments": config.emotion.num_frames, "shift": False, "se": False}
    appearance |= {"num_classes": num_emotions, **{name: config.model[name] for name in ("dtype", "remat")}}
    return {
        "form": form,
        "num_emotions": num_emotions,
        "micro_actions": None if form == "appearance" else options,
        "appearance": None if form == "micro_action" else appearance,
        "frozen": bool(frozen_part(config)),
    }


def frozen_part(config: ml_collections.ConfigDict) -> str:
    """The part of a model that training leaves as it is; "" where there is none."""
    return "micro_actions" if config.emotion.training == "after" else ""


def view_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """How clips are cut: arguments of the batches of `input_pipeline`."""
    views = {"num_segments": config.model.num_segments}
    views |= {name: config.data[name] for name in ("short_side", "crop_size")}
    form = config.emotion.form if "emotion" in config else ""  # converted weights know of none
    if form in ("appearance", "fused"):
        views["appearance"] = preprocess.Appearance(
            num_frames=config.emotion.num_frames,
            box=tuple(config.emotion.box),
            short_side=config.emotion.short_side,
            crop_scales=tuple(config.emotion.crop_scales),
            size=config.emotion.crop_size,
        )
    return views | {"video": form != "appearance"}


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
