"""Converts weights from PyTorch, and back.

python -m manet_jax.pretrained manet.pth runs/released     the released MANet, to evaluate or fine-tune
python -m manet_jax.pretrained resnet50.pth runs/imagenet  torchvision's ResNet-50 or -101, to start training from
python -m manet_jax.pretrained --to_pytorch runs/first first.safetensors
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, PyTree

from manet_jax import checkpoint as checkpoint_lib
from manet_jax import models, nets
from tfds_ma52.errors import UserError
from tfds_ma52.folder import report
from tfds_ma52.labels import MA52, Labels, read_labels

# Our module: its name in the release, its name in torchvision's ResNet (None: it has no such module), and PyTorch's
# layout of its weight. {} is a block, layer<stage>.<number>.
_MODULES = {
    "stem.conv": ("backbone.conv1.conv", "conv1", "OIHW"),
    "stem.bn": ("backbone.conv1.bn", "bn1", "C"),
    "blocks.se.squeeze": ("backbone.{}.conv1.conv.fcce.0", None, "OI"),
    "blocks.se.excite": ("backbone.{}.conv1.conv.fcce.2", None, "OI"),
    "blocks.conv1.conv": ("backbone.{}.conv1.conv.net", "{}.conv1", "OI11"),
    "blocks.conv1.bn": ("backbone.{}.conv1.bn", "{}.bn1", "C"),
    "blocks.conv2.conv": ("backbone.{}.conv2.conv", "{}.conv2", "OIHW"),
    "blocks.conv2.bn": ("backbone.{}.conv2.bn", "{}.bn2", "C"),
    "blocks.conv3.conv": ("backbone.{}.conv3.conv", "{}.conv3", "OI11"),
    "blocks.conv3.bn": ("backbone.{}.conv3.bn", "{}.bn3", "C"),
    "blocks.shortcut.conv": ("backbone.{}.downsample.conv", "{}.downsample.0", "OI11"),
    "blocks.shortcut.bn": ("backbone.{}.downsample.bn", "{}.downsample.1", "C"),
    "classifier": ("cls_head.fc_cls", None, "OI"),
    "embedding_in": ("cls_head.fc_emb", None, "OI"),
    "embedding_out": ("cls_head.fc_emb_t", None, "OI"),
}
# Our variable of a module: PyTorch's name.
_VARIABLES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_TO_OURS = {
    "OIHW": lambda weight: weight.transpose(2, 3, 1, 0),
    "OI11": lambda weight: weight[:, :, 0, 0].T,  # a 1x1 convolution; ours is a matrix product
    "OI": lambda weight: weight.T,
    "C": lambda vector: vector,
}
_TO_PYTORCH = {
    "OIHW": lambda kernel: kernel.transpose(3, 2, 0, 1),
    "OI11": lambda kernel: kernel.T[:, :, None, None],
    "OI": lambda kernel: kernel.T,
    "C": lambda vector: vector,
}
_RELEASE, _TORCHVISION = 0, 1  # columns of the table
_FAMILIES = ("the released MANet", "a torchvision ResNet")
# What no computation of ours needs. The release's action_p2_* take part in none of its own either.
_UNUSED = (
    {"action_p2_*": r"\.conv1\.conv\.action_p2_\w+\.weight$", "num_batches_tracked": r"\.num_batches_tracked$"},
    {"fc (ImageNet's classes)": r"^fc\.(weight|bias)$", "num_batches_tracked": r"\.num_batches_tracked$"},
)
# The entry of a .safetensors file's metadata that says what the weights do not, and what it holds.
_NOTES, _NOTED = "manet_jax", {"model": dict, "labels": dict, "config": dict, "fresh": list}


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A variable of ours and the tensor of a PyTorch file that holds it.

    Attributes:
      path: of our variable, as `checkpoint.flatten` has it.
      name: of the tensor; None where the file has none.
      layout: see `_MODULES`.
      shape: of the tensor.
    """

    path: str
    name: str | None
    layout: str
    shape: tuple[int, ...]


