"""The weight table of torchvision's ResNets, from which MANet, TIN and GC-TSM start."""

import re

from manet_jax.models.manet import MANetOptions
from manet_jax.pretrained.resnet import UNUSED, block_name, find_depth, find_rows, torchvision_backbone
from manet_jax.pretrained.table import Modules, State, WeightTable, heads

_MODULES: Modules = {
    **torchvision_backbone(""),
    "blocks.*.se.squeeze": (None, "OI"),
    "blocks.*.se.excite": (None, "OI"),
    **heads(None),
}


def _options_from(state: State) -> MANetOptions:
    return MANetOptions(embedding_dim=300, depth=find_depth(state), width=find_rows(state, "bn1", 64))


TABLE = WeightTable(
    title="a torchvision ResNet",
    network="manet",
    modules=_MODULES,
    unused={"fc (ImageNet's classes)": r"^fc\.(weight|bias)$", **UNUSED},
    example="layer1.0.conv1.weight",
    recognise=lambda state: sum(bool(re.match(r"(conv1|bn1|fc|layer\d+\.\d+)\.", name)) for name in state),
    options_from=_options_from,
    numbering=block_name,
)
