"""The weight table of mmaction2's TIN."""

from manet_jax.models.options import ClipSpec
from manet_jax.models.tin import TINOptions
from manet_jax.pretrained.resnet import find_rows, mmaction2_backbone, mmaction2_options, resnet_table
from manet_jax.pretrained.table import MMACTION2_HEADS, Modules, State

_INTERLACE = "backbone.layer*.conv1.conv.net1"
_MODULES: Modules = {
    **mmaction2_backbone("conv1.conv.net2"),
    "blocks.*.interlace.offset_net.conv": (f"{_INTERLACE}.offset_net.conv", "OIT"),
    "blocks.*.interlace.offset_net.fc1": (f"{_INTERLACE}.offset_net.fc1", "OI"),
    "blocks.*.interlace.offset_net.fc2": (f"{_INTERLACE}.offset_net.fc2", "OI"),
    "blocks.*.interlace.weight_net": (f"{_INTERLACE}.weight_net.conv", "OIT"),
    **MMACTION2_HEADS,
}


def _options_from(state: State) -> TINOptions:
    options = mmaction2_options(state)
    convolution = state.get("backbone.layer1.0.conv1.conv.net1.weight_net.conv.weight")
    known = convolution is not None and convolution.ndim == 3 and convolution.shape[1]
    return TINOptions(
        **options,
        shift_div=max(1, options["width"] // known) if known else 4,
        clip=ClipSpec(num_frames=find_rows(state, "backbone.layer1.0.conv1.conv.net1.offset_net.fc1", 8)),
    )


TABLE = resnet_table(
    title="mmaction2's TIN",
    network="tin",
    modules=_MODULES,
    example="backbone.layer1.0.conv1.conv.net2.weight",
    options_from=_options_from,
)
