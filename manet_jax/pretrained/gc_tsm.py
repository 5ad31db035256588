"""The weight table of the authors' GC-TSM."""

from manet_jax.models.gc_tsm import GCTSMOptions
from manet_jax.pretrained.resnet import find_depth, find_embedding_dim, find_rows, resnet_table, torchvision_backbone
from manet_jax.pretrained.table import Modules, State, heads

_MODULES: Modules = {
    **torchvision_backbone("base_model."),
    "blocks.*.gates.local.conv": ("base_model.layer*.eft1.conv", "OIT11"),
    "blocks.*.gates.local.bn": ("base_model.layer*.eft1.bn1", "same"),
    "blocks.*.gates.time.conv": ("base_model.layer*.eft2.conv", "OIT"),
    "blocks.*.gates.time.bn": ("base_model.layer*.eft2.bn1", "same"),
    "blocks.*.gates.space.conv": ("base_model.layer*.eft3.conv", "OIHW"),
    "blocks.*.gates.space.bn": ("base_model.layer*.eft3.bn1", "same"),
    "blocks.*.gates.clip.conv": ("base_model.layer*.eft4.conv", "OI"),
    "blocks.*.gates.clip.bn": ("base_model.layer*.eft4.bn1", "same"),
    **heads("new_fc", "fc_emb", "fc_emb_t"),  # the joint embedding, which is ours, by the names that MANet has for it
}


def _options_from(state: State) -> GCTSMOptions:
    return GCTSMOptions(
        num_classes=find_rows(state, "new_fc", 52),
        embedding_dim=find_embedding_dim(state, ""),
        depth=find_depth(state),
        width=find_rows(state, "base_model.bn1", 64),
    )


TABLE = resnet_table(
    title="the authors' GC-TSM",
    network="gc_tsm",
    modules=_MODULES,
    example="base_model.layer1.0.eft1.conv.weight",
    options_from=_options_from,
    written_prefix="module.",
)
