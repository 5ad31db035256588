"""The weight tables of the released MANet, of TSM, which its code trains with MANet's gates, and of TSN."""

from manet_jax.models.manet import MANetOptions
from manet_jax.pretrained.resnet import mmaction2_backbone, mmaction2_options, resnet_table
from manet_jax.pretrained.table import MMACTION2_HEADS, Modules, State

_MODULES: Modules = {
    **mmaction2_backbone("conv1.conv.net"),
    "blocks.*.se.squeeze": ("backbone.layer*.conv1.conv.fcce.0", "OI"),
    "blocks.*.se.excite": ("backbone.layer*.conv1.conv.fcce.2", "OI"),
    **MMACTION2_HEADS,
}
_TSN_MODULES: Modules = {**mmaction2_backbone("conv1.conv"), **MMACTION2_HEADS}


def _options_from(state: State) -> MANetOptions:
    # The unused layers of MANet's blocks give its gates away even where they are missing.
    has_gates = any(".fcce." in name or ".action_p2_" in name for name in state)
    return MANetOptions(**mmaction2_options(state), se=has_gates)


def _tsn_options_from(state: State) -> MANetOptions:
    return MANetOptions(**mmaction2_options(state), shift=False, se=False)


TABLE = resnet_table(
    title="the released MANet or a TSM",
    network="manet",
    fits=lambda options: options.shift or options.se,
    modules=_MODULES,
    # The release's action_p2_* take part in none of its own computations either.
    unused={"action_p2_*": r"\.conv1\.conv\.action_p2_\w+\.weight$"},
    example="backbone.layer1.0.conv1.conv.net.weight",
    options_from=_options_from,
)

# Nothing wraps its convolutions.
TSN = resnet_table(
    title="mmaction2's TSN",
    network="manet",
    fits=lambda options: not options.shift and not options.se,
    modules=_TSN_MODULES,
    example="backbone.layer1.0.conv1.conv.weight",
    options_from=_tsn_options_from,
)
