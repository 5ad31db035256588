"""The weight tables of mmaction2's C3D: of a whole network, and of a backbone that was trained on Sports-1M."""

import dataclasses
import re

from manet_jax.models.c3d import C3DOptions
from manet_jax.pretrained.resnet import find_embedding_dim, find_rows
from manet_jax.pretrained.table import MMACTION2_HEADS, Modules, State, WeightTable, heads

_CONVS = ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")


def _backbone(prefix: str) -> Modules:
    return {
        "convs.*": (f"{prefix}conv*.conv", "OITHW"),
        "fc6": (f"{prefix}fc6", "OI"),
        "fc7": (f"{prefix}fc7", "OI"),
    }


def _recognise(prefix: str, state: State) -> int:
    # Twice, as names of other families may begin alike.
    return 2 * len(state) if any(re.match(prefix + r"(conv\d[ab]\.conv|fc[67])\.", name) for name in state) else 0


def _options_from(state: State) -> C3DOptions:
    return C3DOptions(
        num_classes=find_rows(state, "cls_head.fc_cls", 52),
        embedding_dim=find_embedding_dim(state),
        width=find_rows(state, "backbone.conv1a.conv", find_rows(state, "conv1a.conv", 64)),
    )


TABLE = WeightTable(
    title="mmaction2's C3D",
    network="c3d",
    modules={**_backbone("backbone."), **MMACTION2_HEADS},
    unused={},
    example="backbone.conv1a.conv.weight",
    recognise=lambda state: _recognise(r"backbone\.", state),
    options_from=_options_from,
    numbering=lambda _, number: _CONVS[number],
)

SPORTS_1M = dataclasses.replace(
    TABLE,
    title="mmaction2's C3D of Sports-1M, without classes",
    modules={**_backbone(""), **heads(None)},
    unused={"fc8 (Sports-1M's classes)": r"^fc8\.(weight|bias)$"},
    example="conv1a.conv.weight",
    recognise=lambda state: _recognise("", state),
)
