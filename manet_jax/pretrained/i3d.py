"""The weight table of mmaction2's I3D; its versions 0.x and 1.x have the same names."""

from manet_jax.models.i3d import I3DOptions
from manet_jax.pretrained.manet import block_name, find_depth, find_rows
from manet_jax.pretrained.table import State, WeightTable

Modules = dict[str, tuple[str | None, str]]

HEADS: Modules = {
    "heads.classifier.linear": ("cls_head.fc_cls", "OI"),
    "heads.joint_embedding.hidden": ("cls_head.fc_emb", "OI"),
    "heads.joint_embedding.out": ("cls_head.fc_emb_t", "OI"),
}


def resnet_modules(ours: str, theirs: str) -> Modules:
    """The modules of a ResNet over clips, by what comes before their names here and there."""
    return {
        f"{ours}stem.conv": (f"{theirs}conv1.conv", "OITHW"),
        f"{ours}stem.bn": (f"{theirs}conv1.bn", "same"),
        f"{ours}blocks.*.conv1.conv": (f"{theirs}layer*.conv1.conv", "OITHW"),
        f"{ours}blocks.*.conv1.bn": (f"{theirs}layer*.conv1.bn", "same"),
        f"{ours}blocks.*.conv2.conv": (f"{theirs}layer*.conv2.conv", "OITHW"),
        f"{ours}blocks.*.conv2.bn": (f"{theirs}layer*.conv2.bn", "same"),
        f"{ours}blocks.*.conv3.conv": (f"{theirs}layer*.conv3.conv", "OITHW"),
        f"{ours}blocks.*.conv3.bn": (f"{theirs}layer*.conv3.bn", "same"),
        f"{ours}blocks.*.shortcut.conv": (f"{theirs}layer*.downsample.conv", "OITHW"),
        f"{ours}blocks.*.shortcut.bn": (f"{theirs}layer*.downsample.bn", "same"),
    }


def embedding_dim(state: State) -> int:
    """The dimensions of the joint embedding, which only files of this project have; 0 where there is none."""
    return find_rows(state, "cls_head.fc_emb_t", find_rows(state, "cls_head.fc_emb", 0))


def _options_from(state: State) -> I3DOptions:
    return I3DOptions(
        num_classes=find_rows(state, "cls_head.fc_cls", 52),
        embedding_dim=embedding_dim(state),
        depth=find_depth(state),
        width=find_rows(state, "backbone.conv1.bn", 64),
    )


TABLE = WeightTable(
    title="mmaction2's I3D",
    network="i3d",
    modules={**resnet_modules("", "backbone."), **HEADS},
    unused={"num_batches_tracked": r"\.num_batches_tracked$"},
    example="backbone.layer1.0.conv1.conv.weight",
    # TSN's names are the same, but for images. Twice, as names of other families may begin alike.
    recognise=lambda state: (
        2 * len(state) if any(name.startswith("backbone.layer") and state[name].ndim == 5 for name in state) else 0
    ),
    options_from=_options_from,
    numbering=block_name,
)
