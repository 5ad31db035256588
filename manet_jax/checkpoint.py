"""Checkpoints: a run's state with all it takes to use it: model options, labels, config, versions."""

import asyncio
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jaxtyping import Array, Float, PyTree, UInt8

from manet_jax import configuration, inference, parallel
from manet_jax.emotion import EmotionNet, Outputs
from manet_jax.inference import Prediction
from manet_jax.models import MANet
from manet_jax.nets import abstract_variables
from tfds_ma52.errors import UserError
from tfds_ma52.labels import Labels, same_classes

_log = logging.getLogger(__name__)

KINDS = ("best", "latest")
FORMAT = 1  # of what a checkpoint says of itself; 0, which did not say so, lacks nothing that is needed
_PACKAGES = ("manet_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "decord2", "numpy")


@contextlib.contextmanager
def _without_warnings():
    # Orbax warns of every directory that it is to read only, and of every handler that takes another one's place.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# Orbax logs, with its stack trace, what it raises too.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname or record.levelno < logging.ERROR)

with _without_warnings():
    # By itself Orbax cuts an array into a part for each device that has a copy, which takes longer than to write it.
    ocp.type_handlers.register_type_handler(
        jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False), override=True
    )


class _WaitingLoop(asyncio.SelectorEventLoop):
    def close(self) -> None:
        if not self.is_closed() and (left := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.wait(left))
        super().close()


@contextlib.contextmanager
def _waiting_for_reads() -> Iterator[None]:
    # When one of Orbax's reads fails it closes the event loop under the others, each of which then prints a trace.
    new_event_loop, asyncio.new_event_loop = asyncio.new_event_loop, _WaitingLoop
    try:
        yield
    finally:
        asyncio.new_event_loop = new_event_loop


def as_json(value: Any) -> Any:
    """A copy of nested dicts as a checkpoint returns them: tuples become lists."""
    return json.loads(json.dumps(value))


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


class CheckpointError(Exception):
    """A checkpoint could not be written; the text says why, and which one is left."""


