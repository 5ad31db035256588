"""What UniFormer is beyond the contract of tests/test_models.py."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from checkpoints import random_variables
from flax import nnx
from golden import zoo_inputs

from configs.models import uniformer as recipe
from manet_jax import configuration, pretrained
from manet_jax.models import ModelSpec, vit
from manet_jax.models.uniformer import (
    GlobalBlock,
    LocalBlock,
    PatchEmbedding,
    UniFormerOptions,
    convolve_depthwise,
    depthwise_gradients_with_xla,
    depthwise_with_xla,
)
from manet_jax.models.variables import abstract_variables, flatten, merge
from manet_jax.pretrained import uniformer as weights
from manet_jax.pretrained.table import recognise, tensors_of, to_variables
from tfds_ma52.errors import UserError

FLOAT32 = jnp.dtype("float32")
OPTIONS = UniFormerOptions.tiny()
BASE = (5, 8, 20, 7)  # blocks of the base network's stages


def test_layer_norms_have_two_epsilons():
    # A variance of 1e-6: 0.001 / sqrt(1e-6 + epsilon). The logits hardly show which it is.
    spec = ModelSpec("uniformer", OPTIONS)
    network = merge(abstract_variables(spec)[0], random_variables(spec))
    norms = {path: module for path, module in nnx.iter_modules(network) if isinstance(module, vit.LayerNorm)}
    assert len(norms) == 4 + 2 * 2
    for path, norm in norms.items():
        after_patches = "embedding" in path
        norm.scale[...], norm.bias[...] = jnp.ones(norm.num_features), jnp.zeros(norm.num_features)
        assert norm.epsilon == (1e-5 if after_patches else 1e-6)
        x = jnp.tile(jnp.array([0.001, -0.001], jnp.float32), norm.num_features // 2)
        expected = 0.3015113 if after_patches else 0.7071068  # 1 / sqrt(11), 1 / sqrt(2)
        np.testing.assert_allclose(norm(x[None])[0, :2], [expected, -expected], rtol=1e-5)


@pytest.mark.parametrize(
    ("frames", "patch", "strides", "padding"),
    [(4, (3, 4, 4), (2, 4, 4), 1), (5, (3, 4, 4), (2, 4, 4), 1), (3, (1, 2, 2), (1, 2, 2), 0)],
)
def test_patches_are_a_strided_convolution(frames, patch, strides, padding):
    embedding = PatchEmbedding(5, 6, patch[1], patch[0], dtype=FLOAT32, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.integers(-8, 9, (*patch, 5, 6)), jnp.float32)
    x = jnp.asarray(rng.integers(-8, 9, (2, frames, 8, 12, 5)), jnp.float32)
    embedding.projection.kernel[...] = kernel
    embedding.projection.bias[...] = jnp.arange(6.0)
    padding = [(padding, padding), (0, 0), (0, 0)]
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimensions)
    np.testing.assert_array_equal(embedding.projection(x), expected + jnp.arange(6.0).reshape(1, 1, 1, 1, 6))


def depthwise(conv, x):
    """A convolution of each channel of one clip by itself, place by place."""
    kernel = np.asarray(conv.kernel[...])[:, :, :, 0]
    size = len(kernel)
    padded = np.pad(x, [(size // 2, size // 2)] * 3 + [(0, 0)])
    places = np.ndindex(x.shape[:3])
    sums = [
        (padded[t : t + size, i : i + size, j : j + size] * kernel).sum((0, 1, 2), dtype=np.float64)
        for t, i, j in places
    ]
    return np.reshape(sums, x.shape) + np.asarray(conv.bias[...])


def batch_norm(norm, x):
    mean, var, scale, bias = (np.asarray(value[...]) for value in (norm.mean, norm.var, norm.scale, norm.bias))
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def randomize(module, seed=0):
    """Random variables, as large as those of a trained network."""
    rng = np.random.default_rng(seed)
    state = nnx.state(module)
    values = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.3, 0.9, x.shape) * rng.choice([-1, 1]), x.dtype), state)
    positive = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.abs(x) if "var" in jax.tree_util.keystr(path) else x, values
    )
    nnx.update(module, positive)


def test_local_block_by_hand():
    block = LocalBlock(2, 0.0, dtype=FLOAT32, rngs=nnx.Rngs(0))
    randomize(block)
    x = np.random.default_rng(1).normal(size=(3, 4, 2, 2))

    def linear(layer, x):
        return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    y = x + depthwise(block.position, x)
    y = y + linear(block.out, depthwise(block.affinity, linear(block.value, batch_norm(block.norm1, y))))
    hidden = linear(block.fc1, batch_norm(block.norm2, y))
    hidden = hidden * (1 + np.asarray(jax.scipy.special.erf(jnp.asarray(hidden / np.sqrt(2), jnp.float32)))) / 2
    expected = y + linear(block.fc2, hidden)
    ours = jax.jit(block)(jnp.asarray(x[None], jnp.float32), None)[0]
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def test_global_block_adds_position_attention_and_mlp():
    block = GlobalBlock(4, 2, 0.0, dtype=FLOAT32, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 2, 4)).astype(np.float32)
    y = x[0] + depthwise(block.position, x[0])
    tokens = jnp.asarray(y.reshape(1, 12, 4), jnp.float32)
    tokens = tokens + block.attention(block.norm1(tokens))
    tokens = tokens + block.mlp(block.norm2(tokens))
    np.testing.assert_allclose(jax.jit(block)(jnp.asarray(x), None), tokens.reshape(x.shape), atol=1e-5)


def test_global_blocks_see_all_places_and_local_ones_their_surroundings():
    x = np.random.default_rng(0).normal(size=(2, 2, 9, 9, 8)).astype(np.float32)
    changed = x.copy()
    changed[0, 0, 0, 0, 0] += 5
    seen = {}
    for kind, heads in ((LocalBlock, ()), (GlobalBlock, (1,))):
        block = kind(8, *heads, 0.0, dtype=FLOAT32, rngs=nnx.Rngs(0))
        randomize(block)
        apply = jax.jit(block)
        before, after = (np.asarray(apply(jnp.asarray(each), None)) for each in (x, changed))
        seen[kind] = np.abs(before - after).max(-1) > 0
    assert not any(differing[1].any() for differing in seen.values())
    assert seen[GlobalBlock][0].all()
    # A pixel by the position encoding, two more by the affinity.
    assert np.argwhere(seen[LocalBlock][0, 0]).max() == 3


def test_drop_path_is_one_draw_a_clip_and_branch():
    block = LocalBlock(4, 0.5, dtype=FLOAT32, rngs=nnx.Rngs(0))
    block.fc2.kernel[...] = jnp.zeros((16, 4))
    block.out.kernel[...] = jnp.zeros((4, 4))
    block.position.kernel[...] = jnp.zeros((3, 3, 3, 1, 4))
    block.out.bias[...], block.fc2.bias[...] = jnp.ones(4), 10 * jnp.ones(4)
    keys = jax.random.split(jax.random.key(0), 32)
    apply = jax.jit(block)
    added = np.asarray(apply(jnp.zeros((32, 2, 3, 3, 4)), keys)).reshape(32, -1)
    assert (added == added[:, :1]).all()
    assert set(np.unique(added)) == {0, 2, 20, 22}
    assert (apply(jnp.zeros((1, 2, 3, 3, 4)), None) == 11).all()


def test_drop_path_rises_over_all_blocks():
    options = dataclasses.replace(OPTIONS, depths=(1, 2, 1, 1), drop_path=0.4)
    spec = ModelSpec("uniformer", options)
    network = merge(abstract_variables(spec)[0], random_variables(spec))
    stages = (network.stage1, network.stage2, network.stage3, network.stage4)
    np.testing.assert_allclose([block.rate for stage in stages for block in stage.blocks], [0, 0.1, 0.2, 0.3, 0.4])
    assert [stage.first for stage in stages] == [0, 1, 3, 4]


def test_softmax_is_float32_in_bfloat16():
    # Scores of some tens, as sharp attention has: in bfloat16 they are off by up to 0.25, and weights by a quarter.
    attention = vit.Attention(16, 1, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    attention.qkv.kernel[...] = jnp.asarray(rng.normal(0, 0.8, (16, 48)), jnp.float32)
    attention.out.kernel[...] = jnp.eye(16)
    x = jnp.asarray(rng.normal(size=(1, 392, 16)), jnp.bfloat16)
    query, key, value = jnp.split(attention.qkv(x), 3, axis=-1)
    in_bfloat16 = jax.nn.softmax(query @ key.mT * jnp.bfloat16(0.25)) @ value
    query, key, value = (np.asarray(each[0], np.float64) for each in (query, key, value))
    weights = np.exp(query @ key.T / 4)
    exact = weights / weights.sum(1, keepdims=True) @ value

    def error(result):
        return np.linalg.norm(np.asarray(result[0], np.float64) - exact) / np.linalg.norm(exact)

    assert error(attention(x)) < 0.004
    assert error(in_bfloat16) > 0.008


def test_fresh_convolutions_are_pytorchs():
    # Uniform up to 1 / sqrt(inputs).
    block = LocalBlock(8, 0.0, dtype=FLOAT32, rngs=nnx.Rngs(0))
    for layer, inputs in ((block.affinity, 125), (block.position, 27), (block.fc2, 32)):
        assert 0.9 * inputs**-0.5 < np.abs(layer.kernel[...]).max() <= inputs**-0.5
        assert not layer.bias[...].any()


# The convolution of each channel by itself.


def with_gradient(function, x, kernel, gradient):
    """The result of a convolution, and its gradients given that of its result."""

    def apply(x, kernel, gradient):
        result, vjp = jax.vjp(function, x, kernel)
        return result, vjp(gradient)

    return jax.jit(apply)(x, kernel, gradient)


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((4, 6, 5, 3), 3),
        ((6, 7, 5, 2), 5),
        ((2, 3, 1, 4), 5),  # smaller than the kernel
    ],
)
def test_convolve_depthwise_is_xlas(shape, size):
    def plain(x, kernel):
        dimensions = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1, 1), [(size // 2,) * 2] * 3, dimension_numbers=dimensions, feature_group_count=shape[-1]
        )

    rng = np.random.default_rng(0)
    x, gradient = (jnp.asarray(rng.integers(-8, 9, (2, *shape)), jnp.float32) for _ in range(2))
    kernel = jnp.asarray(rng.integers(-8, 9, (size, size, size, 1, shape[-1])), jnp.float32)
    expected = with_gradient(plain, x, kernel, gradient)
    assert_equal(with_gradient(convolve_depthwise, x, kernel, gradient), expected)
    # What other devices run.
    assert_equal(depthwise_with_xla(x, kernel), expected[0])
    assert_equal(depthwise_gradients_with_xla(x, kernel, gradient), expected[1])


def test_convolve_depthwise_adds_up_in_float32():
    # In bfloat16, 256 + 1 is 256: of 125 products all but the first would be lost.
    x = jnp.ones((1, 5, 5, 5, 1), jnp.bfloat16).at[0, 0, 0, 0].set(256)
    kernel = jnp.ones((5, 5, 5, 1, 1), jnp.bfloat16)
    y, (along_x, along_kernel) = with_gradient(convolve_depthwise, x, kernel, x)
    assert {each.dtype for each in (y, along_x, along_kernel)} == {jnp.dtype(jnp.bfloat16)}
    assert y[0, 2, 2, 2, 0] == along_x[0, 2, 2, 2, 0] == 256 + 124
    assert along_kernel[2, 2, 2, 0, 0] == 256 * 256  # and 124, less than its rounding


# Weights.


def published(name):
    """Shapes of the floating-point tensors in a published file, and the file with zeros, by mmaction2's names."""
    tensors = zoo_inputs.record(name).tensors
    shapes = {key: tuple(shape) for key, (shape, dtype) in tensors.items() if dtype == "float32"}
    return shapes, {key: np.broadcast_to(np.float32(0), shape) for key, (shape, _) in tensors.items()}


