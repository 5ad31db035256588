"""Reads PyTorch's files without running any of their content, and writes .safetensors files."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically

_NOTES = "manet_jax"  # the entry of a .safetensors file's metadata with what the tensors do not hold
_STATE_KEYS = ("state_dict", "model_state", "model")  # under which `torch.save`d dicts hold the tensors


def read(path: pathlib.Path) -> tuple[dict[str, Float[np.ndarray, "..."]], dict[str, Any]]:
    """Reads a file's tensors.

    Args:
      path: a .safetensors file; anything else is read as one that `torch.save` wrote, of a state dict or of a dict
        that has one as `state_dict`, `model_state` or `model`.

    Returns:
      The tensors by name, without a leading `module.`, and the notes that `write` put beside them.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file, or add --to_pytorch to write the model of a workdir")
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
    if not isinstance(notes, dict):
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
    if isinstance(content, Mapping):
        content = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
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


def write(path: pathlib.Path, state: dict[str, np.ndarray], notes: dict[str, Any]) -> None:
    """Writes tensors, and notes beside them, as a .safetensors file.

    Raises:
      UserError: it cannot be written.
    """
    content = safetensors.numpy.save(state, {"format": "pt", _NOTES: json.dumps(notes)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
