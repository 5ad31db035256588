"""The weight tables of the released MANet, of TSM, which its code trains with MANet's gates, and of TSN."""

from manet_jax.models.manet import MANetOptions
from manet_jax.pretrained.resnet import (
    MMACTION2_HEADS,
    UNUSED,
    Modules,
    block_name,
    count_names,
    find_depth,
    find_embedding_dim,
    find_rows,
    mmaction2_backbone,
)
from manet_jax.pretrained.table import State, WeightTable

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
    return MANetOptions(
        num_classes=find_rows(state, "cls_head.fc_cls", 52),
        embedding_dim=find_embedding_dim(state),
        depth=find_depth(state),
        width=find_rows(state, "backbone.conv1.bn", 64),
        se=has_gates,
    )


def _tsn_options_from(state: State) -> MANetOptions:
    return MANetOptions(
        num_classes=find_rows(state, "cls_head.fc_cls", 52),
        embedding_dim=find_embedding_dim(state),
        depth=find_depth(state),
        width=find_rows(state, "backbone.conv1.bn", 64),
        shift=False,
        se=False,
    )


TABLE = WeightTable(
    title="the released MANet or a TSM",
    network="manet",
    fits=lambda options: options.shift or options.se,
    modules=_MODULES,
    # The release's action_p2_* take part in none of its own computations either.
    unused={"action_p2_*": r"\.conv1\.conv\.action_p2_\w+\.weight$", **UNUSED},
    example="backbone.layer1.0.conv1.conv.net.weight",
    recognise=count_names(_MODULES),
    options_from=_options_from,
    numbering=block_name,
)

# Nothing wraps its convolutions.
TSN = WeightTable(
    title="mmaction2's TSN",
    network="manet",
    fits=lambda options: not options.shift and not options.se,
    modules=_TSN_MODULES,
    unused=UNUSED,
    example="backbone.layer1.0.conv1.conv.weight",
    recognise=count_names(_TSN_MODULES),
    options_from=_tsn_options_from,
    numbering=block_name,
)
