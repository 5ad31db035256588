"""The engine of weight tables: from a network's variables to the tensors of PyTorch files, and back."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from manet_jax.models import ModelSpec, NetworkOptions
from manet_jax.models.variables import Variables, abstract_variables, flatten
from tfds_ma52.errors import UserError, report

State = Mapping[str, Float[np.ndarray, "..."]]  # tensors by name
Modules = dict[str, tuple[str | None, str]]  # see `WeightTable`


def heads(classifier: str | None, hidden: str | None = None, out: str | None = None) -> Modules:
    """The modules of a network's heads by their names: the classifier and the joint embedding's two layers."""
    return {
        "heads.classifier.linear": (classifier, "OI"),
        "heads.joint_embedding.hidden": (hidden, "OI"),
        "heads.joint_embedding.out": (out, "OI"),
    }


MMACTION2_HEADS = heads("cls_head.fc_cls", "cls_head.fc_emb", "cls_head.fc_emb_t")


def _inflate(num_frames: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda weight: np.repeat(weight.transpose(2, 3, 1, 0)[None] / num_frames, num_frames, axis=0)


def _deflate(kernel: np.ndarray) -> np.ndarray:
    # But for rounding: several weights have the same quotient. Such files are read and not written.
    return kernel[0].transpose(3, 2, 0, 1) * len(kernel)


# PyTorch's name of a variable of a module.
_VARIABLES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_TO_OURS = {
    "OIHW": lambda weight: weight.transpose(2, 3, 1, 0),
    "OITHW": lambda weight: weight.transpose(2, 3, 4, 1, 0),
    "OI11": lambda weight: weight[:, :, 0, 0].T,  # a 1x1 convolution; ours is a matrix product
    "OIT": lambda weight: weight.transpose(2, 1, 0),
    "OIT11": lambda weight: weight[..., 0, 0].transpose(2, 1, 0),
    "OI111": lambda weight: weight[:, :, 0, 0, 0].T,
    "OI": lambda weight: weight.T,
    # Of images; ours is of clips, and repeats it over so many frames, divided by their number.
    **{f"OI{num_frames}HW": _inflate(num_frames) for num_frames in (1, 3, 5)},
    "OI-HW": lambda weight: weight.transpose(2, 3, 1, 0)[None],  # of images; ours is of clips, one frame long
    "rows": lambda table: table,  # a table of rows, which in ours have several axes
    "same": lambda values: values,
}
_TO_PYTORCH = {
    "OIHW": lambda kernel: kernel.transpose(3, 2, 0, 1),
    "OITHW": lambda kernel: kernel.transpose(4, 3, 0, 1, 2),
    "OI11": lambda kernel: kernel.T[:, :, None, None],
    "OIT": lambda kernel: kernel.transpose(2, 1, 0),
    "OIT11": lambda kernel: kernel.transpose(2, 1, 0)[..., None, None],
    "OI111": lambda kernel: kernel.T[:, :, None, None, None],
    "OI": lambda kernel: kernel.T,
    **{f"OI{num_frames}HW": _deflate for num_frames in (1, 3, 5)},
    "OI-HW": lambda kernel: kernel[0].transpose(3, 2, 0, 1),
    "rows": lambda table: table.reshape(-1, table.shape[-1]),
    "same": lambda values: values,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightTable:
    """The names of a network's variables in a family of PyTorch files.

    Attributes:
      title: of the family.
      network: its name in `MODELS`.
      modules: for each of our modules, the file's and PyTorch's layout of its weight ("same" where there is none to
        change); a name of None stands for a module that the files lack, whose variables stay fresh. A `*` stands for
        the number of a block; `{a,b}` for tensors whose rows, one's after the other's, are the variable's.
      parameters: likewise for variables that are no module's.
      unused: patterns of the names of tensors that no computation needs, by a title.
      example: a name of such a file, for errors.
      recognise: how many of a file's names look like this family's.
      options_from: the options that fit a file's tensors best; raises ValueError where none do.
      numbering: from the options and our number of a block to the file's.
      fits: whether networks of some options have the family's names; the first table that fits writes a network.
      written_prefix: in front of all names in the family's files; reading drops it, writing adds it.
    """

    title: str
    network: str
    modules: Mapping[str, tuple[str | None, str]]
    parameters: Mapping[str, tuple[str | None, str]] = dataclasses.field(default_factory=dict)
    unused: Mapping[str, str]
    example: str
    recognise: Callable[[State], int]
    options_from: Callable[[State], NetworkOptions]
    numbering: Callable[[Any, int], str] = lambda options, number: str(number)
    fits: Callable[[Any], bool] = lambda options: True
    written_prefix: str = ""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A variable of ours and the tensor of a PyTorch file that holds it.

    Attributes:
      path: of our variable, see `variables.flatten`.
      name: of the tensor; None where the file has none.
      layout: of the tensor.
      shape: of the tensor.
      part: its number among the tensors that hold the variable, one's rows after the other's, and how many these are.
    """

    path: str
    name: str | None
    layout: str
    shape: tuple[int, ...]
    part: tuple[int, int] = (0, 1)

    def to_pytorch(self, value: np.ndarray) -> Float[np.ndarray, "..."]:
        """The file's tensor from our variable."""
        number, count = self.part
        return np.ascontiguousarray(np.split(_TO_PYTORCH[self.layout](value), count)[number])


