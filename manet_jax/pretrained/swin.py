"""The weight tables of Video Swin: mmaction2's, the authors', torchvision's, and those of a Swin over images."""

import collections
import re
from collections.abc import Iterable
from typing import Any

from manet_jax.models.swin import SwinOptions
from manet_jax.pretrained.resnet import find_embedding_dim, find_rows
from manet_jax.pretrained.table import MMACTION2_HEADS, Modules, State, WeightTable, heads

_BLOCK: Modules = {
    "norm1": ("norm1", "same"),
    "attention.qkv": ("attn.qkv", "OI"),
    "attention.out": ("attn.proj", "OI"),
    "norm2": ("norm2", "same"),
    "mlp.fc1": ("mlp.fc1", "OI"),
    "mlp.fc2": ("mlp.fc2", "OI"),
}
_TORCHVISION_BLOCK: Modules = {**_BLOCK, "mlp.fc1": ("mlp.0", "OI"), "mlp.fc2": ("mlp.3", "OI")}
_TABLE = "relative_position_bias_table"
_BUFFERS = {"indices and masks": r"\.(relative_position_index|attn_mask)$"}


def _block_name(options: SwinOptions, number: int, form: str = "{}.blocks.{}", step: int = 1) -> str:
    """The name of our block of a number by its stage, every `step`-th, and its number there."""
    stages = ((stage, block) for stage, depth in enumerate(options.depths) for block in range(depth))
    stage, block = list(stages)[number]
    return form.format(step * stage, block)


def _modules(*, prefix: str, block: Modules, blocks: str, mergings: Iterable[str], patches: str, norm: str) -> Modules:
    """The names of all but the heads; `mergings` are those after stages 1, 2 and 3."""
    return {
        "patches.projection": (f"{prefix}patch_embed.proj", patches),
        "patches.norm": (f"{prefix}patch_embed.norm", "same"),
        **{f"blocks.*.{name}": (f"{prefix}{blocks}.*.{theirs}", layout) for name, (theirs, layout) in block.items()},
        **{
            f"mergings.stage{stage}.{name}": (f"{prefix}{theirs}.{name}", layout)
            for stage, theirs in enumerate(mergings, 2)
            for name, layout in (("norm", "same"), ("reduction", "OI"))
        },
        "norm": (f"{prefix}{norm}", "same"),
    }


def _table(*, own: str, blocks: str, patch_frames: int = 2, modules: Modules, **fields: Any) -> WeightTable:
    """A table.

    Args:
      own: a pattern of names; a file is the family's whose table has most of them.
      blocks: a pattern of the name of a block, with groups of its stage and its number there.
      patch_frames: see `SwinOptions`.
      modules: see `WeightTable`.
      **fields: its others.
    """
    names = {ours: theirs or "" for ours, (theirs, _) in modules.items()}

    def options_from(state: State) -> SwinOptions:
        tables = [value.shape for name, value in state.items() if name.endswith(_TABLE) and value.ndim == 2]
        rows, num_heads = min(tables, key=lambda shape: shape[1], default=(2535, 3))
        window_frames, window_size = find_window(rows)
        return SwinOptions(
            num_classes=find_rows(state, names["heads.classifier.linear"], 52),
            embedding_dim=find_embedding_dim(state),
            depth=find_depth(state, blocks),
            width=find_rows(state, names["patches.projection"], 32 * num_heads),
            num_heads=num_heads,
            window_frames=window_frames,
            window_size=window_size,
            patch_frames=patch_frames,
        )

    return WeightTable(
        network="swin",
        modules=modules,
        parameters={"blocks.*.position_bias": (names["blocks.*.attention.qkv"].removesuffix("qkv") + _TABLE, "rows")},
        recognise=lambda state: sum(bool(re.match(own, name)) for name in state),
        options_from=options_from,
        unused={**fields.pop("unused", {}), **_BUFFERS},
        **fields,
    )