class Checkpoints:
    """The checkpoints in a workdir: `latest`, which a run goes on from, and `best`, by F1 mean."""

    def __init__(self, workdir: str | pathlib.Path, *, read_only: bool = False):
        """Opens the checkpoints of a workdir; unless `read_only`, there need not be any."""
        self._root = root = pathlib.Path(workdir).expanduser().absolute() / "checkpoints"
        self._writes = not read_only
        # The best but one stays too: a run killed right after a best one goes on from before it, and may not know it.
        keep = {"best": 2, "latest": 1}
        self._managers = {}
        for kind in KINDS:
            if not read_only:
                options = ocp.CheckpointManagerOptions(max_to_keep=keep[kind])
                self._managers[kind] = ocp.CheckpointManager(root / kind, options=options)
            elif (root / kind).is_dir():
                process = jax.process_index()
                # Each process reads by itself, so that one of several may do so alone.
                alone = ocp.options.MultiprocessingOptions(
                    primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
                )
                options = ocp.CheckpointManagerOptions(
                    read_only=True, create=False, save_interval_steps=0, multiprocessing_options=alone
                )
                with _without_warnings():
                    self._managers[kind] = ocp.CheckpointManager(root / kind, options=options)

    def step(self, kind: str) -> int | None:
        """The step of the checkpoint of a kind; None where there is none."""
        return self._managers[kind].latest_step()

    def save(self, kind: str, step: int, trees: dict[str, PyTree], metadata: dict[str, Any]) -> None:
        """Copies trees of arrays, then writes them in the background; the last checkpoint stays until that is done.

        What was saved before is on disk when this returns: a `latest` that names a `best` never comes before it.

        Raises:
          CheckpointError: one saved before could not be written.
        """
        with self._naming_errors():
            for manager in self._managers.values():
                manager.wait_until_finished()
            items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
            items["metadata"] = ocp.args.JsonSave(as_json(metadata))
            self._managers[kind].save(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of Orbax, TensorStore or the file system, most of them in another thread
            if not self._writes:
                raise
            raise CheckpointError(
                f"a checkpoint cannot be written to {self._root} ({_reason(error)}); those before it are whole. Make "
                "room, and the same command goes on from the latest one"
            ) from error

    def delete_other(self, kind: str, step: int | None) -> None:
        """Deletes the checkpoints of a kind that are not of `step`."""
        for other in self._managers[kind].all_steps():
            if other != step:
                self._managers[kind].delete(other)

    def metadata(self, kind: str) -> dict[str, Any]:
        """The metadata of the checkpoint of a kind.

        Raises:
          UserError: it is damaged, or of a later version of the project.
        """
        items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        found = self._restore(kind, items).metadata
        if found.get("format", 0) > FORMAT:
            raise UserError(
                f"{self._root / kind} was written by a later version of manet_jax (format {found['format']}, this one "
                f"reads up to {FORMAT}): install that version"
            )
        return found

    def restore(self, kind: str, like: dict[str, PyTree]) -> dict[str, PyTree]:
        """The trees of the checkpoint of a kind, with the shapes and placement of those in `like`.

        Raises:
          UserError: it is damaged.
        """
        abstract = {name: jax.tree.map(ocp.utils.to_shape_dtype_struct, tree) for name, tree in like.items()}
        items = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
        restored = self._restore(kind, ocp.args.Composite(**items))
        return {name: restored[name] for name in like}

    def _restore(self, kind: str, items: ocp.args.Composite) -> ocp.args.Composite:
        step = self.step(kind)
        try:
            with _waiting_for_reads():
                return self._managers[kind].restore(step, args=items)
        except Exception as error:  # whatever damaged files make Orbax and TensorStore raise
            raise UserError(
                f"{self._root / kind / str(step)} cannot be read ({_reason(error)}): remove that folder to go on from "
                "an earlier checkpoint, if there is one, or use another workdir"
            ) from error

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          CheckpointError: it cannot be.
        """
        with self._naming_errors():
            for manager in self._managers.values():
                manager.close()


def _reason(error: Exception) -> str:
    """The last cause that an error of Orbax or TensorStore names."""
    text = " ".join(str(error).split())
    of_system = re.search(r"([^:]+) \[os_error_code", text)
    return of_system[1].strip() if of_system else text[:200] or type(error).__name__


def _open_to_read(workdir: str | pathlib.Path, kind: str) -> Checkpoints:
    if kind not in KINDS:
        raise UserError(f"there is no checkpoint kind {kind!r}; choose one of {', '.join(KINDS)}")
    root = pathlib.Path(workdir).expanduser() / "checkpoints" / kind
    checkpoints = Checkpoints(workdir, read_only=True) if root.is_dir() else None
    if checkpoints is None or checkpoints.step(kind) is None:
        raise UserError(
            f"{root} holds no checkpoint: name the workdir of a training, or of weights that python -m "
            "manet_jax.pretrained converted"
        )
    return checkpoints


def read_model(
    workdir: str | pathlib.Path, kind: str, sharding: jax.sharding.Sharding | None = None
) -> tuple[nnx.GraphDef, dict[str, PyTree], dict[str, Any]]:
    """Reads the model of a checkpoint.

    Args:
      workdir: of a run.
      kind: "best" or "latest".
      sharding: where to place the variables; None is this process's first device.

    Returns:
      The model's structure, its variables (`nets.split_variables`), and what the checkpoint says of itself, with its
      `step`.

    Raises:
      UserError: there is no such checkpoint.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with contextlib.closing(_open_to_read(workdir, kind)) as checkpoints:
        metadata = checkpoints.metadata(kind) | {"step": checkpoints.step(kind)}
        if metadata.get("fresh"):
            _log.warning("%s has %d variables that were never trained, only drawn", workdir, len(metadata["fresh"]))
        graphdef, variables = abstract_variables(metadata["model"])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), variables)
        return graphdef, checkpoints.restore(kind, {"model": like})["model"], metadata


def labels_of(metadata: dict[str, Any]) -> Labels:
    """The classes in what a checkpoint says of itself."""
    return Labels(*(tuple(metadata["labels"][field.name]) for field in dataclasses.fields(Labels)))