def tensors_of(spec: ModelSpec, table: WeightTable) -> list[Tensor]:
    """The variables of a network, each with its tensor in a family's files, or with those that hold its parts."""
    _, abstract = abstract_variables(spec)
    return [each for path, leaf in flatten(abstract).items() for each in _tensors(path, leaf.shape, spec, table)]


def _tensors(path: str, shape: tuple[int, ...], spec: ModelSpec, table: WeightTable) -> list[Tensor]:
    _, *parts = path.split(".")
    numbers = [table.numbering(spec.options, int(part)) for part in parts if part.isdecimal()]
    *module, variable = ["*" if part.isdecimal() else part for part in parts]
    if ".".join([*module, variable]) in table.parameters:
        name, layout = table.parameters[".".join([*module, variable])]
    else:
        name, layout = table.modules[".".join(module)]
        name = name and f"{name}.{_VARIABLES[variable]}"
        layout = layout if variable == "kernel" else "same"
    for number in numbers:
        name = name and name.replace("*", number, 1)
    names = [name] if name is None else _expand(name)
    # Views of one number, whatever the size.
    parts = np.split(_TO_PYTORCH[layout](np.broadcast_to(np.float32(0), shape)), len(names))
    return [
        Tensor(path, name, layout, part.shape, (number, len(names)))
        for number, (name, part) in enumerate(zip(names, parts, strict=True))
    ]


def _expand(name: str) -> list[str]:
    """The names that one with alternatives stands for, as in a shell: "a.{b,c}.d" is a.b.d and a.c.d."""
    start, brace, rest = name.partition("{")
    alternatives, _, end = rest.partition("}")
    return [f"{start}{each}{end}" for each in alternatives.split(",")] if brace else [name]


def to_state_dict(variables: Variables, spec: ModelSpec, table: WeightTable) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns a network's variables with a family's names and PyTorch's layouts, without those that it lacks."""
    values = flatten(jax.device_get(variables))
    tensors = tensors_of(spec, table)
    return {tensor.name: tensor.to_pytorch(values[tensor.path]) for tensor in tensors if tensor.name is not None}


def to_variables(state: State, spec: ModelSpec, table: WeightTable, title: str) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns a file's tensors as variables of a network, by path, without those that its family lacks.

    Raises:
      UserError: see `check`.
    """
    tensors = [tensor for tensor in tensors_of(spec, table) if tensor.name is not None]
    check(state, tensors, find_unused(state, table), title)
    parts: dict[str, list[np.ndarray]] = {}
    for tensor in tensors:
        assert tensor.name is not None
        parts.setdefault(tensor.path, []).append(state[tensor.name])
    layouts = {tensor.path: tensor.layout for tensor in tensors}
    shapes = {path: leaf.shape for path, leaf in flatten(abstract_variables(spec)[1]).items()}
    return {
        path: _TO_OURS[layouts[path]](values[0] if len(values) == 1 else np.concatenate(values)).reshape(shapes[path])
        for path, values in parts.items()
    }


def recognise(state: State, tables: list[WeightTable], source: str) -> WeightTable:
    """Returns the table of the family that most of a file's names look like.

    Raises:
      UserError: they look like none.
    """
    counts = [table.recognise(state) for table in tables]
    if not any(counts):
        families = " nor ".join(f"{table.title} ({table.example}, ...)" for table in tables)
        examples = ", ".join(list(state)[:3]) or "none at all"
        raise UserError(f"{source} holds neither {families}; its names: {examples}")
    return tables[counts.index(max(counts))]


def find_unused(state: State, table: WeightTable) -> dict[str, list[str]]:
    """The names of a file's tensors that no computation needs, by their titles."""
    return {title: [name for name in state if re.search(rule, name)] for title, rule in table.unused.items()}


def check(state: State, tensors: list[Tensor], unused: Mapping[str, list[str]], title: str) -> None:
    """Reports all that is wrong with a file's tensors at once.

    Raises:
      UserError: a tensor is unknown, missing, of another shape, or holds values that are no finite numbers.
    """
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
