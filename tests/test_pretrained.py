"""Tests of every table of PyTorch's names."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from checkpoints import torchvision_names
from golden import inputs

from manet_jax import pretrained
from manet_jax.models import MODELS, ModelSpec
from manet_jax.models.c3d import C3DOptions
from manet_jax.models.variables import abstract_variables, flatten, replace
from manet_jax.pretrained.table import (
    find_unused,
    recognise,
    tensors_of,
    to_state_dict,
    to_variables,
)
from tfds_ma52.errors import UserError

tables = pytest.mark.parametrize("table", pretrained.TABLES, ids=lambda table: table.title)

# For each table, how many of a tiny network's variables its files lack, and tensors that no computation needs.
FILES = {
    "the released MANet or a TSM": (
        0,
        ["backbone.layer1.0.conv1.conv.action_p2_conv1.weight", "backbone.conv1.bn.num_batches_tracked"],
    ),
    "mmaction2's TSN": (0, ["backbone.conv1.bn.num_batches_tracked"]),
    "mmaction2's TIN": (0, ["backbone.conv1.bn.num_batches_tracked"]),
    "the authors' GC-TSM": (0, ["base_model.layer1.0.eft3.bn1.num_batches_tracked"]),
    "mmaction2's I3D": (0, ["backbone.conv1.bn.num_batches_tracked"]),
    "mmaction2's SlowFast": (0, ["backbone.fast_path.conv1.bn.num_batches_tracked"]),
    "mmaction2's C3D": (0, []),
    "mmaction2's C3D of Sports-1M, without classes": (6, ["fc8.weight", "fc8.bias"]),
    "a torchvision ResNet": (14, ["fc.weight", "fc.bias", "bn1.num_batches_tracked"]),
    "the authors' VideoMAE": (0, []),
    "the authors' pre-trained VideoMAE": (
        2 + 6,  # the norm before the heads, and these
        ["encoder.norm.weight", "encoder_to_decoder.weight", "mask_token", "decoder.blocks.0.attn.q_bias"],
    ),
    "mmaction2's VideoMAE": (4, ["backbone.pos_embed"]),
    "transformers' pre-trained VideoMAE": (
        2 + 6,
        ["videomae.layernorm.bias", "mask_token", "decoder.decoder_layers.0.attention.attention.q_bias"],
    ),
    "transformers' VideoMAE": (4, []),
    "transformers' VideoMAE in memory": (4, []),
    "mmaction2's TimeSformer": (0, []),
    "the authors' TimeSformer": (4, []),
    "transformers' TimeSformer": (4, []),
    "an ImageNet ViT with timm's names": (6 + 1 + 2 * 2, ["head.weight", "head.bias"]),  # heads, times, temporal.linear
    "mmaction2's UniFormer": (0, ["backbone.norm.num_batches_tracked"]),
    "the authors' UniFormer": (4, ["norm.num_batches_tracked"]),
    "an ImageNet UniFormer": (6, ["head.weight", "head.bias", "norm.num_batches_tracked"]),
    "mmaction2's Video Swin": (0, ["backbone.layers.0.blocks.0.attn.relative_position_index"]),
    "the authors' Video Swin": (0, ["backbone.layers.2.blocks.0.attn.relative_position_index"]),
    "torchvision's Video Swin": (4, ["features.0.0.attn.relative_position_index"]),
    "a Swin over images": (6, ["head.weight", "head.bias", "layers.0.blocks.1.attn_mask"]),
    "a Swin over images with timm's names": (6, ["head.fc.weight", "head.fc.bias", "layers.0.blocks.1.attn_mask"]),
}

# For some tables, options of a tiny network. A file's third stage gives the depth of a ResNet on frames.
OPTIONS = {
    "mmaction2's TSN": {"depth": 14, "shift": False, "se": False},
    "the released MANet or a TSM": {"depth": 14},
    "mmaction2's TIN": {"depth": 14},
    "the authors' GC-TSM": {"depth": 14},
    "mmaction2's I3D": {"depth": 14},
    "mmaction2's SlowFast": {"depth": 14, "tau": 8, "alpha": 8},  # no tensor shows them
    "mmaction2's C3D": {"clip": C3DOptions().clip},
    "mmaction2's C3D of Sports-1M, without classes": {"clip": C3DOptions().clip},
    "a torchvision ResNet": {"depth": 14},
    "a Swin over images": {"window_frames": 1, "patch_frames": 1},
    "a Swin over images with timm's names": {"window_frames": 1, "patch_frames": 1},
}

# Tables of files that networks start from, or of other people's names for a network that a table before has too.
READ_ONLY = (
    *("a torchvision ResNet", "mmaction2's C3D of Sports-1M, without classes"),
    *("the authors' TimeSformer", "transformers' TimeSformer", "an ImageNet ViT with timm's names"),
    *("the authors' pre-trained VideoMAE", "mmaction2's VideoMAE"),
    *("transformers' pre-trained VideoMAE", "transformers' VideoMAE", "transformers' VideoMAE in memory"),
    *("the authors' UniFormer", "an ImageNet UniFormer"),
    *("the authors' Video Swin", "torchvision's Video Swin"),
    *("a Swin over images", "a Swin over images with timm's names"),
)

# For some tables, how many of a tiny network's variables are copies of others.
COPIED = {"an ImageNet ViT with timm's names": 2 * 6}  # two blocks' temporal attention and its norm

# Tables of files whose kernels are divided for ours, so that they do not come back bit for bit.
ROUNDED = ("an ImageNet UniFormer",)


def make_file(table, seed=0):
    """A tiny network, and random tensors for all that a file of it holds."""
    spec = ModelSpec(table.network, MODELS[table.network].Options.tiny(**OPTIONS.get(table.title, {})))
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: tensor.shape for tensor in tensors_of(spec, table) if tensor.name is not None}
    state = {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return spec, state, {name: np.zeros(2, np.float32) for name in FILES[table.title][1]}


def test_tables_all_have_files_here():
    assert [table.title for table in pretrained.TABLES] == list(FILES)


@tables
def test_tables_round_trip_is_bit_identical(table):
    spec, state, unused = make_file(table)
    taken = to_variables(state | unused, spec, table, "the file")
    _, abstract = abstract_variables(spec)
    lacked = [path for path in flatten(abstract) if path not in taken]
    assert len(lacked) == FILES[table.title][0]
    assert {path: value.shape for path, value in taken.items()} == {
        path: leaf.shape for path, leaf in flatten(abstract).items() if path in taken
    }
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    back = to_state_dict(replace(zeros, taken), spec, table)
    assert back.keys() == state.keys()
    for name, value in back.items():
        assert value.flags.c_contiguous
        np.testing.assert_allclose(value, state[name], rtol=2e-7 if table.title in ROUNDED else 0)


@tables
def test_tables_name_every_module_and_no_other(table):
    spec, _, unused = make_file(table)
    paths = [path.split(".")[1:] for path in flatten(abstract_variables(spec)[1])]
    starred = [["*" if part.isdecimal() else part for part in path] for path in paths]
    parameters = {".".join(path) for path in starred} & table.parameters.keys()
    modules = {".".join(path[:-1]) for path in starred if ".".join(path) not in parameters}
    assert parameters == table.parameters.keys()
    assert modules == table.modules.keys()
    names = [tensor.name for tensor in tensors_of(spec, table) if tensor.name is not None]
    assert len(names) - len(set(names)) == COPIED.get(table.title, 0)
    found = find_unused(dict.fromkeys([*names, *unused], np.zeros(2, np.float32)), table)
    assert {name for each in found.values() for name in each} == unused.keys()
    assert all(found.values())


@tables
def test_tables_recognise_their_own_files(table):
    spec, state, unused = make_file(table)
    state |= unused
    for lost in (lambda name: False, lambda name: "bn" in name, lambda name: "conv3" in name):
        assert recognise({n: v for n, v in state.items() if not lost(n)}, pretrained.TABLES, "the file") is table
    assert recognise({table.example: state[table.example]}, pretrained.TABLES, "the file") is table
    # The options that are found are those of a network with the same tensors.
    found = ModelSpec(table.network, table.options_from(state))
    shapes = [{x.name: x.shape for x in tensors_of(each, table) if x.name is not None} for each in (spec, found)]
    assert shapes[0] == shapes[1]


def test_tables_refuse_files_of_none():
    with pytest.raises(UserError) as error:
        recognise(dict.fromkeys("abcd", np.zeros(2, np.float32)), pretrained.TABLES, "a.pth")
    assert str(error.value).startswith(
        "a.pth holds neither the released MANet or a TSM (backbone.layer1.0.conv1.conv.net.weight, ...) nor "
        "mmaction2's TSN (backbone.layer1.0.conv1.conv.weight, ...) nor "
    )
    assert all(f"{table.title} ({table.example}, ...)" in str(error.value) for table in pretrained.TABLES)
    assert str(error.value).endswith("; its names: a, b, c")
    with pytest.raises(UserError, match=r"its names: none at all$"):
        recognise({}, pretrained.TABLES, "a.pth")


@tables
def test_tables_write_what_they_read(table):
    # The first table that fits a network writes it; where a network starts from a file, another does.
    spec, _, _ = make_file(table)
    writing = [each.title for each in pretrained.TABLES if each.network == spec.name and each.fits(spec.options)]
    assert (writing[0] == table.title) == (table.title not in READ_ONLY)


@tables
def test_tables_report_all_that_is_wrong_at_once(table):
    spec, state, unused = make_file(table)
    state |= unused
    weights = [name for name, value in state.items() if value.ndim > 1 and value.shape[0] != value.shape[1]]
    vectors = [name for name, value in state.items() if value.ndim == 1 and name not in unused]
    renamed, transposed, lost, bad = weights[0], weights[1], vectors[0], vectors[1]
    was = {name: list(state[name].shape) for name in state}
    state["the.wieght"] = state.pop(renamed)
    state[transposed] = np.ascontiguousarray(state[transposed].swapaxes(0, 1))
    del state[lost]
    state[bad][-1] = np.nan
    with pytest.raises(UserError) as error:
        to_variables(state, spec, table, "the file is not quite one")
    missing = [f"  missing: {name} {was[name]}" for name in sorted([renamed, lost])]
    now = [was[transposed][1], was[transposed][0], *was[transposed][2:]]
    differing = {
        transposed: f"  shape: {transposed} is {now}, should be {was[transposed]}",
        bad: f"  values: {bad} has some that are not finite numbers",
    }
    assert str(error.value).splitlines() == [
        "the file is not quite one: 5 problems",
        f"  unknown: the.wieght {was[renamed]}",
        *missing,
        *(differing[name] for name in sorted(differing)),
    ]


@pytest.mark.parametrize(
    ("lost", "options", "num_unused"),
    [
        # The released code's TSM has MANet's gates, and its unused layers.
        (("fc_emb",), {"se": True}, 48 + 53),
        (("fc_emb", ".fcce.", ".action_p2_"), {"se": False}, 53),
    ],
)
def test_tsm_has_gates_where_its_file_has_them(lost, options, num_unused):
    shapes = {name: shape for name, shape in inputs.SHAPES.items() if not any(part in name for part in lost)}
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    table = recognise(state, pretrained.TABLES, "the file")
    spec = ModelSpec(table.network, table.options_from(state))
    assert spec == ModelSpec("manet", MODELS["manet"].Options(embedding_dim=0, **options))
    assert len(to_variables(state, spec, table, "the file")) == len(state) - num_unused


def test_tin_takes_frames_and_channels_from_its_file():
    table = pretrained.tin.TABLE
    clip = dataclasses.replace(MODELS["tin"].Options.tiny().clip, num_frames=6)
    spec = ModelSpec("tin", MODELS["tin"].Options.tiny(depth=14, shift_div=2, clip=clip))
    state = {x.name: np.ones(x.shape, np.float32) for x in tensors_of(spec, table)}
    found = table.options_from(state)
    assert (found.clip.num_frames, found.shift_div, found.width) == (6, 2, 16)


def test_torchvision_names_are_resnet_50s():
    # 25,557,032 parameters, of which the classifier has 2,049,000; 53 BatchNorms, each with two vectors and a count.
    shapes = torchvision_names((3, 4, 6, 3))
    trained = [shape for name, shape in shapes.items() if "running" not in name and "tracked" not in name]
    assert sum(int(np.prod(shape)) for shape in trained) == 25_557_032
    assert len(shapes) == 320


@pytest.mark.parametrize(("layers", "depth"), [((3, 4, 6, 3), 50), ((3, 4, 23, 3), 101)])
def test_torchvision_resnets_fit(layers, depth):
    # Each tensor holds a number of its own, by which it is found again.
    shapes = torchvision_names(layers)
    number = {name: i for i, name in enumerate(shapes)}
    state = {name: np.broadcast_to(np.float32(number[name]), shape) for name, shape in shapes.items()}
    table = recognise(state, pretrained.TABLES, "the file")
    assert table.title == "a torchvision ResNet"
    spec = ModelSpec("manet", table.options_from(state))
    assert spec.options == MODELS["manet"].Options(num_classes=52, embedding_dim=300, depth=depth)
    taken = to_variables(state, spec, table, "the file")
    assert len(taken) == 5 * (sum(layers) * 3 + 5)  # convolutions, each with a BatchNorm
    unused = {title: len(names) for title, names in find_unused(state, table).items()}
    assert unused == {"fc (ImageNet's classes)": 2, "num_batches_tracked": sum(layers) * 3 + 5}
    fresh = flatten(abstract_variables(spec)[1]).keys() - taken.keys()
    head = ("classifier.linear", "joint_embedding.hidden", "joint_embedding.out")
    assert {re.sub(r"\d+\.", "", path) for path in fresh} == {
        *(f"params.heads.{layer}.{variable}" for layer in head for variable in ("kernel", "bias")),
        *("params.blocks.se.squeeze.kernel", "params.blocks.se.excite.kernel"),
    }

    # The blocks in order, by their names there; their parts by hand.
    blocks = [f"layer{stage}.{i}" for stage, count in enumerate(layers, 1) for i in range(count)]
    modules = {"stem.": "", **{f"blocks.{i}.": f"{block}." for i, block in enumerate(blocks)}}
    parts = {"conv1.conv": "conv1", "conv2.conv": "conv2", "conv3.conv": "conv3", "shortcut.conv": "downsample.0"}
    parts |= {"conv1.bn": "bn1", "conv2.bn": "bn2", "conv3.bn": "bn3", "shortcut.bn": "downsample.1"}
    stem = {"conv": "conv1", "bn": "bn1"}
    names = {"params": {"kernel": "weight", "scale": "weight", "bias": "bias"}}
    names["batch_stats"] = {"mean": "running_mean", "var": "running_var"}
    found = 0
    for ours, theirs in modules.items():
        for part, module in (stem if ours == "stem." else parts).items():
            for tree, variables in names.items():
                for variable, name in variables.items():
                    path = f"{tree}.{ours}{part}.{variable}"
                    if path in taken:
                        assert (np.asarray(taken[path]) == number[f"{theirs}{module}.{name}"]).all(), path
                        found += 1
    assert found == len(taken)
