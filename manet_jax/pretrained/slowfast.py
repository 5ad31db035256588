"""The weight table of mmaction2's SlowFast; its versions 0.x and 1.x have the same names."""

import re

from manet_jax.models.slowfast import SlowFastOptions
from manet_jax.pretrained.i3d import HEADS, embedding_dim, resnet_modules
from manet_jax.pretrained.manet import block_name, find_depth, find_rows
from manet_jax.pretrained.table import State, WeightTable

_LATERALS: dict[str, tuple[str | None, str]] = {
    "laterals.stage1": ("backbone.slow_path.conv1_lateral.conv", "OITHW"),
    "laterals.stage2": ("backbone.slow_path.layer1_lateral.conv", "OITHW"),
    "laterals.stage3": ("backbone.slow_path.layer2_lateral.conv", "OITHW"),
    "laterals.stage4": ("backbone.slow_path.layer3_lateral.conv", "OITHW"),
}


def _options_from(state: State) -> SlowFastOptions:
    # The rates of frames are in no tensor. Of the published networks those with a lateral kernel of 7 are 8x8.
    lateral = state.get("backbone.slow_path.conv1_lateral.conv.weight")
    kernel = lateral.shape[2] if lateral is not None and lateral.ndim == 5 else 5
    return SlowFastOptions(
        num_classes=find_rows(state, "cls_head.fc_cls", 52),
        embedding_dim=embedding_dim(state),
        depth=find_depth(state),
        width=find_rows(state, "backbone.slow_path.conv1.bn", 64),
        tau=4 if kernel == 7 else 8,
        alpha=4 if kernel == 7 else 8,
        lateral_kernel=kernel,
    )


TABLE = WeightTable(
    title="mmaction2's SlowFast",
    network="slowfast",
    modules={
        **resnet_modules("slow.", "backbone.slow_path."),
        **resnet_modules("fast.", "backbone.fast_path."),
        **_LATERALS,
        **HEADS,
    },
    unused={"num_batches_tracked": r"\.num_batches_tracked$"},
    example="backbone.slow_path.layer1.0.conv1.conv.weight",
    # Twice, as names of other families may begin alike.
    recognise=lambda state: 2 * len(state) if any(re.match(r"backbone\.(slow|fast)_path\.", n) for n in state) else 0,
    options_from=_options_from,
    numbering=block_name,
)
