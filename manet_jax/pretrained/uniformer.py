"""The weight tables of UniFormer: mmaction2's, the authors', and those of the authors' networks over images."""

import dataclasses
import math
import re

from manet_jax.models.uniformer import UniFormerOptions
from manet_jax.pretrained.resnet import UNUSED, find_embedding_dim, find_rows
from manet_jax.pretrained.table import MMACTION2_HEADS, Modules, State, WeightTable, heads

# PyTorch's layouts of weights: of patches over 3 frames and over 1, of convolutions over 3 and 5 frames, of one place.
_CLIPS = {"stem": "OITHW", "patches": "OITHW", "position": "OITHW", "affinity": "OITHW", "point": "OI111"}
_IMAGES = {"stem": "OI3HW", "patches": "OI1HW", "position": "OI3HW", "affinity": "OI5HW", "point": "OI11"}


def _backbone(prefix: str, layouts: dict[str, str]) -> Modules:
    modules: Modules = {"norm": (f"{prefix}norm", "same")}
    for stage in range(1, 5):
        ours, theirs = f"stage{stage}.blocks.*", f"{prefix}blocks{stage}.*"
        modules |= {
            f"stage{stage}.embedding.projection": (
                f"{prefix}patch_embed{stage}.proj",
                layouts["stem" if stage == 1 else "patches"],
            ),
            f"stage{stage}.embedding.norm": (f"{prefix}patch_embed{stage}.norm", "same"),
            f"{ours}.position": (f"{theirs}.pos_embed", layouts["position"]),
            f"{ours}.norm1": (f"{theirs}.norm1", "same"),
            f"{ours}.norm2": (f"{theirs}.norm2", "same"),
        }
        if stage <= 2:
            modules |= {
                f"{ours}.value": (f"{theirs}.conv1", layouts["point"]),
                f"{ours}.affinity": (f"{theirs}.attn", layouts["affinity"]),
                f"{ours}.out": (f"{theirs}.conv2", layouts["point"]),
                f"{ours}.fc1": (f"{theirs}.mlp.fc1", layouts["point"]),
                f"{ours}.fc2": (f"{theirs}.mlp.fc2", layouts["point"]),
            }
        else:
            modules |= {
                f"{ours}.attention.qkv": (f"{theirs}.attn.qkv", "OI"),
                f"{ours}.attention.out": (f"{theirs}.attn.proj", "OI"),
                f"{ours}.mlp.fc1": (f"{theirs}.mlp.fc1", "OI"),
                f"{ours}.mlp.fc2": (f"{theirs}.mlp.fc2", "OI"),
            }
    return modules


def _recognise(state: State, prefix: str, rank: int) -> int:
    # By weights of convolutions, whose dimensions tell clips from images. Twice, as names of other families may begin
    # alike.
    convolution = re.compile(prefix + r"(blocks[1-4]\.\d+\.pos_embed|patch_embed[1-4]\.proj)\.weight")
    found = any(convolution.fullmatch(name) and tensor.ndim == rank for name, tensor in state.items())
    return 2 * len(state) if found else 0


def _options_from(state: State) -> UniFormerOptions:
    # A block has several tensors, as a single name may be misspelt.
    blocks = [(found[1], found[2]) for name in state if (found := re.search(r"\bblocks([1-4])\.(\d+)\.", name))]
    numbers = [{int(number) for stage, number in blocks if stage == str(i)} for i in range(1, 5)]
    backbone = "backbone." if any(name.startswith("backbone.") for name in state) else ""
    default = UniFormerOptions()
    widths = tuple(
        find_rows(state, f"{backbone}patch_embed{stage}.proj", width) for stage, width in enumerate(default.widths, 1)
    )
    return UniFormerOptions(
        num_classes=find_rows(state, "cls_head.fc_cls" if backbone else "head", default.num_classes),
        embedding_dim=find_embedding_dim(state),
        depths=tuple(len(found) or depth for found, depth in zip(numbers, default.depths, strict=True)),
        widths=widths,
        head_size=math.gcd(default.head_size, *widths[2:]),  # no tensor shows it
    )


MMACTION2 = WeightTable(
    title="mmaction2's UniFormer",
    network="uniformer",
    modules={**_backbone("backbone.", _CLIPS), **MMACTION2_HEADS},
    unused=UNUSED,
    example="backbone.blocks1.0.pos_embed.weight",
    recognise=lambda state: _recognise(state, r"backbone\.", 5),
    options_from=_options_from,
)

AUTHORS = dataclasses.replace(
    MMACTION2,
    title="the authors' UniFormer",
    modules={
        **_backbone("", _CLIPS),
        **heads("head"),
    },
    example="patch_embed1.proj.weight",
    recognise=lambda state: _recognise(state, "", 5),
)

# As the authors start: kernels are repeated along time and divided by its length.
IMAGES = dataclasses.replace(
    AUTHORS,
    title="an ImageNet UniFormer",
    modules={**_backbone("", _IMAGES), **heads(None)},
    unused={"head (ImageNet's classes)": r"^head\.(weight|bias)$", **UNUSED},
    example="blocks1.0.pos_embed.weight",
    recognise=lambda state: _recognise(state, "", 4),
)

TABLES = [MMACTION2, AUTHORS, IMAGES]
