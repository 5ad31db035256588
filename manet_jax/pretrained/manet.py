"""The weight table of the released MANet."""

import re
from collections.abc import Iterable

from manet_jax.models.manet import MANetOptions
from manet_jax.models.resnet import STAGES
from manet_jax.pretrained.table import State, WeightTable

_MODULES: dict[str, tuple[str | None, str]] = {
    "stem.conv": ("backbone.conv1.conv", "OIHW"),
    "stem.bn": ("backbone.conv1.bn", "same"),
    "blocks.*.se.squeeze": ("backbone.layer*.conv1.conv.fcce.0", "OI"),
    "blocks.*.se.excite": ("backbone.layer*.conv1.conv.fcce.2", "OI"),
    "blocks.*.conv1.conv": ("backbone.layer*.conv1.conv.net", "OI11"),
    "blocks.*.conv1.bn": ("backbone.layer*.conv1.bn", "same"),
    "blocks.*.conv2.conv": ("backbone.layer*.conv2.conv", "OIHW"),
    "blocks.*.conv2.bn": ("backbone.layer*.conv2.bn", "same"),
    "blocks.*.conv3.conv": ("backbone.layer*.conv3.conv", "OI11"),
    "blocks.*.conv3.bn": ("backbone.layer*.conv3.bn", "same"),
    "blocks.*.shortcut.conv": ("backbone.layer*.downsample.conv", "OI11"),
    "blocks.*.shortcut.bn": ("backbone.layer*.downsample.bn", "same"),
    "heads.classifier.linear": ("cls_head.fc_cls", "OI"),
    "heads.joint_embedding.hidden": ("cls_head.fc_emb", "OI"),
    "heads.joint_embedding.out": ("cls_head.fc_emb_t", "OI"),
}


def block_name(options: MANetOptions, number: int) -> str:
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


def _options_from(state: State) -> MANetOptions:
    # The released blocks' unused layers give a MANet away even where others are missing.
    whole = any(".action_p2_" in name for name in state)
    has_embedding = whole or any(name.startswith("cls_head.fc_emb") for name in state)
    return MANetOptions(
        num_classes=find_rows(state, "cls_head.fc_cls", 52),
        embedding_dim=find_rows(state, "cls_head.fc_emb_t", find_rows(state, "cls_head.fc_emb", 300))
        if has_embedding
        else 0,
        depth=find_depth(state),
        width=find_rows(state, "backbone.conv1.bn", 64),
        se=whole or any(".fcce." in name for name in state),
    )


TABLE = WeightTable(
    title="the released MANet",
    network="manet",
    modules=_MODULES,
    # The release's action_p2_* take part in none of its own computations either.
    unused={
        "action_p2_*": r"\.conv1\.conv\.action_p2_\w+\.weight$",
        "num_batches_tracked": r"\.num_batches_tracked$",
    },
    example="backbone.layer1.0.conv1.conv.net.weight",
    recognise=lambda state: sum(name.startswith(("backbone.", "cls_head.")) for name in state),
    options_from=_options_from,
    numbering=block_name,
)
