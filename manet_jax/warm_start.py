"""Another run's weights into a fresh model, by path and shape."""

import dataclasses
import logging
import pathlib
from collections.abc import Iterable
from typing import Any

import jax

from manet_jax import checkpoint as checkpoint_lib
from manet_jax.models import ModelSpec, resnet3d, swin
from manet_jax.models.variables import Variables, flatten, replace
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet, same_classes

_log = logging.getLogger(__name__)

_SHOWN = 3  # variables that an error lists
_PIXELS = ("mean", "std")  # of a clip specification
_FRAMES = ("num_frames", "sampling", "frame_interval")


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that weights are to come from.

    Attributes:
      field: of the config that gives the workdir, for errors.
      workdir: of a run, or of weights that `manet_jax.pretrained` converted.
      part: of the model that gets the weights, from the same part of the checkpoint's, or from the whole of it where it
        has no parts; "" stands for the whole model.
    """

    field: str
    workdir: str
    part: str = ""

    def check(self) -> None:
        """Checks that there is a checkpoint.

        Raises:
          UserError: there is none.
        """
        if pathlib.Path(self.workdir).expanduser().is_file():
            raise UserError(
                f"config.{self.field}: {self.workdir} is a file; convert it with python -m manet_jax.pretrained "
                f"{self.workdir} DIR and give DIR"
            )
        try:
            checkpoint_lib.open_to_read(self.workdir, "best").close()
        except UserError as error:
            raise UserError(f"config.{self.field}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Origin:
    """The origin of the weights of a part of a model.

    Attributes:
      part: see `Source`.
      workdir: see `Source`.
      step: the checkpoint's.
      source: the PyTorch file of converted weights.
      fresh: modules of the model that stayed fresh, in whole or part, without the numbers of blocks.
      unused: modules of the checkpoint that were not taken.
    """

    part: str
    workdir: str
    step: int
    source: dict[str, Any] | None
    fresh: list[str]
    unused: list[str]


def warm_start(
    variables: Variables,
    source: Source,
    labels: LabelSet,
    sharding: jax.sharding.Sharding | None = None,
    model: ModelSpec | None = None,
) -> tuple[Variables, Origin]:
    """Replaces the fresh variables of a model by those of the same path and shape in the best checkpoint of a workdir.

    Heads of another size, the classifier of other classes and the head of other body groups, and variables that are
    fresh in the checkpoint itself stay as they are. A ResNet or a Swin over clips may start from one over images, see
    `resnet3d.inflate` and `swin.inflate`. A warning says where the weights were trained on other clips than the model
    will see.

    Args:
      variables: of the model.
      source: the checkpoint.
      labels: the classes that the model is for.
      sharding: see `checkpoint.read_model`.
      model: the model, for the warning; None gives none.

    Raises:
      UserError: there is no such checkpoint, or its network is another one.
    """
    saved = checkpoint_lib.read_model(source.workdir, "best", sharding)
    ours, theirs = flatten(_part(variables, source.part)), flatten(_part(saved.variables, source.part))
    fresh = _fresh(saved.metadata.fresh, source.part)
    theirs = {path: value for path, value in theirs.items() if path not in fresh}
    theirs = swin.inflate(resnet3d.inflate(theirs, ours), ours)
    _check_backbones(ours, theirs, source, saved.metadata.model)
    if model is not None:
        of_images = any(".heads.classifier." in path for path in fresh)  # such weights know of no frames
        _compare_clips(model, saved.metadata.model, source, _PIXELS if of_images else _PIXELS + _FRAMES)
    usable = set(theirs)
    same = same_classes(labels, saved.metadata.labels)
    if not same:
        usable -= {path for path in theirs if ".heads.classifier." in path}
    if not same or labels.groups != saved.metadata.labels.groups:
        usable -= {path for path in theirs if ".heads.body_groups." in path}
    taken = {path: theirs[path] for path in usable & ours.keys() if theirs[path].shape == ours[path].shape}
    origin = Origin(
        part=source.part,
        workdir=str(source.workdir),
        step=saved.metadata.step or 0,
        source=saved.metadata.source,
        fresh=_modules(ours.keys() - taken.keys()),
        unused=_modules(theirs.keys() - taken.keys()),
    )
    for title in ("fresh", "unused"):
        _log.info("weights of %s, %s: %s", source.workdir, title, ", ".join(getattr(origin, title)) or "none")
    if source.part:
        taken = {path.replace(".", f".{source.part}.", 1): value for path, value in taken.items()}
    return replace(variables, taken), origin


def _check_backbones(
    ours: dict[str, jax.Array], theirs: dict[str, jax.Array], source: Source, model: ModelSpec
) -> None:
    """Checks that all variables outside the heads that both have are of one shape, and that there are some."""
    common = {path for path in ours.keys() & theirs.keys() if ".heads." not in path}
    if not common:
        raise UserError(
            f"config.{source.field}: the checkpoint in {source.workdir} is of another network, {model.name!r}, and has "
            f"other parts ({', '.join(_modules(theirs))}) than the model that is to be trained"
        )
    differing = [path for path in ours if path in common and ours[path].shape != theirs[path].shape]
    if differing:
        examples = [f"{path} {list(theirs[path].shape)}, here {list(ours[path].shape)}" for path in differing[:_SHOWN]]
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"config.{source.field}: the checkpoint in {source.workdir} has a network of another size "
            f"({'; '.join(examples)}{more}); set config.model to the options of its {model.name}: {_options(model)}"
        )


def _compare_clips(ours: ModelSpec, theirs: ModelSpec, source: Source, fields: Iterable[str]) -> None:
    """Warns where two networks see different clips, as far as some fields of their specifications go."""
    inputs = [model.options.inputs for model in (ours, theirs)]
    here, there = (each.get(source.part, each.get("video")) for each in inputs)
    differing = [name for name in fields if here and there and getattr(here, name) != getattr(there, name)]
    if differing:
        listed = [f"{name} {getattr(there, name)}, here {getattr(here, name)}" for name in differing]
        _log.warning(
            "config.%s: the weights in %s were trained on other clips than this run's (%s); set config.clip to theirs, "
            "unless the difference is meant",
            source.field,
            source.workdir,
            "; ".join(listed),
        )


def _options(model: ModelSpec) -> dict[str, Any]:
    """The options of a network that a config sets."""
    options = dataclasses.asdict(model.options)
    return {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}


def _part(variables: Variables, part: str) -> Variables:
    return {collection: tree.get(part, tree) for collection, tree in variables.items()}


def _fresh(paths: Iterable[str], part: str) -> set[str]:
    return {path.replace(f".{part}.", ".", 1) if part else path for path in paths}


def _modules(paths: Iterable[str]) -> list[str]:
    """The modules of some variables, without the blocks' numbers."""
    parts = (path.split(".")[1:-1] for path in paths)
    return sorted({".".join(part for part in each if not part.isdecimal()) for each in parts})
