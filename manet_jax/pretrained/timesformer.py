"""The weight tables of TimeSformer: mmaction2's, the authors', transformers', and those of an ImageNet ViT."""

import dataclasses
import math
import re

from manet_jax.models.timesformer import CLIP, HALF, TimeSformerOptions
from manet_jax.pretrained.table import MMACTION2_HEADS, Modules, State, WeightTable, heads

_KINETICS = ((114.75, 114.75, 114.75), (57.375, 57.375, 57.375))  # mean and std of the pixels: .45, .225 of 255
_HEAD_SIZE = 64

_MMACTION2_BLOCK: Modules = {
    "temporal.norm": ("attentions.0.norm", "same"),
    "temporal.attention.out": ("attentions.0.attn.out_proj", "OI"),
    "temporal.linear": ("attentions.0.temporal_fc", "OI"),
    "spatial.norm": ("attentions.1.norm", "same"),
    "spatial.attention.out": ("attentions.1.attn.out_proj", "OI"),
    "norm": ("ffns.0.norm", "same"),
    "mlp.fc1": ("ffns.0.layers.0.0", "OI"),
    "mlp.fc2": ("ffns.0.layers.1", "OI"),
}
_MMACTION2_QKV: Modules = {
    f"{ours}.attention.qkv.{variable}": (f"attentions.{number}.attn.in_proj_{theirs}", layout)
    for number, ours in enumerate(("temporal", "spatial"))
    for variable, theirs, layout in (("kernel", "weight", "OI"), ("bias", "bias", "same"))
}
_IMAGE_BLOCK: Modules = {
    "spatial.norm": ("norm1", "same"),
    "spatial.attention.qkv": ("attn.qkv", "OI"),
    "spatial.attention.out": ("attn.proj", "OI"),
    "norm": ("norm2", "same"),
    "mlp.fc1": ("mlp.fc1", "OI"),
    "mlp.fc2": ("mlp.fc2", "OI"),
}
_AUTHORS_BLOCK: Modules = {
    **_IMAGE_BLOCK,
    "temporal.norm": ("temporal_norm1", "same"),
    "temporal.attention.qkv": ("temporal_attn.qkv", "OI"),
    "temporal.attention.out": ("temporal_attn.proj", "OI"),
    "temporal.linear": ("temporal_fc", "OI"),
}
_VIT_BLOCK: Modules = {
    **_IMAGE_BLOCK,
    # As the authors start: attention over time is a copy of that over space, and adds nothing yet.
    "temporal.norm": ("norm1", "same"),
    "temporal.attention.qkv": ("attn.qkv", "OI"),
    "temporal.attention.out": ("attn.proj", "OI"),
    "temporal.linear": (None, "OI"),
}
_TRANSFORMERS_BLOCK: Modules = {
    "temporal.norm": ("temporal_layernorm", "same"),
    "temporal.attention.qkv": ("temporal_attention.attention.qkv", "OI"),
    "temporal.attention.out": ("temporal_attention.output.dense", "OI"),
    "temporal.linear": ("temporal_dense", "OI"),
    "spatial.norm": ("layernorm_before", "same"),
    "spatial.attention.qkv": ("attention.attention.qkv", "OI"),
    "spatial.attention.out": ("attention.output.dense", "OI"),
    "norm": ("layernorm_after", "same"),
    "mlp.fc1": ("intermediate.dense", "OI"),
    "mlp.fc2": ("output.dense", "OI"),
}


def _of_blocks(block: Modules, theirs: str) -> Modules:
    return {f"blocks.*.{name}": (other and f"{theirs}.*.{other}", layout) for name, (other, layout) in block.items()}


def _tables(class_token: str, positions: str, times: str | None) -> Modules:
    return {"class_token": (class_token, "same"), "positions": (positions, "same"), "times": (times, "same")}