def find_depth(state: State, blocks: str) -> int:
    """The number of blocks in the third of a file's stages; `blocks` as for `_table`.

    Raises:
      ValueError: the others do not have two each.
    """
    found = [match.groups() for name in state if (match := re.match(blocks, name))]
    # A block has a dozen tensors, as a single name may be misspelt.
    stages = collections.Counter(int(stage) for stage, block in set(found) if found.count((stage, block)) > 3)
    depths = [count for _, count in sorted(stages.items())]
    if len(depths) != 4 or [*depths[:2], depths[3]] != [2, 2, 2]:
        raise ValueError(f"its stages have {depths} blocks; only those with 2, 2, any number and 2 can be converted")
    return depths[2]


def find_window(rows: int) -> tuple[int, int]:
    """The length in time and the side of a window, by the rows of its table, (2 t - 1) (2 s - 1)^2 for t and s.

    They may fit several windows; published ones have 7 x 7 or 12 x 12 tokens.
    """
    sides = (7, 12, *range(rows, 0, -1))
    fits = ((rows // (2 * side - 1) ** 2, side) for side in sides if rows % (2 * side - 1) ** 2 == 0)
    return next(((length // 2 + 1, side) for length, side in fits if length % 2), (8, 7))


def _mmaction2_table(title: str, norm: str) -> WeightTable:
    modules = _modules(
        prefix="backbone.",
        block=_BLOCK,
        blocks="layers",
        mergings=[f"layers.{i}.downsample" for i in range(3)],
        patches="OITHW",
        norm=norm,
    )
    return _table(
        title=title,
        example=f"backbone.{norm}.weight",
        own=rf"backbone\.(patch_embed|layers\.\d+|{norm})\.",
        blocks=r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.",
        modules={**modules, **MMACTION2_HEADS},
        numbering=_block_name,
    )


def _images_table(title: str, example: str, mergings: Iterable[int], head: str) -> WeightTable:
    modules = _modules(
        prefix="",
        block=_BLOCK,
        blocks="layers",
        mergings=[f"layers.{i}.downsample" for i in mergings],
        patches="OI-HW",
        norm="norm",
    )
    numbers = "".join(map(str, mergings))
    return _table(
        title=title,
        example=example,
        own=rf"(patch_embed\.|layers\.\d+\.blocks\.|layers\.[{numbers}]\.downsample\.|norm\.|{head}\.(weight|bias)$)",
        blocks=r"layers\.(\d+)\.blocks\.(\d+)\.",
        patch_frames=1,
        modules={**modules, **heads(None)},
        numbering=_block_name,
        unused={"head (ImageNet's classes)": rf"^{head}\.(weight|bias)$"},
    )


MMACTION2 = _mmaction2_table("mmaction2's Video Swin", "norm3")
AUTHORS = _mmaction2_table("the authors' Video Swin", "norm")

TORCHVISION = _table(
    title="torchvision's Video Swin",
    example="features.0.0.attn.qkv.weight",
    own=r"(patch_embed|features\.\d+|norm|head)\.",
    blocks=r"features\.(\d+)\.(\d+)\.",
    modules={
        **_modules(
            prefix="",
            block=_TORCHVISION_BLOCK,
            blocks="features",
            mergings=[f"features.{i}" for i in (1, 3, 5)],
            patches="OITHW",
            norm="norm",
        ),
        **heads("head"),
    },
    # Stages and mergings are numbered together.
    numbering=lambda options, number: _block_name(options, number, "{}.{}", step=2),
)

IMAGES = _images_table("a Swin over images", "layers.0.blocks.0.attn.qkv.weight", (0, 1, 2), "head")
TIMM = _images_table(
    "a Swin over images with timm's names", "layers.3.downsample.reduction.weight", (1, 2, 3), r"head\.fc"
)

TABLES = [MMACTION2, AUTHORS, TORCHVISION, IMAGES, TIMM]
