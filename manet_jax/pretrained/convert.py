"""Converts PyTorch files to checkpoints of ours, and checkpoints to PyTorch files."""

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp

from manet_jax import pretrained
from manet_jax.checkpoint import CHECKPOINTS, Checkpoints, read_model
from manet_jax.models import ModelSpec
from manet_jax.models.variables import Variables, abstract_variables, create_variables, flatten, replace
from manet_jax.pretrained import state_dict
from manet_jax.pretrained.table import State, WeightTable, find_unused, recognise, to_state_dict, to_variables
from manet_jax.run_metadata import FORMAT, RunMetadata
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52, LabelSet, read_labels

_log = logging.getLogger(__name__)

_CLASSIFIER = "heads.classifier.linear"


def convert(
    source: str | pathlib.Path, out: str | pathlib.Path, label_names: str = "", *, drop_classifier: bool = False
) -> RunMetadata:
    """Writes the weights of a PyTorch file as a checkpoint of ours.

    Args:
      source: a .safetensors file of one of the families in `pretrained.TABLES`, or one that `torch.save` wrote.
      out: a workdir for `load_model`, `--mode=evaluate` and `config.init_from`.
      label_names: a file of the classes' names (`id<TAB>name` a line), if they are not MA-52's.
      drop_classifier: leave the file's classifier out, as it is for classes that do not matter; ours is then fresh.

    Returns:
      The checkpoint's metadata; its `source` counts the tensors of each kind.

    Raises:
      UserError: the file cannot be read or holds other tensors than it should, all of which are reported; `out` is
        taken.
    """
    source, out = pathlib.Path(source).expanduser(), _new_path(out)
    state, notes = state_dict.read(source)
    table = recognise(state, pretrained.TABLES, str(source))
    if drop_classifier:
        table = _without_classifier(table)
    known = _read_notes(notes, source) if notes else None
    labels = read_labels(pathlib.Path(label_names).expanduser()) if label_names else known.labels if known else MA52
    spec = known.model if known else _guess_spec(state, table, labels, source)
    if spec.name != table.network:
        raise UserError(
            f"{source}: its notes describe a network {spec.name!r}, but its tensors are those of {table.title}"
        )
    title = "a network of this project" if known else table.title
    if len(labels.names) != spec.options.num_classes:
        raise UserError(
            f"the classifier has {spec.options.num_classes} classes, but {label_names or 'MA-52'} has "
            f"{len(labels.names)}: give a file with an '<id><TAB><name>' line for each of them with --label_names, or "
            "leave the classifier out with --drop_classifier, to train for other classes"
        )
    taken = to_variables(state, spec, table, f"{source} is not quite {title}")
    variables = abstract_variables(spec)[1]
    fresh = tuple(sorted(flatten(variables).keys() - taken.keys()))
    if fresh:
        variables = create_variables(spec, seed=0)
    metadata = RunMetadata(
        model=spec,
        labels=labels,
        multilabel=known.multilabel if known else False,
        source={
            "file": source.name,
            "sha256": _sha256(source),
            "holds": title,
            "tensors": len(taken),
            "unused": {name: len(names) for name, names in find_unused(state, table).items() if names},
        },
        fresh=known.fresh if known else fresh,
    )
    _save(out, replace(variables, taken), metadata)
    return metadata


def to_pytorch(workdir: str | pathlib.Path, out: str | pathlib.Path, checkpoint: str = "best") -> int:
    """Writes the model of a workdir as a .safetensors file with the names and layouts of its network's family.

    The released code loads a MANet of its size (52 classes, 300-dimensional label vectors) with `strict=False`, for
    want of its unused `action_p2_*`. No file has `num_batches_tracked`, which PyTorch then takes as 0. `convert` reads
    every model back, bit for bit, with its options and labels, which the file's metadata hold; but for a head of body
    groups, which is left out with a warning.

    Returns:
      The number of tensors.

    Raises:
      UserError: there is no such checkpoint, or the file cannot be written.
    """
    out = _new_path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: only .safetensors files are written; give it that ending")
    saved = read_model(workdir, checkpoint)
    spec = saved.metadata.model
    table = next(
        (table for table in pretrained.TABLES if table.network == spec.name and table.fits(spec.options)), None
    )
    if table is None:
        raise UserError(f"{workdir} holds a network {spec.name!r}, for which there is no table of PyTorch's names")
    if spec.options.num_groups:
        _log.warning("the head of body groups is left out, for which PyTorch's files have no place")
        spec = dataclasses.replace(spec, options=dataclasses.replace(spec.options, num_groups=0))
    state = to_state_dict(saved.variables, spec, table)
    # Of the metadata only what belongs to the weights: the rest holds paths of this machine.
    labels, fresh = dataclasses.asdict(saved.metadata.labels), saved.metadata.fresh
    notes = {"format": FORMAT, "model": spec.to_json(), "labels": labels, "fresh": fresh}
    state = {table.written_prefix + name: tensor for name, tensor in state.items()}
    state_dict.write(out, state, {**notes, "multilabel": saved.metadata.multilabel})
    return len(state)


def _new_path(path: str | pathlib.Path) -> pathlib.Path:
    if not str(path):
        raise UserError("the name of the output is empty; give a path")
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        raise UserError(f"{path} exists already; give another name, or remove it first")
    return path


def _read_notes(notes: dict[str, Any], source: pathlib.Path) -> RunMetadata:
    """The metadata that `to_pytorch` noted in a file."""
    try:
        metadata = RunMetadata.from_json(notes)
        abstract_variables(metadata.model)
    except (AttributeError, TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{source}: the notes in its metadata are not those that --to_pytorch writes, or describe a model that "
            f"this version cannot make ({error})"
        ) from error
    return metadata


def _without_classifier(table: WeightTable) -> WeightTable:
    """A family whose files have no classifier, as far as they are used."""
    name, layout = table.modules[_CLASSIFIER]
    unused = {} if name is None else {"the classifier": rf"^{re.escape(name)}\.(weight|bias)$"}
    modules = {**table.modules, _CLASSIFIER: (None, layout)}
    return dataclasses.replace(table, modules=modules, unused={**table.unused, **unused})


def _guess_spec(state: State, table: WeightTable, labels: LabelSet, source: pathlib.Path) -> ModelSpec:
    """The network that fits a file's tensors best."""
    try:
        options = table.options_from(state)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    if table.modules[_CLASSIFIER][0] is None:  # it will be fresh
        options = dataclasses.replace(options, num_classes=len(labels.names))
    return ModelSpec(table.network, options)


def _save(out: pathlib.Path, variables: Variables, metadata: RunMetadata) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(Checkpoints(out)) as checkpoints:
            if any(checkpoints.step(name) is not None for name in CHECKPOINTS):
                raise UserError(f"{out} holds a checkpoint already; give another folder")
            checkpoints.save("best", 0, {"model": jax.tree.map(jnp.asarray, variables)}, metadata)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}); give another folder") from error


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