def with_authors_names(state):
    """They differ from mmaction2's by what stands in front of them, and by that of the head."""
    return {key.removeprefix("backbone.").replace("cls_head.fc_cls", "head"): x for key, x in state.items()}


def test_published_file_has_the_names_of_the_tables():
    # The base network's is in tests/test_zoo.py.
    shapes, state = published("uniformer_s")
    spec = ModelSpec("uniformer", UniFormerOptions())
    assert {x.name: x.shape for x in tensors_of(spec, weights.MMACTION2)} == shapes
    assert len(to_variables(with_authors_names(state), spec, weights.AUTHORS, "the file")) == len(shapes)


@pytest.mark.parametrize(("name", "options"), [("uniformer_s", {}), ("uniformer_b", {"depths": BASE})])
def test_published_files_give_their_sizes(name, options):
    _, state = published(name)
    for table, each in ((weights.MMACTION2, state), (weights.AUTHORS, with_authors_names(state))):
        assert recognise(each, pretrained.TABLES, "the file") is table
        assert table.options_from(each) == UniFormerOptions(**options)


def test_image_weights_are_repeated_along_time():
    spec = ModelSpec("uniformer", OPTIONS)
    rng = np.random.default_rng(0)
    state = {x.name: rng.normal(size=x.shape).astype(np.float32) for x in tensors_of(spec, weights.IMAGES) if x.name}
    assert state["patch_embed1.proj.weight"].shape == (8, 3, 4, 4)
    assert state["patch_embed2.proj.weight"].shape == (8, 8, 2, 2)
    assert state["blocks1.0.attn.weight"].shape == (8, 1, 5, 5)
    assert state["blocks1.0.conv1.weight"].shape == (8, 8, 1, 1)
    assert recognise(state, pretrained.TABLES, "the file") is weights.IMAGES
    taken = {path.removeprefix("params."): x for path, x in to_variables(state, spec, weights.IMAGES, "file").items()}
    for path, name, length in (
        ("stage1.embedding.projection", "patch_embed1.proj", 3),
        ("stage2.embedding.projection", "patch_embed2.proj", 1),
        ("stage1.blocks.0.position", "blocks1.0.pos_embed", 3),
        ("stage4.blocks.0.position", "blocks4.0.pos_embed", 3),
        ("stage2.blocks.0.affinity", "blocks2.0.attn", 5),
    ):
        kernel, weight = taken[f"{path}.kernel"], state[f"{name}.weight"]
        assert kernel.shape == (length, *weight.shape[2:], *weight.shape[1::-1])
        for frame in kernel:
            np.testing.assert_array_equal(frame, weight.transpose(2, 3, 1, 0) / length)
        np.testing.assert_array_equal(taken[f"{path}.bias"], state[f"{name}.bias"])
    np.testing.assert_array_equal(taken["stage1.blocks.0.value.kernel"], state["blocks1.0.conv1.weight"][:, :, 0, 0].T)
    fresh = {path.split(".", 1)[1] for path in flatten(abstract_variables(spec)[1])} - {
        path.removeprefix("batch_stats.") for path in taken
    }
    assert all(path.startswith("heads.") for path in fresh)
    assert len(fresh) == 6