def convert(source: str | pathlib.Path, out: str | pathlib.Path, label_names: str = "") -> dict[str, Any]:
    """Writes the weights of a PyTorch file as a checkpoint of ours.

    Args:
      source: the released MANet or a torchvision ResNet, as a .safetensors file or one that `torch.save` wrote.
      out: a workdir for `load_model`, `--mode=evaluate` and `config.init_from`.
      label_names: a file that names the classes (`id<TAB>name` a line), if they are not MA-52's.

    Returns:
      What the checkpoint says of itself; its `source` counts the tensors of each kind.

    Raises:
      UserError: the file cannot be read or holds other tensors than it should, all of which are named; `out` is taken.
    """
    source, out = pathlib.Path(source).expanduser(), _new_path(out)
    state, notes = read_state_dict(source)
    family = _family(state, source)
    labels = _labels(notes, label_names)
    options = notes["model"] if notes else _model_options(state, family, source)
    if family == _TORCHVISION:
        options["num_classes"] = len(labels.names)  # of a fresh classifier
    title = "a MANet of this project" if notes else _FAMILIES[family]
    tensors = _tensors(options, family)
    if len(labels.names) != options["num_classes"]:
        raise UserError(
            f"the classifier has {options['num_classes']} classes, but {label_names or 'MA-52'} has "
            f"{len(labels.names)}: name a file with an '<id><TAB><name>' line for each of them with --label_names"
        )
    unused = {title: [name for name in state if re.search(rule, name)] for title, rule in _UNUSED[family].items()}
    _check(state, tensors, unused, f"{source} is not quite {title}")
    named = {tensor.path: tensor for tensor in tensors if tensor.name is not None}
    fresh = sorted(tensor.path for tensor in tensors if tensor.name is None)
    variables = nets.create_variables(options, seed=0) if fresh else nets.abstract_variables(options)[1]
    taken = {path: _TO_OURS[tensor.layout](state[tensor.name]) for path, tensor in named.items()}
    metadata = {
        "format": checkpoint_lib.FORMAT,
        "config": notes["config"] if notes else _known_config(options, short_side=256, crop_size=224),
        "model": options,
        "labels": dataclasses.asdict(labels),
        "versions": checkpoint_lib.versions(),
        "source": {
            "file": source.name,
            "sha256": _sha256(source),
            "holds": title,
            "tensors": len(taken),
            "unused": {title: len(names) for title, names in unused.items() if names},
        },
        "fresh": notes["fresh"] if notes else fresh,
    }
    _save(out, checkpoint_lib.replace(variables, taken), metadata)
    return metadata


def to_pytorch(workdir: str | pathlib.Path, out: str | pathlib.Path, kind: str = "best") -> int:
    """Writes the model of a workdir as a .safetensors file with the release's names and layouts.

    The released code loads a model of its size (52 classes, 300-dimensional label vectors) with `strict=False`, for
    want of its unused `action_p2_*`. `convert` reads every model back, bit for bit, with its options and labels, which
    the file's metadata hold.

    Returns:
      The number of tensors.

    Raises:
      UserError: there is no such checkpoint, or the file cannot be written.
    """
    out = _new_path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: only .safetensors files are written; give it that ending")
    _, variables, metadata = checkpoint_lib.read_model(workdir, kind)
    if "form" in metadata["model"]:
        raise UserError(f"{workdir} recognises emotions, which PyTorch's MANet does not: name a run of micro-actions")
    state = to_state_dict(variables, metadata["model"])
    # Of the config only what the model needs: the rest holds paths of this machine.
    view = {name: metadata["config"]["data"][name] for name in ("short_side", "crop_size")}
    notes = {"model": metadata["model"], "labels": metadata["labels"], "fresh": metadata.get("fresh", [])}
    notes["config"] = _known_config(metadata["model"], **view)
    content = safetensors.numpy.save(state, {"format": "pt", _NOTES: json.dumps(notes)})
    partial = out.with_name(out.name + ".partial")  # a file with its final name is whole
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(out)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"{out} cannot be written ({error.strerror or error})") from error
    return len(state)


def _new_path(path: str | pathlib.Path) -> pathlib.Path:
    if not str(path):
        raise UserError("the name of what to write is empty; give a path")
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        raise UserError(f"{path} exists already; give another name, or remove it first")
    return path