def check_source(field: str, workdir: str | pathlib.Path) -> None:
    """Checks that `initialize` can read a workdir, which a `field` of the config names.

    Raises:
      UserError: it has no checkpoint.
    """
    if pathlib.Path(workdir).expanduser().is_file():
        raise UserError(
            f"config.{field}: {workdir} is a file; convert it with python -m manet_jax.pretrained {workdir} DIR and "
            "name DIR"
        )
    try:
        _open_to_read(workdir, "best").close()
    except UserError as error:
        raise UserError(f"config.{field}: {error}") from error


def initialize(
    variables: dict[str, PyTree],
    workdir: str | pathlib.Path,
    labels: Labels,
    sharding: jax.sharding.Sharding | None = None,
    part: str = "",
) -> tuple[dict[str, PyTree], dict[str, Any]]:
    """Replaces the fresh variables of a model by those of the same name and shape in the best checkpoint of a workdir.

    Layers of another size, the classifier of other classes, and what the checkpoint itself has fresh stay as they are.

    Args:
      variables: as `nets.split_variables` has them.
      workdir: of a run, or of weights that `manet_jax.pretrained` converted.
      labels: the classes that the model is for.
      sharding: see `read_model`.
      part: of the model that gets the weights, from the same part of the checkpoint's, or the whole of it where it has
        no parts; "" stands for the whole model.

    Returns:
      The variables, and which checkpoint they come from, with the modules that stayed `fresh` in whole or part and
      those of the checkpoint that are `unused`.

    Raises:
      UserError: there is no such checkpoint, or its network has another depth or width.
    """
    _, theirs, metadata = read_model(workdir, "best", sharding)
    ours, theirs = flatten(_part(variables, part)), flatten(_part(theirs, part))
    stem = "params.stem.conv.kernel"
    if stem not in ours or stem not in theirs:
        raise UserError(
            f"config.init_from: the checkpoint in {workdir} has other parts ({', '.join(_modules(theirs))}) than the "
            "model that is to be trained"
        )
    depths = [max(int(path.split(".")[2]) for path in each if ".blocks." in path) for each in (ours, theirs)]
    if ours[stem].shape != theirs[stem].shape or depths[0] != depths[1]:
        network = {name: metadata["model"][name] for name in ("depth", "width")}
        raise UserError(
            f"config.init_from: the checkpoint in {workdir} has a network of another size; set config.model to its "
            f"{network}"
        )
    made = set(metadata.get("fresh", ()))
    usable = theirs.keys() - made
    if not same_classes(labels, labels_of(metadata)):
        usable -= {path for path in theirs if path.startswith("params.classifier.")}
    taken = {path: theirs[path] for path in usable & ours.keys() if theirs[path].shape == ours[path].shape}
    origin = {
        "part": part,
        "workdir": str(workdir),
        "step": metadata["step"],
        "source": metadata.get("source"),
        "fresh": _modules(ours.keys() - taken.keys()),
        "unused": _modules(theirs.keys() - taken.keys() - made),
    }
    for what in ("fresh", "unused"):
        _log.info("weights of %s, %s: %s", workdir, what, ", ".join(origin[what]) or "none")
    if part:
        taken = {path.replace(".", f".{part}.", 1): value for path, value in taken.items()}
    return replace(variables, taken), origin


def _part(variables: dict[str, PyTree], part: str) -> dict[str, PyTree]:
    return {kind: tree.get(part, tree) for kind, tree in variables.items()}


def _modules(paths: Iterable[str]) -> list[str]:
    """Names the modules that some variables belong to, without the blocks' numbers."""
    parts = (path.split(".")[1:-1] for path in paths)
    return sorted({".".join(part for part in each if not part.isdecimal()) for each in parts})


