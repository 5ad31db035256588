"""The record of a run that each of its checkpoints keeps: model, classes, config, data, versions, evaluations."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

from manet_jax import format_1, models
from manet_jax.models import ModelSpec
from manet_jax.tasks import Task, create_tasks
from tfds_ma52.labels import LabelSet

FORMAT = 2
_LATER_FIELDS = {  # of a config of this format, and what runs before did
    "accumulate": 1,
    "augmentation": {"operations": 0, "magnitude": 7.0, "erasing": 0.0, "repeats": 1},
    "body_groups": {"head": 0.0, "consistency": 0.0, "label_smoothing": 0.0},
    "class_balance": {
        "sampling": 1.0,
        "effective_number": 0.0,
        "logit_adjustment": 0.0,
        "focal": 0.0,
        "soft_f1": 0.0,
    },
    "clip": {"sampling": "segments", "frame_interval": 1, "short_videos": "spread"},
    "data": {
        "boxes": "",
        "frame_pattern": "",
        "train_splits": ("train",),
        "synthetic": {"frame_rate": 30, "untrimmed": False},
    },
    "ema_decay": 0.0,
    "eval": {"num_clips": 1, "num_crops": 1, "flip": False},
    "label_smoothing": 0.0,
    "mixing": {"mixup": 0.0, "cutmix": 0.0},
    "optimizer": {"name": "sgd", "nesterov": False, "betas": (0.9, 0.999), "layer_decay": 1.0},
}
_PACKAGES = ("manet_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "decord2", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunMetadata:
    """The record of a run, or of weights converted from PyTorch.

    Attributes:
      model: the network and its options, with what it sees.
      labels: the classes and their body groups.
      multilabel: whether clips have several labels.
      emotions: names of the emotions of the data; empty where there are none.
      config: the run's config as nested dicts; empty for converted weights.
      data: all that the run's numbers depend on beside its config: `lists`, `training clips`, `label vectors`.
      versions: of Python and packages.
      commit: of the project's sources, see `commit`.
      initialized_from: the checkpoints that the first weights come from, see `warm_start.Origin`.
      best: metrics and step of the best evaluation; None before the first.
      last: those of the last one.
      source: the PyTorch file that converted weights come from; None for a run.
      fresh: paths of the variables of converted weights that the file lacked, and that were drawn.
      step: the checkpoint's, once it was read; None before.
    """

    model: ModelSpec
    labels: LabelSet
    multilabel: bool = False
    emotions: tuple[str, ...] = ()
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=lambda: versions())
    commit: str | None = dataclasses.field(default_factory=lambda: commit())
    initialized_from: tuple[dict[str, Any], ...] = ()
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    fresh: tuple[str, ...] = ()
    step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Nested dicts and tuples; `from_json` reads them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "step"}
        labels = dataclasses.asdict(self.labels)
        return {"format": FORMAT, **values, "model": self.model.to_json(), "labels": labels}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], step: int | None = None) -> "RunMetadata":
        """Makes a record from what JSON leaves of `to_json`, also that of earlier formats.

        Args:
          value: as a checkpoint returns it.
          step: the checkpoint's.
        """
        if value.get("format", 0) < FORMAT:
            value = format_1.migrate(value)
        value = {**value, "config": _complete(value.get("config", {}))}
        names = {field.name for field in dataclasses.fields(cls)} & value.keys()
        known: dict[str, Any] = {name: value[name] for name in names}
        known |= {name: tuple(value[name]) for name in ("emotions", "initialized_from", "fresh") if name in value}
        known |= {"model": models.spec_from_json(value["model"]), "labels": LabelSet.from_json(value["labels"])}
        return cls(**known | {"step": step})

    def evaluated(self, checkpoint: str) -> dict[str, Any]:
        """The metrics of the evaluation that a checkpoint, "best" or "latest", was saved with; empty without one."""
        return {"best": self.best, "latest": self.last}[checkpoint] or {}

    @property
    def train_splits(self) -> tuple[str, ...]:
        """The splits that the run was trained on; those of the recipe for converted weights."""
        return tuple(self.config.get("data", {}).get("train_splits", ("train",)))

    def tasks(self, threshold: float | None = None) -> tuple[Task, ...]:
        """The model's tasks, see `tasks.create_tasks`."""
        return create_tasks(self.model, self.labels, self.emotions, multilabel=self.multilabel, threshold=threshold)


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a run with the fields that came after it, which change nothing; none for converted weights."""
    return config and _with_defaults(config, _LATER_FIELDS)


def _with_defaults(section: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    added = {name: value for name, value in defaults.items() if name not in section and not isinstance(value, Mapping)}
    sections = {name: value for name, value in defaults.items() if isinstance(value, Mapping)}
    return section | added | {name: _with_defaults(section.get(name, {}), value) for name, value in sections.items()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's numbers depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def commit() -> str | None:
    """The commit of the project's sources, with "+" where they were changed since; None where they are no checkout."""
    folder = pathlib.Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--abbrev=40", "--dirty=+", "--match="],
            capture_output=True,
            text=True,
        )
    except OSError:  # there is no git
        return None
    # An installation may lie in another project's checkout, such as that of a virtual environment.
    tracked = subprocess.run(["git", "-C", folder, "ls-files", "--error-unmatch", __file__], capture_output=True)
    return found.stdout.strip() if found.returncode == tracked.returncode == 0 else None
