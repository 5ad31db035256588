"""The weight table of mmaction2's I3D; its versions 0.x and 1.x have the same names."""

from manet_jax.models.i3d import I3DOptions
from manet_jax.pretrained.resnet import (
    MMACTION2_HEADS,
    UNUSED,
    Modules,
    block_name,
    count_names,
    find_depth,
    find_embedding_dim,
    find_rows,
    mmaction2_clips_backbone,
)
from manet_jax.pretrained.table import State, WeightTable

_MODULES: Modules = {**mmaction2_clips_backbone("", "backbone."), **MMACTION2_HEADS}


def _options_from(state: State) -> I3DOptions:
    return I3DOptions(
        num_classes=find_rows(state, "cls_head.fc_cls", 52),
        embedding_dim=find_embedding_dim(state),
        depth=find_depth(state),
        width=find_rows(state, "backbone.conv1.bn", 64),
    )


TABLE = WeightTable(
    title="mmaction2's I3D",
    network="i3d",
    modules=_MODULES,
    unused=UNUSED,
    example="backbone.layer1.0.conv1.conv.weight",
    recognise=count_names(_MODULES),
    options_from=_options_from,
    numbering=block_name,
)