def to_state_dict(variables: dict[str, PyTree], options: dict[str, Any]) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns the variables of `models.MANet(**options)` with the release's names and PyTorch's layouts."""
    values = checkpoint_lib.flatten(jax.device_get(variables))
    return {
        tensor.name: np.ascontiguousarray(_TO_PYTORCH[tensor.layout](values[tensor.path]))
        for tensor in _tensors(options, _RELEASE)
    }


def read_state_dict(path: pathlib.Path) -> tuple[dict[str, Float[np.ndarray, "..."]], dict[str, Any]]:
    """Reads a PyTorch file's tensors without running any of its content.

    Args:
      path: a .safetensors file; anything else is taken for one that `torch.save` wrote, of a state dict or of a dict
        that has one as `state_dict`.

    Returns:
      The tensors by name, without a leading `module.`, and what `to_pytorch` noted beside them.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file, or add --to_pytorch to write the model of a workdir")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        state, notes = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_torch(path), {})
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    names = [name.removeprefix("module.") for name in state]
    if len(set(names)) < len(names):
        raise UserError(f"{path} has tensors both with and without 'module.' in front of the same name: keep one kind")
    return dict(zip(names, state.values(), strict=True)), notes


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, "np") as file:
            notes = json.loads((file.metadata() or {}).get(_NOTES, "{}"))
            state = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118, no dict
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} is not a whole .safetensors file ({error})") from error
    except (AttributeError, TypeError) as error:  # number formats that NumPy lacks
        raise UserError(f"{path} holds numbers of a kind that cannot be read ({error}): save it as float32") from error
    if notes and not all(isinstance(notes.get(name), kind) for name, kind in _NOTED.items()):
        raise UserError(f"{path}: the notes in its metadata are not those that --to_pytorch writes")
    return state, notes


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} needs PyTorch to be read: pip install -e '.[convert]' (or pip install torch), "
            "or save the weights as .safetensors"
        ) from error
    # mmcv notes the best score beside the weights as a NumPy number: NumPy 1 and 2 have two names for what makes it.
    scalar = np._core.multiarray.scalar
    kinds = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    try:
        with torch.serialization.safe_globals([np.dtype, *kinds, (scalar, "numpy.core.multiarray.scalar"), scalar]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds a {found[1]}" if found else "it is damaged, or of another kind"
        raise UserError(
            f"{path} is not a plain file of PyTorch weights: {reason}; nothing of it was run. Save the weights alone, "
            "with torch.save(model.state_dict(), FILE)"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    others = [
        str(name)
        for name, value in content.items()
        if not isinstance(value, torch.Tensor) or value.is_complex() or value.is_quantized or value.is_meta
    ]
    if others:
        raise UserError(f"{path} holds things that are no tensors of real numbers: {', '.join(others[:10])}")
    return {str(name): value.detach().to_dense().float().numpy() for name, value in content.items()}


def _family(state: Mapping[str, np.ndarray], source: pathlib.Path) -> int:
    released = sum(name.startswith(("backbone.", "cls_head.")) for name in state)
    others = sum(bool(re.match(r"(conv1|bn1|fc|layer\d+\.\d+)\.", name)) for name in state)
    if not released and not others:
        examples = ", ".join(list(state)[:3]) or "none at all"
        raise UserError(
            f"{source} holds neither {_FAMILIES[0]} (backbone.layer1.0.conv1.conv.net.weight, ...) nor {_FAMILIES[1]} "
            f"(layer1.0.conv1.weight, ...); its names: {examples}"
        )
    return int(others > released)


def _model_options(state: Mapping[str, np.ndarray], family: int, source: pathlib.Path) -> dict[str, Any]:
    """Arguments of `models.MANet` that fit the tensors best; what weights do not show is as released."""

    def rows(name: str, default: int) -> int:
        # Two tensors tell: one of them may be what is wrong with the file.
        sizes = [state[f"{name}.{kind}"].shape[:1] for kind in ("bias", "weight") if f"{name}.{kind}" in state]
        return sizes[0][0] if sizes and sizes[0] else default

    # The released blocks' unused layers tell a MANet even where others are missing.
    whole = family == _TORCHVISION or any(".action_p2_" in name for name in state)
    has_embedding = whole or any(name.startswith("cls_head.fc_emb") for name in state)
    return {
        "num_classes": rows("cls_head.fc_cls", len(MA52.names)),
        "embedding_dim": rows("cls_head.fc_emb_t", rows("cls_head.fc_emb", 300)) if has_embedding else 0,
        "depth": _depth(state, source),
        "width": rows(_MODULES["stem.bn"][family], 64),
        "num_segments": 8,
        "shift": True,
        "shift_div": 8,
        "se": whole or any(".fcce." in name for name in state),
        "dropout": 0.5,
        "dtype": "float32",
    }


def _depth(state: Mapping[str, np.ndarray], source: pathlib.Path) -> int:
    # The third stage tells; a block is one with a few tensors, as a single name may be misspelt.
    blocks = [found[1] for name in state if (found := re.search(r"\blayer3\.(\d+)\.", name))]
    count = sum(blocks.count(number) > 3 for number in set(blocks))
    depths = {stages[2]: depth for depth, stages in models.STAGES.items()}
    if count not in depths:
        known = ", ".join(f"{depth} ({blocks})" for blocks, depth in depths.items())
        raise UserError(f"{source}: its third stage has {count} blocks; depths that can be converted: {known}")
    return depths[count]


def _tensors(options: dict[str, Any], family: int) -> list[_Tensor]:
    """The variables of a model, each with its tensor in a file of a family."""
    try:
        _, variables = nets.abstract_variables(options)
        stages = models.STAGES[options["depth"]]
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise UserError(f"the file's notes describe a model that this version cannot make ({error})") from error
    blocks = [f"layer{stage + 1}.{block}" for stage, count in enumerate(stages) for block in range(count)]
    return [_tensor(path, leaf.shape, blocks, family) for path, leaf in checkpoint_lib.flatten(variables).items()]


def _tensor(path: str, shape: tuple[int, ...], blocks: list[str], family: int) -> _Tensor:
    _, *module, variable = path.split(".")
    numbers = [int(part) for part in module if part.isdecimal()]
    row = _MODULES[".".join(part for part in module if not part.isdecimal())]
    name = row[family] and f"{row[family]}.{_VARIABLES[variable]}".format(*(blocks[number] for number in numbers))
    layout = row[2] if variable == "kernel" else "C"
    return _Tensor(path, name, layout, _TO_PYTORCH[layout](np.broadcast_to(np.float32(0), shape)).shape)


def _check(
    state: Mapping[str, np.ndarray], tensors: list[_Tensor], unused: Mapping[str, list[str]], title: str
) -> None:
    """Reports all that is wrong with a file's tensors at once."""
    expected = {tensor.name: tensor.shape for tensor in tensors if tensor.name is not None}
    known = expected.keys() | {name for names in unused.values() for name in names}
    problems = [f"unknown: {name} {list(state[name].shape)}" for name in sorted(state.keys() - known)]
    problems += [f"missing: {name} {list(expected[name])}" for name in sorted(expected.keys() - state.keys())]
    for name in sorted(expected.keys() & state.keys()):
        if state[name].shape != expected[name]:
            problems.append(f"shape: {name} is {list(state[name].shape)}, should be {list(expected[name])}")
        elif not np.isfinite(state[name]).all():
            problems.append(f"values: {name} has some that are not finite numbers")
    if problems:
        raise UserError(report(title, problems))


def _labels(notes: dict[str, Any], label_names: str) -> Labels:
    if label_names:
        return read_labels(pathlib.Path(label_names).expanduser())
    return checkpoint_lib.labels_of(notes) if notes else MA52


def _known_config(options: dict[str, Any], **view: int) -> dict[str, Any]:
    """What is known of the config of a model that comes from a file: the network, and how its frames are cut."""
    network = {name: value for name, value in options.items() if name not in ("num_classes", "embedding_dim")}
    return {"model": network | {"embedding": options.get("embedding_dim", 0) > 0}, "data": view}


def _save(out: pathlib.Path, variables: PyTree, metadata: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(checkpoint_lib.Checkpoints(out)) as checkpoints:
            if any(checkpoints.step(kind) is not None for kind in checkpoint_lib.KINDS):
                raise UserError(f"{out} holds a checkpoint already; name another folder")
            checkpoints.save("best", 0, {"model": jax.tree.map(jnp.asarray, variables)}, metadata)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}); name another folder") from error


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _summary(out: str, metadata: dict[str, Any]) -> str:
    source, options, fresh = metadata["source"], metadata["model"], len(metadata["fresh"])
    parts = {"squeeze-and-excitation": options.get("se", True), "joint embedding": options.get("embedding_dim", 0)}
    network = [f"depth {options.get('depth', 50)}", f"{options['num_classes']} classes"]
    network += [part if there else f"no {part}" for part, there in parts.items()]
    assumed = (
        f"{options.get('num_segments', 8)} frames, {'with' if options.get('shift', True) else 'no'} temporal shift"
    )
    lines = [
        f"{out}: {source['holds']}",
        f"{source['tensors']} tensors taken: {', '.join(network)}; {assumed}",
        *(f"{count} unused left out: {title}" for title, count in source["unused"].items()),
    ]
    if fresh:
        lines.append(f"{fresh} variables are fresh, random: train from it with --config.init_from={out}")
    else:
        lines.append(f"use it with load_model, --mode=evaluate --workdir {out} or --config.init_from={out}")
    return "\n  ".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a .pth or .safetensors file; with --to_pytorch a workdir")
    parser.add_argument("out", help="a new workdir; with --to_pytorch a .safetensors file")
    parser.add_argument("--to_pytorch", action="store_true", help="write a workdir's model with the release's names")
    parser.add_argument("--checkpoint", choices=checkpoint_lib.KINDS, help="which to write (default: best)")
    parser.add_argument("--label_names", default="", help="the classes, if not MA-52's: '<id><TAB><name>' a line")
    arguments = parser.parse_args(argv)
    if arguments.to_pytorch and arguments.label_names:
        parser.error("--label_names has no use with --to_pytorch: a workdir knows its classes")
    if arguments.checkpoint and not arguments.to_pytorch:
        parser.error("--checkpoint is for --to_pytorch only")
    try:
        if arguments.to_pytorch:
            count = to_pytorch(arguments.source, arguments.out, arguments.checkpoint or "best")
            print(f"{arguments.out}: {count} tensors with the release's names, without its unused action_p2_*")
        else:
            print(_summary(arguments.out, convert(arguments.source, arguments.out, arguments.label_names)))
    except UserError as error:
        print(f"manet_jax: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
