"""The config of a run, parsed once into typed parts, which check their values.

Every part is a section of the config with the fields that the config has; `configs/ma52.py` describes each.
"""

import dataclasses
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from manet_jax import parallel
from manet_jax.config_sections import Data, Evaluation, Multilabel, Optimizer, Schedule, Synthetic, Windows, positive
from manet_jax.data.augment import Augmentation
from manet_jax.long_tail import BodyGroups, ClassBalance
from manet_jax.mixing import Mixing
from manet_jax.models import MODELS, ClipSpec, ModelSpec, OptionError
from manet_jax.models.options import at_least, one_of, with_tuples
from manet_jax.warm_start import Source
from tfds_ma52.errors import UserError, report
from tfds_ma52.labels import LabelSet

_log = logging.getLogger(__name__)

FORMS = ("appearance", "micro_action", "fused")  # of emotion recognition
# Fields that a run may change when it resumes: they change none of its numbers.
_FREE = tuple(
    f"{field}."
    for field in (
        *("data.manual_dir", "data.data_dir", "data.video_folder", "data.list_file", "data.allow_damaged"),
        *("data.train_list", "data.read_threads", "data.prefetch_batches", "data.synthetic", "eval.batch_size"),
        *("log_every_steps", "checkpoint_every_steps", "parallel", "model.remat"),
    )
)
# Fields that are for one label a clip, with the values that leave them out.
_ONE_LABEL = {
    "label_smoothing": 0.0,
    "class_balance.sampling": 1.0,
    "class_balance.effective_number": 0.0,
    "class_balance.logit_adjustment": 0.0,
    "class_balance.focal": 0.0,
    "body_groups.label_smoothing": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """Sections `model` and `clip`: a network but for what the data decide.

    Attributes:
      name: in `MODELS`.
      options: those that the config sets.
      clip: what the network sees.
      embedding: whether it has the joint-embedding head.
    """

    name: str
    options: Mapping[str, Any]
    clip: ClipSpec
    embedding: bool

    def spec(self, num_classes: int, embedding_dim: int = 0, num_groups: int = 0) -> ModelSpec:
        """The network for so many classes, dimensions of the label vectors, and body groups of their head."""
        sizes = {"num_classes": num_classes, "embedding_dim": embedding_dim, "num_groups": num_groups}
        return ModelSpec(self.name, MODELS[self.name].Options(**self.options, **sizes, clip=self.clip))


@dataclasses.dataclass(frozen=True)
class Emotion:
    """Section `emotion`, where emotions are recognised.

    Attributes:
      form: one of `FORMS`.
      training: "joint" with the micro-actions, or "after" them.
      weight: of the loss.
      appearance_from: a workdir with weights of the network of appearance.
      appearance: that network; None in the form "micro_action".
    """

    form: str
    training: str
    weight: float
    appearance_from: str
    appearance: Network | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """The config of a run; attributes without a text are described in configs/ma52.py.

    Attributes:
      raw: the config as nested dicts.
      network: sections `model` and `clip`.
      emotion: section `emotion`; None where no emotions are recognised.
    """

    raw: dict[str, Any]
    seed: int
    init_from: str
    label_vectors: str
    embedding_weight: float
    label_smoothing: float
    batch_size: int
    accumulate: int
    num_epochs: float
    ema_decay: float
    log_every_steps: int
    checkpoint_every_steps: int
    parallel: str
    sync_batch_norm: bool
    network: Network
    emotion: Emotion | None
    multilabel: Multilabel
    class_balance: ClassBalance
    body_groups: BodyGroups
    augmentation: Augmentation
    mixing: Mixing
    optimizer: Optimizer
    schedule: Schedule
    data: Data
    eval: Evaluation

    @property
    def needs_label_vectors(self) -> bool:
        """Whether there is a joint embedding to train."""
        return self.network.embedding and (self.emotion is None or self.emotion.form != "appearance")

    @property
    def frozen_module(self) -> str:
        """The module of the model that training leaves as it is; "" where there is none."""
        return "micro_action" if self.emotion and self.emotion.training == "after" else ""

    @property
    def sources(self) -> list[Source]:
        """The checkpoints that the first weights come from."""
        part = "" if self.emotion is None else {"appearance": "appearance"}.get(self.emotion.form, "micro_action")
        sources = [Source("init_from", self.init_from, part)] if self.init_from else []
        if self.emotion and self.emotion.appearance_from:
            sources.append(Source("emotion.appearance_from", self.emotion.appearance_from, "appearance"))
        return sources

    def model_spec(self, labels: LabelSet, embedding_dim: int, num_emotions: int) -> ModelSpec:
        """The model for some classes, dimensions of the label vectors, and emotions."""
        num_groups = len(labels.group_names) if self.body_groups.head else 0
        network = self.network.spec(len(labels.names), embedding_dim, num_groups)
        if self.emotion is None:
            return network
        appearance = self.emotion.appearance
        options = MODELS["emotion"].Options(
            num_emotions=num_emotions,
            micro_action=None if self.emotion.form == "appearance" else network,
            appearance=None if appearance is None else appearance.spec(num_emotions),
            frozen=bool(self.frozen_module),
        )
        return ModelSpec("emotion", options)

    def check_emotions(self, emotions: Sequence[str], location: str) -> None:
        """Checks that a data set has emotions if they are to be recognised.

        Raises:
          UserError: there are fewer than two in the data set at `location`.
        """
        if self.emotion and len(emotions) < 2:
            raise UserError(
                f"config.emotion.form is {self.emotion.form!r}, but {location} has {len(emotions)} emotions: set it to "
                "'', or add a column 'emotion' to the annotation files (docs/data.md)"
            )

    def check_labels(self, labels: LabelSet, multilabel: bool, location: str) -> None:
        """Checks that what is for one label a clip, or for body groups, has them.

        Raises:
          UserError: the clips of the data set at `location` have several labels, and something but the emotions is for
            one; or each class is a body group of its own.
        """
        values = dict(flatten(self.raw))
        for field, off in _ONE_LABEL.items():
            of_emotions = field == "label_smoothing" and self.emotion is not None
            if multilabel and values[field] != off and not of_emotions:
                raise UserError(
                    f"config.{field} is {values[field]}, which is for one label a clip, but the clips of {location} "
                    f"have several: set it to {off:g}"
                )
        groups = [field for field in values if field.startswith("body_groups.") and values[field]]
        if groups and len(labels.group_names) == len(labels.names):
            raise UserError(
                f"config.{groups[0]} is {values[groups[0]]}, but each class of {location} is a body group of its own: "
                "set it to 0, or add the groups to label_name.txt (docs/data.md)"
            )

    def check_batch_norm(self, min_clips: int, num_devices: int) -> None:
        """Warns where a BatchNorm that has to see so many clips at once sees fewer."""
        parts = self.accumulate if self.sync_batch_norm else self.accumulate * num_devices
        if self.batch_size >= parts * min_clips:
            return
        _log.warning(
            "config.batch_size gives each device %d clip%s; a BatchNorm of the network that sees one clip learns "
            "nothing and spoils the evaluation; set it to %d or more%s",
            self.batch_size // num_devices // self.accumulate,
            f" in each of {self.accumulate} parts (config.accumulate)" if self.accumulate > 1 else "",
            num_devices * self.accumulate * min_clips,
            "" if self.sync_batch_norm or num_devices == 1 else ", or config.sync_batch_norm to True",
        )


def parse(config: ml_collections.ConfigDict) -> Configuration:
    """Parses and checks a config.

    Raises:
      UserError: lists every field that is missing, unknown or out of range, with the range.
    """
    raw = config.to_dict()
    problems = [
        f"{field} is {value}; it must be a finite number"
        for field, value in flatten(raw)
        if isinstance(value, float) and not math.isfinite(value)
    ]
    problems += _top_level_problems(raw)
    nested = {
        "windows": _parse(Windows, raw["data"]["windows"], "data.windows", problems),
        "synthetic": _parse(Synthetic, raw["data"]["synthetic"], "data.synthetic", problems),
    }
    parts: dict[str, Any] = {
        "data": None if None in nested.values() else _parse(Data, raw["data"] | nested, "data", problems),
        "multilabel": _parse(Multilabel, raw["multilabel"], "multilabel", problems),
        "class_balance": _parse(ClassBalance, raw["class_balance"], "class_balance", problems),
        "body_groups": _parse(BodyGroups, raw["body_groups"], "body_groups", problems),
        "augmentation": _parse(Augmentation, raw["augmentation"], "augmentation", problems),
        "mixing": _parse(Mixing, raw["mixing"], "mixing", problems),
        "optimizer": _parse(Optimizer, raw["optimizer"], "optimizer", problems),
        "schedule": _parse(Schedule, raw["schedule"], "schedule", problems),
        "eval": _parse(Evaluation, raw["eval"], "eval", problems),
        "network": _parse_network(raw["model"], raw["clip"], "", problems),
    }
    emotion = _parse_emotion(raw, problems)
    problems += _layer_problems(parts["optimizer"], parts["network"], emotion)
    problems += _long_tail_problems(raw, parts["class_balance"], parts["body_groups"])
    if problems:
        raise UserError(report("the config cannot be run", [f"config.{problem}" for problem in problems]))
    plain = {name: value for name, value in raw.items() if not isinstance(value, dict)}
    return Configuration(raw=raw, emotion=emotion, **parts, **plain)


def _top_level_problems(raw: dict[str, Any]) -> list[str]:
    values = ml_collections.FrozenConfigDict({name: x for name, x in raw.items() if not isinstance(x, dict)})
    problems = one_of(values, parallel=parallel.MAPPINGS) + positive(values, "num_epochs")
    counts = {"batch_size": 1, "accumulate": 1, "log_every_steps": 1, "checkpoint_every_steps": 1}
    problems += at_least(values, seed=0, embedding_weight=0, **counts)
    if not 0 <= raw["label_smoothing"] < 1:
        problems.append(f"label_smoothing is {raw['label_smoothing']}; it must lie in 0..1, below 1")
    if not 0 <= raw["ema_decay"] < 1:
        problems.append(f"ema_decay is {raw['ema_decay']}; it must lie in 0..1, below 1")
    if raw["parallel"] == "pmap" and jax.process_count() > 1:
        problems.append("parallel is 'pmap', which is for one process: set it to 'shard_map'")
    return problems


def _layer_problems(optimizer: Optimizer | None, network: Network | None, emotion: Emotion | None) -> list[str]:
    """A text if the learning rate is to differ from layer to layer, but the layers are not known."""
    if optimizer is None or network is None or optimizer.layer_decay == 1:
        return []
    problem = f"optimizer.layer_decay is {optimizer.layer_decay}"
    if emotion is not None:
        return [f"{problem}; that is for emotion.form ''"]
    if not network.spec(num_classes=1).options.layers:
        return [f"{problem}, but the network {network.name!r} has no order of layers: set it to 1"]
    return []


def _long_tail_problems(raw: dict[str, Any], balance: ClassBalance | None, groups: BodyGroups | None) -> list[str]:
    """Texts if what is done for rare classes and by body groups does not go with other fields."""
    if balance is None or groups is None:
        return []
    problems, form, training = [], raw["emotion"]["form"], raw["emotion"]["training"]
    if balance.soft_f1 and raw["accumulate"] > 1:
        problems.append(f"class_balance.soft_f1 is {balance.soft_f1}; that is of a whole batch: set accumulate to 1")
    if groups.label_smoothing and groups.label_smoothing + raw["label_smoothing"] >= 1:
        problems.append(
            f"body_groups.label_smoothing is {groups.label_smoothing}; with label_smoothing, {raw['label_smoothing']}, "
            "it must lie below 1"
        )
    if form == "appearance" or training == "after":
        setting = "emotion.training 'after'" if training == "after" else "emotion.form 'appearance'"
        changed = {"class_balance": balance != ClassBalance(), "body_groups": groups != BodyGroups()}
        problems += [
            f"{name} is for actions, which {setting} does not train: set its fields as configs/ma52.py has them"
            for name, differs in changed.items()
            if differs
        ]
    return problems


def _parse(part: Callable[..., Any], section: Mapping[str, Any], field: str, problems: list[str]) -> Any:
    """Makes a part of a section; None where values are out of range, which are added to `problems`."""
    known = inspect.signature(part).parameters
    unknown = [name for name in section if name not in known]
    missing = [name for name, x in known.items() if x.default is inspect.Parameter.empty and name not in section]
    problems += [f"{field}.{name} is unknown; known are {', '.join(known)}" for name in unknown]
    problems += [f"{field}.{name} is missing" for name in missing]
    if unknown or missing:
        return None
    try:
        return part(**with_tuples(section))  # that of a checkpoint went through JSON
    except OptionError as error:
        problems += [f"{field}.{problem}" for problem in error.problems]
        return None


def _parse_network(
    model: Mapping[str, Any], clip: Mapping[str, Any], prefix: str, problems: list[str], **more: Any
) -> Network | None:
    """Makes a network of the sections `<prefix>model` and `<prefix>clip`; `more` are fields of the clip."""
    name = model["name"]
    if name not in MODELS or name == "emotion":
        known = ", ".join(each for each in MODELS if each != "emotion")
        problems.append(f"{prefix}model.name is {name!r}; choose one of {known}")
        return None
    spec = _parse(ClipSpec, {**clip, **more}, f"{prefix}clip", problems)
    options = with_tuples({field: value for field, value in model.items() if field not in ("name", "embedding")})
    seen = {} if spec is None else {"clip": spec}  # a network may not fit every clip
    found: list[str] = []
    made = _parse(MODELS[name].Options, {**options, **seen}, f"{prefix}model", found)
    problems += [problem.replace(f"{prefix}model.clip.", f"{prefix}clip.", 1) for problem in found]
    if spec is None or made is None:
        return None
    return Network(name, options, spec, model.get("embedding", False))


def _parse_emotion(raw: dict[str, Any], problems: list[str]) -> Emotion | None:
    section, form = raw["emotion"], raw["emotion"]["form"]
    values = ml_collections.FrozenConfigDict({name: x for name, x in section.items() if not isinstance(x, dict)})
    found = one_of(values, form=("", *FORMS), training=("joint", "after")) + at_least(values, weight=0)
    if section["training"] == "after" and form not in ("micro_action", "fused"):
        found.append("training is 'after'; that is for emotion.form 'micro_action' and 'fused'")
    elif section["training"] == "after" and not raw["init_from"]:
        found.append("training is 'after'; give the workdir of the micro-action run as init_from")
    if section["appearance_from"] and form != "fused":
        found.append("appearance_from is for emotion.form 'fused'; use init_from")
    problems += [f"emotion.{problem}" for problem in found]
    shared = {name: raw["model"][name] for name in ("dtype", "remat") if name in raw["model"]}
    sampled = {}  # the frames are some of those that the network of micro-actions sees
    if form in ("appearance", "fused"):
        names = ("sampling", "frame_interval", "short_videos")
        sampled = {name: raw["clip"][name] for name in names if name in raw["clip"]}
        sampled["subset_of"] = raw["clip"]["num_frames"]
    appearance = _parse_network({**shared, **section["model"]}, section["clip"], "emotion.", problems, **sampled)
    if not form:
        return None
    return Emotion(
        form=form,
        training=section["training"],
        weight=section["weight"],
        appearance_from=section["appearance_from"],
        appearance=None if form == "micro_action" else appearance,
    )


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields, with both values, in which a run's config differs so that it cannot resume from the old one."""
    # Through JSON, as the old one came, tuples are lists.
    before, after = (dict(flatten(config)) for config in (old, new))
    fields = [field for field in sorted(before.keys() | after.keys()) if not (field + ".").startswith(_FREE)]
    return [
        f"{field} ({before.get(field)} before, {after.get(field)} now)"
        for field in fields
        if before.get(field) != after.get(field)
    ]


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the fields of nested dicts as `outer.inner` with their values, tuples as lists."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, list(value) if isinstance(value, tuple) else value