def flatten(variables: PyTree) -> dict[str, Any]:
    """The leaves of nested dicts by their path, such as `params.blocks.0.conv1.conv.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def replace(variables: PyTree, values: dict[str, Any]) -> PyTree:
    """Nested dicts with some of their leaves, named as by `flatten`, replaced."""
    return jax.tree.unflatten(jax.tree.structure(variables), (flatten(variables) | values).values())


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model for a notebook: `model(video) -> logits, embedding`.

    Attributes:
      model: the network, in evaluation mode.
      labels: its classes and groups.
      emotions: names of its emotions; empty where it recognises none.
      config: the config of the run it comes from, as nested dicts.
      metadata: all that the checkpoint says of itself: step, metrics, versions, data-set fingerprint.
    """

    model: MANet | EmotionNet
    labels: Labels
    emotions: tuple[str, ...]
    config: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def multilabel(self) -> bool:
        """Whether it tells several actions a clip: scores are sigmoids then, and a softmax otherwise."""
        return self.metadata.get("multilabel", False)  # converted weights tell one

    @functools.cached_property
    def views(self) -> dict[str, Any]:
        """Which frames of a video it wants, and which part of them: arguments of `preprocess.middle_views`."""
        arguments = configuration.view_arguments(ml_collections.ConfigDict(self.config))
        return {"size": arguments.pop("crop_size"), **arguments}

    def predict(self, videos: str | os.PathLike | Sequence[str | os.PathLike], **options: Any) -> list[Prediction]:
        """What it says of a video file or of several.

        Args:
          videos: the files.
          **options: `window`, `stride`, `batch_size` and `show_progress` of `inference.predict`.

        Returns:
          A `Prediction` for each video, and one for each window of a video of more than `inference.LONG` seconds.
          That of a file that cannot be read has an `error`.
        """
        several = [videos] if isinstance(videos, str | os.PathLike) else list(videos)
        return list(inference.predict(self, several, **options))

    def __call__(
        self,
        video: UInt8[Array | np.ndarray, "b t h w 3"] | None,
        appearance: UInt8[Array | np.ndarray, "b t2 h2 w2 3"] | None = None,
    ) -> tuple[Float[Array, "b n"], Float[Array, "b e"] | None] | Outputs:
        """Returns logits and, if the model has that branch, embeddings of clips of RGB frames, 0..255.

        A model of emotions returns `emotion.Outputs`; those of the forms "appearance" and "fused" want `appearance`
        frames, the former no `video`.
        """
        return self._forward(video, appearance)

    def class_maps(
        self,
        video: UInt8[Array | np.ndarray, "b t h w 3"] | None,
        appearance: UInt8[Array | np.ndarray, "b t2 h2 w2 3"] | None = None,
    ) -> Float[Array, "b t3 h3 w3 n"]:
        """Returns what each place of each frame says for each action, see `models.MANet.class_maps`.

        For a model of emotions by appearance alone it is of each emotion, from the `appearance` frames.
        """
        return self._class_maps(video if self.views["video"] else appearance)

    @functools.cached_property
    def _class_maps(self):
        net = self.model
        if isinstance(net, EmotionNet):
            net = net.appearance if net.micro_actions is None else net.micro_actions
        graphdef, variables = nnx.split(net)

        def class_maps(variables, x):
            return nnx.merge(graphdef, variables).class_maps(x)

        return functools.partial(jax.jit(class_maps, compiler_options=parallel.compiler_options()), variables)

    @functools.cached_property
    def _forward(self):
        graphdef, variables = nnx.split(self.model)

        def forward(variables, video, appearance):
            model = nnx.merge(graphdef, variables)
            return model(video, appearance) if isinstance(model, EmotionNet) else model(video)

        return functools.partial(jax.jit(forward, compiler_options=parallel.compiler_options()), variables)


def load_model(workdir: str | pathlib.Path, checkpoint: str = "best") -> LoadedModel:
    """Loads a model that was trained in `workdir`.

    Args:
      workdir: of the run.
      checkpoint: "best" (by its main figure on the evaluation split) or "latest".

    Raises:
      UserError: there is no such checkpoint.
    """
    graphdef, variables, metadata = read_model(workdir, checkpoint)
    model = nnx.merge(graphdef, variables["params"], variables["batch_stats"])
    emotions = tuple(metadata.get("emotions", ())) if isinstance(model, EmotionNet) else ()
    return LoadedModel(model, labels_of(metadata), emotions, metadata["config"], metadata)
