"""The weight table of the authors' GC-TSM."""

from manet_jax.models.gc_tsm import GCTSMOptions
from manet_jax.pretrained.resnet import (
    UNUSED,
    Modules,
    block_name,
    count_names,
    find_depth,
    find_rows,
    torchvision_backbone,
)
from manet_jax.pretrained.table import State, WeightTable

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
    "heads.classifier.linear": ("new_fc", "OI"),
    # Ours, by the names that MANet has for it.
    "heads.joint_embedding.hidden": ("fc_emb", "OI"),
    "heads.joint_embedding.out": ("fc_emb_t", "OI"),
}


def _options_from(state: State) -> GCTSMOptions:
    embedding = find_rows(state, "fc_emb", 300) if any(name.startswith("fc_emb") for name in state) else 0
    return GCTSMOptions(
        num_classes=find_rows(state, "new_fc", 52),
        embedding_dim=find_rows(state, "fc_emb_t", embedding),
        depth=find_depth(state),
        width=find_rows(state, "base_model.bn1", 64),
    )


TABLE = WeightTable(
    title="the authors' GC-TSM",
    network="gc_tsm",
    modules=_MODULES,
    unused=UNUSED,
    example="base_model.layer1.0.eft1.conv.weight",
    recognise=count_names(_MODULES),
    options_from=_options_from,
    numbering=block_name,
    written_prefix="module.",
)
