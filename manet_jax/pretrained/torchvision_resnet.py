"""The weight table of torchvision's ResNets, from which MANet starts."""

import re

from manet_jax.models.manet import MANetOptions
from manet_jax.pretrained.manet import block_name, find_depth, find_rows
from manet_jax.pretrained.table import State, WeightTable

_MODULES: dict[str, tuple[str | None, str]] = {
    "stem.conv": ("conv1", "OIHW"),
    "stem.bn": ("bn1", "same"),
    "blocks.*.se.squeeze": (None, "OI"),
    "blocks.*.se.excite": (None, "OI"),
    "blocks.*.conv1.conv": ("layer*.conv1", "OI11"),
    "blocks.*.conv1.bn": ("layer*.bn1", "same"),
    "blocks.*.conv2.conv": ("layer*.conv2", "OIHW"),
    "blocks.*.conv2.bn": ("layer*.bn2", "same"),
    "blocks.*.conv3.conv": ("layer*.conv3", "OI11"),
    "blocks.*.conv3.bn": ("layer*.bn3", "same"),
    "blocks.*.shortcut.conv": ("layer*.downsample.0", "OI11"),
    "blocks.*.shortcut.bn": ("layer*.downsample.1", "same"),
    "heads.classifier.linear": (None, "OI"),
    "heads.joint_embedding.hidden": (None, "OI"),
    "heads.joint_embedding.out": (None, "OI"),
}


def _options_from(state: State) -> MANetOptions:
    return MANetOptions(embedding_dim=300, depth=find_depth(state), width=find_rows(state, "bn1", 64))


TABLE = WeightTable(
    title="a torchvision ResNet",
    network="manet",
    modules=_MODULES,
    unused={"fc (ImageNet's classes)": r"^fc\.(weight|bias)$", "num_batches_tracked": r"\.num_batches_tracked$"},
    example="layer1.0.conv1.weight",
    recognise=lambda state: sum(bool(re.match(r"(conv1|bn1|fc|layer\d+\.\d+)\.", name)) for name in state),
    options_from=_options_from,
    numbering=block_name,
)