def test_image_networks_of_another_kind_are_refused():
    # The authors' larger image networks scale their residual branches.
    spec = ModelSpec("uniformer", OPTIONS)
    state = {x.name: np.zeros(x.shape, np.float32) for x in tensors_of(spec, weights.IMAGES) if x.name}
    state["blocks3.0.gamma_1"] = np.zeros(16, np.float32)
    with pytest.raises(UserError, match=r"unknown: blocks3\.0\.gamma_1 \[16\]$"):
        to_variables(state, spec, weights.IMAGES, "the file is not quite an ImageNet UniFormer")


# The config.


def test_recipe_has_the_published_sizes():
    small, base = (configuration.parse(recipe.get_config(size)) for size in ("small", "base"))
    assert small.network.spec(52).options == UniFormerOptions()
    assert base.network.spec(52).options == UniFormerOptions(depths=BASE, drop_path=0.3)
    with pytest.raises(ValueError, match="has no size 'large'; name one of small, base after a colon"):
        recipe.get_config("large")


def test_recipe_is_the_same_through_json():
    config = recipe.get_config("base")
    again = ml_collections.ConfigDict(json.loads(config.to_json()))
    assert isinstance(again.model.depths, list)
    specs = [configuration.parse(each).network.spec(52) for each in (config, again)]
    assert specs[0] == specs[1]
    assert hash(specs[0]) == hash(specs[1])


def test_config_reports_widths_and_clips_that_do_not_fit():
    config = recipe.get_config()
    config.clip.crop_size = 100
    config.model.widths = (64, 128, 320, 500)
    with pytest.raises(UserError) as error:
        configuration.parse(config)
    for problem in (
        "config.clip.crop_size is 100; it must be a multiple of 32",
        "config.model.widths is (64, 128, 320, 500); the last two must be multiples of head_size, 64",
    ):
        assert problem in str(error.value)