def _table(
    title: str,
    *,
    example: str,
    recognise: str,
    pixels: tuple,
    modules: Modules,
    parameters: Modules,
    blocks: str,
    unused: dict[str, str] | None = None,
) -> WeightTable:
    """A table; `recognise` is a pattern of a name that no other family has, and `blocks` are those of its blocks."""

    def options_from(state: State) -> TimeSformerOptions:
        def shape(name: str | None, default: tuple[int, ...]) -> tuple[int, ...]:
            found = state[name].shape if name in state else ()
            return found if len(found) == len(default) else default

        width = shape(parameters["class_token"][0], (1, 1, 768))[-1]
        patch_size = shape(f"{modules['patches.projection'][0]}.weight", (width, 3, 16, 16))[-1]
        num_patches = shape(parameters["positions"][0], (1, 197, width))[1] - 1
        frames = shape(parameters["times"][0], (1, 8, width))[1]
        size = math.isqrt(num_patches) * patch_size
        numbers = {int(found[1]) for name in state if (found := re.match(rf"{re.escape(blocks)}\.(\d+)\.", name))}
        return TimeSformerOptions(
            num_classes=shape(f"{modules['heads.classifier.linear'][0]}.bias", (52,))[0],
            embedding_dim=shape(f"{modules['heads.joint_embedding.out'][0]}.bias", (0,))[0],
            depth=max(numbers, default=11) + 1,
            width=width,
            num_heads=max(1, width // _HEAD_SIZE),
            patch_size=patch_size,
            table_frames=frames,
            table_size=size,
            clip=dataclasses.replace(
                CLIP,
                num_frames=frames,
                frame_interval=max(1, 256 // frames),  # 8 frames are 32 apart, and 16 are 16
                short_side=size * 8 // 7,
                crop_size=size,
                mean=pixels[0],
                std=pixels[1],
            ),
        )

    return WeightTable(
        title=title,
        network="timesformer",
        modules=modules,
        parameters=parameters,
        unused=unused or {},
        example=example,
        # Twice, as names of other families may begin alike.
        recognise=lambda state: 2 * len(state) if any(re.search(recognise, name) for name in state) else 0,
        options_from=options_from,
    )


MMACTION2 = _table(
    "mmaction2's TimeSformer",
    example="backbone.transformer_layers.layers.0.attentions.0.norm.weight",
    recognise=r"^backbone\.transformer_layers\.",
    pixels=(HALF, HALF),
    blocks="backbone.transformer_layers.layers",
    modules={
        "patches.projection": ("backbone.patch_embed.projection", "OIHW"),
        "norm": ("backbone.norm", "same"),
        **_of_blocks(_MMACTION2_BLOCK, "backbone.transformer_layers.layers"),
        **MMACTION2_HEADS,
    },
    parameters={
        **_tables("backbone.cls_token", "backbone.pos_embed", "backbone.time_embed"),
        **_of_blocks(_MMACTION2_QKV, "backbone.transformer_layers.layers"),
    },
)

AUTHORS = _table(
    "the authors' TimeSformer",
    example="model.blocks.0.temporal_attn.qkv.weight",
    recognise=r"^model\.blocks\.\d+\.temporal_",
    pixels=_KINETICS,
    blocks="model.blocks",
    modules={
        "patches.projection": ("model.patch_embed.proj", "OIHW"),
        "norm": ("model.norm", "same"),
        **_of_blocks(_AUTHORS_BLOCK, "model.blocks"),
        **heads("model.head"),
    },
    parameters=_tables("model.cls_token", "model.pos_embed", "model.time_embed"),
)

TRANSFORMERS = _table(
    "transformers' TimeSformer",
    example="timesformer.encoder.layer.0.temporal_layernorm.weight",
    recognise=r"^timesformer\.",
    pixels=_KINETICS,
    blocks="timesformer.encoder.layer",
    modules={
        "patches.projection": ("timesformer.embeddings.patch_embeddings.projection", "OIHW"),
        "norm": ("timesformer.layernorm", "same"),
        **_of_blocks(_TRANSFORMERS_BLOCK, "timesformer.encoder.layer"),
        **heads("classifier"),
    },
    parameters=_tables(
        *(f"timesformer.embeddings.{name}" for name in ("cls_token", "position_embeddings", "time_embeddings"))
    ),
)

VIT = _table(
    "an ImageNet ViT with timm's names",
    example="blocks.0.attn.qkv.weight",
    recognise=r"^blocks\.\d+\.attn\.",
    pixels=(HALF, HALF),
    blocks="blocks",
    modules={
        "patches.projection": ("patch_embed.proj", "OIHW"),
        "norm": ("norm", "same"),
        **_of_blocks(_VIT_BLOCK, "blocks"),
        **heads(None),
    },
    parameters=_tables("cls_token", "pos_embed", None),
    unused={"head (ImageNet's classes)": r"^head\.(weight|bias)$"},
)

TABLES = [MMACTION2, AUTHORS, TRANSFORMERS, VIT]
