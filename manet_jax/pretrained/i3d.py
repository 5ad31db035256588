"""The weight table of mmaction2's I3D; its versions 0.x and 1.x have the same names."""

from manet_jax.models.i3d import I3DOptions
from manet_jax.pretrained.resnet import mmaction2_clips_backbone, mmaction2_options, resnet_table
from manet_jax.pretrained.table import MMACTION2_HEADS, Modules, State

_MODULES: Modules = {**mmaction2_clips_backbone("", "backbone."), **MMACTION2_HEADS}


def _options_from(state: State) -> I3DOptions:
    return I3DOptions(**mmaction2_options(state))


TABLE = resnet_table(
    title="mmaction2's I3D",
    network="i3d",
    modules=_MODULES,
    example="backbone.layer1.0.conv1.conv.weight",
    options_from=_options_from,
)
