"""The weight tables of mmaction2's C3D: of a whole network, and of a backbone that was trained on Sports-1M."""

import dataclasses
import re

from manet_jax.models.c3d import C3DOptions
from manet_jax.pretrained.i3d import HEADS, embedding_dim
from manet_jax.pretrained.manet import find_rows
from manet_jax.pretrained.table import State, WeightTable

_CONVS = ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")
_BACKBONE: dict[str, tuple[str | None, str]] = {
    "convs.*": ("conv*.conv", "OITHW"),
    "fc6": ("fc6", "OI"),
    "fc7": ("fc7", "OI"),
}


def _recognise(prefix: str, state: State) -> int:
    # Twice, as names of other families may begin alike.
    return 2 * len(state) if any(re.match(prefix + r"(conv\d[ab]\.conv|fc[67])\.", name) for name in state) else 0


def _options_from(state: State) -> C3DOptions:
    return C3DOptions(
        num_classes=find_rows(state, "cls_head.fc_cls", 52),
        embedding_dim=embedding_dim(state),
        width=find_rows(state, "backbone.conv1a.conv", find_rows(state, "conv1a.conv", 64)),
    )


TABLE = WeightTable(
    title="mmaction2's C3D",
    network="c3d",
    modules={**{ours: (f"backbone.{theirs}", layout) for ours, (theirs, layout) in _BACKBONE.items()}, **HEADS},
    unused={},
    example="backbone.conv1a.conv.weight",
    recognise=lambda state: _recognise(r"backbone\.", state),
    options_from=_options_from,
    numbering=lambda _, number: _CONVS[number],
)

SPORTS_1M = dataclasses.replace(
    TABLE,
    title="mmaction2's C3D of Sports-1M, without classes",
    modules={**_BACKBONE, **{ours: (None, layout) for ours, (_, layout) in HEADS.items()}},
    example="conv1a.conv.weight",
    recognise=lambda state: _recognise("", state),
)
