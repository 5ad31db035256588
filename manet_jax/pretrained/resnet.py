"""The names that the weight tables of ResNets have in common."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from manet_jax.models.i3d import I3DOptions
from manet_jax.models.resnet import STAGES, ResNetOptions
from manet_jax.models.slowfast import SlowFastOptions
from manet_jax.pretrained.table import Modules, State, WeightTable

UNUSED = {"num_batches_tracked": r"\.num_batches_tracked$"}

_RANKS = {"OIHW": 4, "OI11": 4, "OIT": 3, "OIT11": 5, "OITHW": 5, "OI": 2}  # of the layouts of weights


def mmaction2_backbone(conv1: str) -> Modules:
    """The names of mmaction2, with that of a block's first convolution, which may be wrapped."""
    return {
        "stem.conv": ("backbone.conv1.conv", "OIHW"),
        "stem.bn": ("backbone.conv1.bn", "same"),
        "blocks.*.conv1.conv": (f"backbone.layer*.{conv1}", "OI11"),
        "blocks.*.conv1.bn": ("backbone.layer*.conv1.bn", "same"),
        "blocks.*.conv2.conv": ("backbone.layer*.conv2.conv", "OIHW"),
        "blocks.*.conv2.bn": ("backbone.layer*.conv2.bn", "same"),
        "blocks.*.conv3.conv": ("backbone.layer*.conv3.conv", "OI11"),
        "blocks.*.conv3.bn": ("backbone.layer*.conv3.bn", "same"),
        "blocks.*.shortcut.conv": ("backbone.layer*.downsample.conv", "OI11"),
        "blocks.*.shortcut.bn": ("backbone.layer*.downsample.bn", "same"),
    }


def mmaction2_clips_backbone(ours: str, theirs: str) -> Modules:
    """The names of mmaction2 for a ResNet over clips, by what stands in front of the names here and there."""
    return {
        f"{ours}stem.conv": (f"{theirs}conv1.conv", "OITHW"),
        f"{ours}stem.bn": (f"{theirs}conv1.bn", "same"),
        f"{ours}blocks.*.conv1.conv": (f"{theirs}layer*.conv1.conv", "OITHW"),
        f"{ours}blocks.*.conv1.bn": (f"{theirs}layer*.conv1.bn", "same"),
        f"{ours}blocks.*.conv2.conv": (f"{theirs}layer*.conv2.conv", "OITHW"),
        f"{ours}blocks.*.conv2.bn": (f"{theirs}layer*.conv2.bn", "same"),
        f"{ours}blocks.*.conv3.conv": (f"{theirs}layer*.conv3.conv", "OITHW"),
        f"{ours}blocks.*.conv3.bn": (f"{theirs}layer*.conv3.bn", "same"),
        f"{ours}blocks.*.shortcut.conv": (f"{theirs}layer*.downsample.conv", "OITHW"),
        f"{ours}blocks.*.shortcut.bn": (f"{theirs}layer*.downsample.bn", "same"),
    }


def torchvision_backbone(prefix: str) -> Modules:
    """The names of torchvision, with what stands in front of them."""
    return {
        "stem.conv": (f"{prefix}conv1", "OIHW"),
        "stem.bn": (f"{prefix}bn1", "same"),
        "blocks.*.conv1.conv": (f"{prefix}layer*.conv1", "OI11"),
        "blocks.*.conv1.bn": (f"{prefix}layer*.bn1", "same"),
        "blocks.*.conv2.conv": (f"{prefix}layer*.conv2", "OIHW"),
        "blocks.*.conv2.bn": (f"{prefix}layer*.bn2", "same"),
        "blocks.*.conv3.conv": (f"{prefix}layer*.conv3", "OI11"),
        "blocks.*.conv3.bn": (f"{prefix}layer*.bn3", "same"),
        "blocks.*.shortcut.conv": (f"{prefix}layer*.downsample.0", "OI11"),
        "blocks.*.shortcut.bn": (f"{prefix}layer*.downsample.1", "same"),
    }


def resnet_table(modules: Modules, **fields: Any) -> WeightTable:
    """The weight table of a ResNet, which is recognised by the names of its modules; `fields` are the others."""
    unused = {**fields.pop("unused", {}), **UNUSED}
    return WeightTable(modules=modules, unused=unused, recognise=count_names(modules), numbering=block_name, **fields)


def count_names(modules: Mapping[str, tuple[str | None, str]]) -> Callable[[State], int]:
    """For `WeightTable.recognise`: counts a file's names that are those of some modules, with as many dimensions.

    A network whose names are another's as well has fewer in the other's file, or weights of other dimensions.
    """
    rules = {
        re.compile(re.escape(name).replace(r"\*", r"\d+\.\d+") + r"\.(\w+)"): _RANKS.get(layout, 1)
        for name, layout in modules.values()
        if name is not None
    }

    def is_known(name: str, rank: int) -> bool:
        found = ((match[1], weight_rank) for rule, weight_rank in rules.items() if (match := rule.fullmatch(name)))
        return any(rank == (weight_rank if variable == "weight" else 1) for variable, weight_rank in found)

    return lambda state: sum(is_known(name, tensor.ndim) for name, tensor in state.items())


def block_name(options: ResNetOptions | I3DOptions | SlowFastOptions, number: int) -> str:
    """The stage and the number in it, both of PyTorch's ResNets, of our block of a number: "2.0" after stage 1."""
    names = [f"{stage + 1}.{i}" for stage, count in enumerate(STAGES[options.depth]) for i in range(count)]
    return names[number]


def find_depth(names: Iterable[str]) -> int:
    """The depth of a ResNet by the names of its tensors.

    Raises:
      ValueError: there is no ResNet of that many blocks here.
    """
    # By the third stage; a block has several tensors, as a single name may be misspelt.
    blocks = [found[1] for name in names if (found := re.search(r"\blayer3\.(\d+)\.", name))]
    count = sum(blocks.count(number) > 3 for number in set(blocks))
    depths = {stages[2]: depth for depth, stages in STAGES.items() if len(stages) > 2}
    if count not in depths:
        known = ", ".join(f"{depth} ({number})" for number, depth in depths.items())
        raise ValueError(f"its third stage has {count} blocks; depths that can be converted: {known}")
    return depths[count]


def find_rows(state: State, module: str, default: int) -> int:
    """The number of rows of a module's bias or weight: of either, as one of them may be what is wrong with a file."""
    sizes = [state[f"{module}.{name}"].shape[:1] for name in ("bias", "weight") if f"{module}.{name}" in state]
    return sizes[0][0] if sizes and sizes[0] else default


def find_embedding_dim(state: State, prefix: str = "cls_head.") -> int:
    """The dimensions of a file's joint embedding, with what stands in front of its names; 0 where it has none."""
    if not any(name.startswith(f"{prefix}fc_emb") for name in state):
        return 0
    return find_rows(state, f"{prefix}fc_emb_t", find_rows(state, f"{prefix}fc_emb", 300))


def mmaction2_options(state: State, backbone: str = "backbone.") -> dict[str, Any]:
    """The options that mmaction2's ResNets have in common, of a file whose backbone begins so."""
    return {
        "num_classes": find_rows(state, "cls_head.fc_cls", 52),
        "embedding_dim": find_embedding_dim(state),
        "depth": find_depth(state),
        "width": find_rows(state, f"{backbone}conv1.bn", 64),
    }
