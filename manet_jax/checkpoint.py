"""Checkpoints: a run's state with its metadata, by Orbax."""

import contextlib
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jaxtyping import PyTree

from manet_jax import _orbax, format_1
from manet_jax.models import variables as variables_lib
from manet_jax.models.variables import Variables
from manet_jax.run_metadata import FORMAT, RunMetadata
from tfds_ma52.errors import UserError

_log = logging.getLogger(__name__)

CHECKPOINTS = ("best", "latest")


class CheckpointError(Exception):
    """A checkpoint could not be written; the text gives the reason, and the one that is left."""


class Checkpoints:
    """The checkpoints in a workdir: `latest`, from which a run resumes, and `best`, by its primary metric."""

    def __init__(self, workdir: str | pathlib.Path, *, read_only: bool = False):
        """Opens the checkpoints of a workdir; unless `read_only`, there need not be any."""
        _orbax.prepare()
        self._root = root = pathlib.Path(workdir).expanduser().absolute() / "checkpoints"
        self._writes = not read_only
        # The best but one stays too: a run killed right after a best one resumes from before it, and may not know it.
        keep = {"best": 2, "latest": 1}
        self._managers: dict[str, ocp.CheckpointManager] = {}
        for name in CHECKPOINTS:
            if not read_only:
                options = ocp.CheckpointManagerOptions(max_to_keep=keep[name])
                self._managers[name] = ocp.CheckpointManager(root / name, options=options)
            elif (root / name).is_dir():
                options = ocp.CheckpointManagerOptions(
                    read_only=True, create=False, save_interval_steps=0, multiprocessing_options=_orbax.reading_alone()
                )
                with _orbax.without_warnings():
                    self._managers[name] = ocp.CheckpointManager(root / name, options=options)

    def step(self, name: str) -> int | None:
        """The step of the checkpoint of a name; None where there is none."""
        return self._managers[name].latest_step() if name in self._managers else None

    def save(self, name: str, step: int, trees: dict[str, PyTree], metadata: RunMetadata) -> None:
        """Copies trees of arrays, then writes them in the background; the last checkpoint stays until that is done.

        What was saved before is on disk when this returns: a `latest` that refers to a `best` never comes before it.

        Raises:
          CheckpointError: one saved before could not be written.
        """
        with self._reporting_errors():
            for manager in self._managers.values():
                manager.wait_until_finished()
            items: dict[str, Any] = {tree_name: ocp.args.StandardSave(tree) for tree_name, tree in trees.items()}
            items["metadata"] = ocp.args.JsonSave(json_roundtrip(metadata.to_json()))
            self._managers[name].save(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of Orbax, TensorStore or the file system, most of them in another thread
            if not self._writes:
                raise
            raise CheckpointError(
                f"a checkpoint cannot be written to {self._root} ({_orbax.reason(error)}); those before it are whole. "
                "Make room, and the same command resumes from the latest one"
            ) from error

    def delete_other(self, name: str, step: int | None) -> None:
        """Deletes the checkpoints of a name that are not of `step`."""
        for other in self._managers[name].all_steps():
            if other != step:
                self._managers[name].delete(other)

    def metadata(self, name: str) -> RunMetadata:
        """The metadata of the checkpoint of a name.

        Raises:
          UserError: it is damaged, or of a later version of the project.
        """
        return RunMetadata.from_json(self._json(name), self.step(name))

    def format(self, name: str) -> int:
        """The format of the checkpoint of a name; reading it migrates earlier ones."""
        return self._json(name).get("format", 0)

    def _json(self, name: str) -> dict[str, Any]:
        found = self._restore(name, ocp.args.Composite(metadata=ocp.args.JsonRestore())).metadata
        if found.get("format", 0) > FORMAT:
            raise UserError(
                f"{self._root / name} was written by a later version of manet_jax (format {found['format']}, this one "
                f"reads up to {FORMAT}): install that version"
            )
        return found

    def restore(self, name: str, like: dict[str, PyTree]) -> dict[str, PyTree]:
        """The trees of the checkpoint of a name, with the shapes and placement of those in `like`.

        Raises:
          UserError: it is damaged.
        """
        abstract = {tree: jax.tree.map(ocp.utils.to_shape_dtype_struct, value) for tree, value in like.items()}
        items = {tree: ocp.args.StandardRestore(value) for tree, value in abstract.items()}
        restored = self._restore(name, ocp.args.Composite(**items))
        return {tree: restored[tree] for tree in like}

    def _restore(self, name: str, items: ocp.args.Composite) -> Any:
        step = self.step(name)
        try:
            with _orbax.waiting_for_reads():
                return self._managers[name].restore(step, args=items)
        except Exception as error:  # whatever damaged files make Orbax and TensorStore raise
            raise UserError(
                f"{self._root / name / str(step)} cannot be read ({_orbax.reason(error)}): remove that folder to "
                "resume from an earlier checkpoint, if there is one, or use another workdir"
            ) from error

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          CheckpointError: it cannot be.
        """
        with self._reporting_errors():
            for manager in self._managers.values():
                manager.close()


def json_roundtrip(value: Any) -> Any:
    """A copy of nested dicts as a checkpoint returns them: tuples become lists."""
    return json.loads(json.dumps(value))


def open_to_read(workdir: str | pathlib.Path, name: str) -> Checkpoints:
    """Opens the checkpoints of a workdir that has one of a name.

    Raises:
      UserError: it has none.
    """
    if name not in CHECKPOINTS:
        raise UserError(f"there is no checkpoint {name!r}; choose one of {', '.join(CHECKPOINTS)}")
    root = pathlib.Path(workdir).expanduser() / "checkpoints" / name
    checkpoints = Checkpoints(workdir, read_only=True) if root.is_dir() else None
    if checkpoints is None or checkpoints.step(name) is None:
        raise UserError(
            f"{root} holds no checkpoint: give the workdir of a training run, or of weights that python -m "
            "manet_jax.pretrained converted"
        )
    return checkpoints


def read_metadata(workdir: str | pathlib.Path, name: str) -> RunMetadata:
    """Reads the metadata of a checkpoint.

    Raises:
      UserError: there is no such checkpoint.
    """
    with contextlib.closing(open_to_read(workdir, name)) as checkpoints:
        return checkpoints.metadata(name)


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model as a checkpoint holds it.

    Attributes:
      graphdef: its structure.
      variables: `params` and `batch_stats`.
      metadata: of the run, with the checkpoint's step.
    """

    graphdef: nnx.GraphDef
    variables: Variables
    metadata: RunMetadata


def read_model(workdir: str | pathlib.Path, name: str, sharding: jax.sharding.Sharding | None = None) -> SavedModel:
    """Reads the model of a checkpoint.

    Args:
      workdir: of a run.
      name: "best" or "latest".
      sharding: where to place the variables; None is this process's first device.

    Raises:
      UserError: there is no such checkpoint.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with contextlib.closing(open_to_read(workdir, name)) as checkpoints:
        metadata = checkpoints.metadata(name)
        if metadata.fresh:
            _log.warning("%s has %d variables that were never trained, only drawn", workdir, len(metadata.fresh))
        graphdef, abstract = variables_lib.abstract_variables(metadata.model)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
        if checkpoints.format(name) < FORMAT:
            return SavedModel(graphdef, _restore_format_1(checkpoints, name, like), metadata)
        return SavedModel(graphdef, checkpoints.restore(name, {"model": like})["model"], metadata)


def _restore_format_1(checkpoints: Checkpoints, name: str, like: Variables) -> Variables:
    """Restores variables that have other paths in the checkpoint."""
    flat = variables_lib.flatten(like)
    old_paths = {path: format_1.path(path) for path in flat}
    old = checkpoints.restore(name, {"model": variables_lib.nest({old_paths[path]: x for path, x in flat.items()})})
    values = variables_lib.flatten(old["model"])
    return variables_lib.replace(like, {path: values[old_paths[path]] for path in flat})
