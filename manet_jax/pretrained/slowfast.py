"""The weight table of mmaction2's SlowFast; its versions 0.x and 1.x have the same names."""

from manet_jax.models.slowfast import SlowFastOptions
from manet_jax.pretrained.resnet import mmaction2_clips_backbone, mmaction2_options, resnet_table
from manet_jax.pretrained.table import MMACTION2_HEADS, Modules, State

_MODULES: Modules = {
    **mmaction2_clips_backbone("slow.", "backbone.slow_path."),
    **mmaction2_clips_backbone("fast.", "backbone.fast_path."),
    "laterals.stage1": ("backbone.slow_path.conv1_lateral.conv", "OITHW"),
    "laterals.stage2": ("backbone.slow_path.layer1_lateral.conv", "OITHW"),
    "laterals.stage3": ("backbone.slow_path.layer2_lateral.conv", "OITHW"),
    "laterals.stage4": ("backbone.slow_path.layer3_lateral.conv", "OITHW"),
    **MMACTION2_HEADS,
}


def _options_from(state: State) -> SlowFastOptions:
    # The rates of frames are in no tensor. Of the published networks those with a lateral kernel of 7 are 8x8.
    lateral = state.get("backbone.slow_path.conv1_lateral.conv.weight")
    kernel = lateral.shape[2] if lateral is not None and lateral.ndim == 5 else 5
    return SlowFastOptions(
        **mmaction2_options(state, "backbone.slow_path."),
        tau=4 if kernel == 7 else 8,
        alpha=4 if kernel == 7 else 8,
        lateral_kernel=kernel,
    )


TABLE = resnet_table(
    title="mmaction2's SlowFast",
    network="slowfast",
    modules=_MODULES,
    example="backbone.slow_path.layer1.0.conv1.conv.weight",
    options_from=_options_from,
)
