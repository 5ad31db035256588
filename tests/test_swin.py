"""What Video Swin is beyond the contract of tests/test_models.py: windows, shifts, positions, its start from images."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import random_variables, save_checkpoint
from flax import nnx
from golden import zoo_inputs

from configs.models import swin as recipe
from manet_jax import configuration, pretrained
from manet_jax.models import ClipSpec, ModelSpec, swin, vit
from manet_jax.models.swin import Block, Merging, Patches, SwinOptions
from manet_jax.models.variables import abstract_variables, merge, replace
from manet_jax.pretrained import swin as weights
from manet_jax.pretrained.table import recognise, to_state_dict, to_variables
from manet_jax.warm_start import Source, warm_start
from tfds_ma52.labels import MA52

FLOAT32 = jnp.dtype("float32")
OPTIONS = SwinOptions.tiny()
SPEC = ModelSpec("swin", OPTIONS)
IMAGES = ModelSpec(
    "swin",
    SwinOptions.tiny(window_frames=1, patch_frames=1, clip=ClipSpec(num_frames=1, short_side=40, crop_size=32)),
)


def make_block(num_features=8, num_heads=2, window=(2, 3, 3), *, shifted=False, drop_rate=0.0):
    """A block whose attention is strong enough to show what it sees."""
    block = Block(
        num_features, num_heads, window, shifted=shifted, drop_rate=drop_rate, dtype=FLOAT32, rngs=nnx.Rngs(0)
    )
    rng = np.random.default_rng(0)
    for layer in (block.attention.qkv, block.attention.out):
        layer.kernel[...] = jnp.asarray(rng.normal(0, 0.5, layer.kernel.shape), jnp.float32)
    return block


def run(module, *arguments):
    """What a module returns, compiled."""
    return np.asarray(jax.jit(module.__call__)(*arguments))


def attend(block, x):
    return np.asarray(jax.jit(block.attend)(x))


def test_positions_are_those_of_differences():
    window = (2, 3, 4)
    table = np.random.default_rng(0).normal(size=(3, 5, 7, 2)).astype(np.float32)
    pairs = np.asarray(swin.expand_differences(jnp.array(table)))
    assert pairs.shape == (2, 24, 24)
    places = list(np.ndindex(window))
    for i, (t, h, w) in enumerate(places):
        for j, (t2, h2, w2) in enumerate(places):
            np.testing.assert_array_equal(pairs[:, i, j], table[t - t2 + 1, h - h2 + 2, w - w2 + 3])


def test_positions_are_the_rows_of_the_published_index():
    index = zoo_inputs.relative_positions(8, 7, 7)
    assert index[0, 0] == 7 * 169 + 6 * 13 + 6
    assert (index[0, -1], index[-1, 0]) == (0, 2534)
    table = np.arange(2535, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(swin.expand_differences(jnp.array(table.reshape(15, 13, 13, 1)))[0], index)


def test_window_is_the_map_where_that_is_no_larger():
    published = (8, 7, 7)
    assert swin.fit_window((16, 56, 56), published, shifted=True) == (published, (4, 3, 3))
    assert swin.fit_window((16, 56, 56), published, shifted=False) == (published, (0, 0, 0))
    assert swin.fit_window((16, 7, 7), published, shifted=True) == (published, (4, 0, 0))
    assert swin.fit_window((8, 14, 14), published, shifted=True) == (published, (0, 3, 3))
    assert swin.fit_window((6, 24, 3), published, shifted=True) == ((6, 7, 3), (0, 3, 0))


def test_split_takes_windows_in_order():
    x = jnp.arange(2 * 2 * 4 * 6).reshape(1, 2, 4, 6, 2).astype(jnp.float32)
    windows = swin.split(x, (1, 2, 3))
    assert windows.shape == (1, 2, 2, 2, 6, 2)
    np.testing.assert_array_equal(windows[0, 1, 0, 1], x[0, 1, :2, 3:].reshape(6, 2))
    np.testing.assert_array_equal(swin.join(windows, (1, 2, 3)), x)


def test_pad_adds_zeros_at_the_end():
    x = jnp.ones((1, 3, 4, 2, 1))
    padded = swin.pad(x, (2, 4, 3))
    assert padded.shape == (1, 4, 4, 3, 1)
    np.testing.assert_array_equal(padded[:, :3, :, :2], x)
    assert padded.sum() == x.sum()
    assert swin.pad(x, (3, 2, 1)) is x


def test_regions_keep_the_shifts_seam_apart():
    # Six places in windows of three, moved by one: the last window holds places 3 and 4 of the line, and its start.
    regions = swin.find_regions((1, 6, 1), (1, 3, 1), (0, 1, 0))
    assert regions.tolist() == [[0, 0, 0], [3, 3, 6]]
    mask = np.asarray(swin.mask_regions(regions))
    assert not mask[0].any()
    assert mask[1].tolist() == [[0, 0, -100], [0, 0, -100], [-100, -100, 0]]
    # Regions of two axes are all pairs of those of one.
    assert swin.find_regions((4, 1, 4), (2, 1, 2), (1, 0, 1))[-1].tolist() == [10, 19, 11, 20]


@pytest.mark.parametrize("shifted", [False, True])
def test_block_sees_a_window_and_no_further(shifted):
    # The third axis is as long as the window, and is not shifted.
    block, maps = make_block(shifted=shifted), (4, 6, 3)
    x = np.random.default_rng(1).normal(size=(2, *maps, 8)).astype(np.float32)
    before = attend(block, x)
    shift = np.array([1, 1, 0]) * shifted
    window_of = (np.indices(maps).reshape(3, -1).T - shift) // [2, 3, 3]
    for place in [(0, 0, 0), (1, 2, 1), (3, 5, 2), (2, 3, 0)]:
        changed = x.copy()
        changed[(1, *place)] += 2
        difference = np.abs(attend(block, changed) - before).max(-1)
        expected = (window_of == (place - shift) // [2, 3, 3]).all(1).reshape(maps)
        np.testing.assert_array_equal(difference[1] > 1e-4, expected)
        assert not difference[0].any()


def test_block_attends_to_padding():
    # Of equal scores the result is the mean over a window; a place of padding has the bias alone as its value.
    block = make_block(1, 1, (1, 3, 1))
    block.attention.qkv.kernel[...], block.attention.out.kernel[...] = jnp.array([[0.0, 0.0, 1.0]]), jnp.ones((1, 1))
    block.attention.qkv.bias[...] = jnp.array([0.0, 0.0, 10.0])
    block.position_bias[...] = jnp.zeros((1, 5, 1, 1))
    line = np.array([3.0, 6.0, 9.0, 30.0, 60.0], np.float32).reshape(1, 1, 5, 1, 1)
    np.testing.assert_allclose(attend(block, line)[0, 0, :, 0, 0], [16, 16, 16, 40, 40], rtol=1e-6)


def test_smaller_windows_have_the_first_positions_of_a_full_one():
    # The reference's rule: two rows of a 2 x 2 window are places 0 .. 3 of a 3 x 3 one, which are no rows of its.
    block = make_block(2, 1, (1, 3, 3))
    block.attention.qkv.kernel[...] = jnp.pad(jnp.eye(2), ((0, 0), (4, 0)))  # no scores; the values are the tokens
    block.attention.out.kernel[...] = jnp.eye(2)
    table = np.random.default_rng(0).normal(size=(1, 5, 5, 1)).astype(np.float32)
    block.position_bias[...] = jnp.array(table)
    x = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)
    scores = np.exp(table.reshape(-1)[zoo_inputs.relative_positions(1, 3, 3)[:4, :4]])
    expected = scores / scores.sum(1, keepdims=True) @ x
    np.testing.assert_allclose(attend(block, x.reshape(1, 1, 2, 2, 2)).reshape(4, 2), expected, rtol=1e-5)


def test_merging_takes_columns_first_and_pads():
    merging = Merging(1, dtype=FLOAT32, rngs=nnx.Rngs(0))
    merging.reduction.kernel[...] = jnp.eye(4, 2)
    x = np.array([[1.0, 5.0, 7.0], [2.0, 9.0, 8.0]], np.float32)
    merged = run(merging, x.reshape(1, 1, 2, 3, 1))
    assert merged.shape == (1, 1, 1, 2, 2)
    for location, four in enumerate(([1, 2, 5, 9], [7, 8, 0, 0])):  # of these the first two are kept
        normal = (four - np.mean(four)) / np.sqrt(np.var(four) + 1e-5)
        np.testing.assert_allclose(merged[0, 0, 0, location], normal[:2], rtol=1e-5)


def test_patches_are_a_convolution_as_wide_as_its_strides():
    patches = Patches((2, 4, 4), 5, dtype=FLOAT32, rngs=nnx.Rngs(0))
    patches.projection.bias[...] = jnp.arange(5.0)
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 9, 3)).astype(np.float32)
    ours = run(patches, x)
    assert ours.shape == (2, 2, 2, 3, 5)
    # The second patch in time has one frame and one of zeros.
    token = np.einsum("ijc,ijcd->d", x[1, 2, 4:8, 4:8], patches.projection.kernel[0]) + np.arange(5)
    np.testing.assert_allclose(ours[1, 1, 1, 1], (token - token.mean()) / np.sqrt(token.var() + 1e-5), rtol=1e-4)


def test_drop_path_drops_branches_of_whole_clips():
    block = make_block(drop_rate=0.5)
    block.mlp.fc2.kernel[...] *= 0.0
    x = jnp.asarray(np.random.default_rng(1).normal(size=(16, 2, 3, 3, 8)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 16)
    added, whole = (run(block, x, each) - x for each in (keys, None))
    dropped = [not each.any() for each in added]
    assert 4 <= sum(dropped) <= 12
    np.testing.assert_allclose(added, np.where(np.reshape(dropped, (16, 1, 1, 1, 1)), 0, 2 * whole), atol=1e-5)


def test_drop_path_rises_from_block_to_block():
    network = nnx.eval_shape(lambda: merge(*abstract_variables(ModelSpec("swin", SwinOptions.tiny(drop_path=0.3)))))
    np.testing.assert_allclose([block.drop_rate for block in network.blocks], np.arange(7) * 0.05)
    assert [block.shifted for block in network.blocks] == [False, True, False, True, False, False, True]


def test_bfloat16_scores_would_lose_positions():
    # A constant beside the scores changes no weight; in bfloat16 it would cost their last digits.
    exact, ours = (vit.Attention(32, 1, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)) for dtype in ("float32", "bfloat16"))
    for attention in (exact, ours):
        attention.out.kernel[...] = jnp.eye(32)
        attention.qkv.kernel[...] *= 10.0
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 4, 98, 32)), jnp.bfloat16)
    bias = jnp.asarray(rng.normal(size=(1, 1, 1, 98, 98)) + 60, jnp.float32)
    known = run(exact, x.astype(jnp.float32), bias)

    @jax.jit
    def in_bfloat16(x):
        query, key, value = jnp.split(ours.qkv(x), 3, axis=-1)
        scores = jnp.einsum("...qd,...kd->...qk", query, key) * jnp.asarray(32**-0.5, jnp.bfloat16)
        return jnp.einsum("...qk,...kd->...qd", jax.nn.softmax(scores + bias[:, :, 0].astype(jnp.bfloat16)), value)

    def error(result):
        return np.linalg.norm(np.asarray(result, np.float32) - known) / np.linalg.norm(known)

    assert error(run(ours, x, bias)) < 0.01
    assert error(in_bfloat16(x)) > 0.05


def test_inflate_by_hand():
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(1, 3, 3, 2)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(1, 4, 4, 3, 8)), jnp.float32)
    images = {"patches.projection.kernel": kernel, "blocks.0.position_bias": table}
    others = {"patches.projection.bias": jnp.ones(8), "norm.scale": jnp.ones(8)}
    clips = {"patches.projection.kernel": jnp.zeros((2, 4, 4, 3, 8)), "blocks.0.position_bias": jnp.zeros((5, 3, 3, 2))}
    inflated = swin.inflate({**images, **others, "of no clip": jnp.ones(1)}, {**clips, **others})
    np.testing.assert_array_equal(inflated.pop("patches.projection.kernel"), np.repeat(kernel / 2, 2, axis=0))
    np.testing.assert_array_equal(inflated.pop("blocks.0.position_bias"), np.repeat(table, 5, axis=0))
    assert inflated == {**others, "of no clip": inflated["of no clip"]}
    same = swin.inflate(clips, clips)
    assert all((same[path] == value).all() for path, value in clips.items())


def inflate_table(table, shape):
    """A table of positions of one head, as one of another shape."""
    tables = {"blocks.0.position_bias": jnp.asarray(table, jnp.float32)[..., None]}
    return swin.inflate(tables, {"blocks.0.position_bias": jnp.zeros((*shape, 1))})["blocks.0.position_bias"][..., 0]


def test_inflate_resizes_windows_of_other_sides():
    # Of windows of 5 x 5 to those of 3 x 3: 9 differences become 5.
    line = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0])
    table = np.tile(line, (1, 9, 1))
    resized = inflate_table(table, (3, 5, 5))
    np.testing.assert_allclose(resized, np.tile([2.008, 3.664, 5.0, 2.944, 5.676], (3, 5, 1)), atol=1e-5)
    down = inflate_table(table.swapaxes(1, 2), (3, 5, 5))
    np.testing.assert_allclose(down, np.swapaxes(resized, 1, 2), rtol=1e-5)
    # Another length in time has no published rule.
    assert inflate_table(np.zeros((3, 9, 9)), (5, 5, 5)).shape == (3, 9, 9)


def test_bicubic_is_pytorchs():
    # torch.nn.functional.interpolate(..., mode="bicubic") of PyTorch 2.13.
    line = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0])
    np.testing.assert_allclose(swin.bicubic(9, 5) @ line, [2.008, 3.664, 5.0, 2.944, 5.676], atol=1e-5)
    known = [3.165225, 1.612426, 1.507966, 3.953573, 1.880745, 1.620391, 5.0]
    known += [8.822031, 6.567137, 1.907601, 5.059854, 5.944696, 4.917387]
    np.testing.assert_allclose(swin.bicubic(9, 13) @ line, known, atol=1e-5)
    np.testing.assert_array_equal(swin.bicubic(9, 9), np.eye(9))


def features(spec, variables, video):
    graphdef, _ = abstract_variables(spec)
    return jax.jit(lambda variables, video: merge(graphdef, variables).features(video))(variables, video)


@pytest.mark.slow
def test_inflated_network_sees_a_still_clip_as_an_image(tmp_path):
    # Of 96 pixels, so that the last map, 3 x 3, is no smaller than a window: places keep their differences.
    clip = ClipSpec(num_frames=8, short_side=96, crop_size=96)
    of_clips = ModelSpec("swin", dataclasses.replace(OPTIONS, clip=clip))
    of_images = ModelSpec("swin", dataclasses.replace(IMAGES.options, clip=dataclasses.replace(clip, num_frames=1)))
    images = save_checkpoint(tmp_path / "images", of_images)
    fresh = random_variables(of_clips, seed=1)
    variables, origin = warm_start(fresh, Source("init_from", str(tmp_path / "images")), MA52)
    assert (origin.fresh, origin.unused) == ([], [])
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 1, 96, 96, 3)), jnp.uint8)
    known = np.asarray(features(of_images, images, image))
    ours = np.asarray(features(of_clips, variables, jnp.tile(image, (1, 8, 1, 1, 1))))
    assert ours.shape == (1, 4, 3, 3, 128)
    np.testing.assert_allclose(ours, np.repeat(known, 4, axis=1), rtol=1e-4, atol=1e-4)


def rename(state, *rules):
    """Tensors under the names that some patterns and their replacements give."""

    def new_name(name):
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return {new_name(name): value for name, value in state.items()}


TO_AUTHORS = ((r"^backbone\.norm3\.", "backbone.norm."),)
TO_TORCHVISION = (
    (r"^backbone\.layers\.(\d)\.blocks\.", lambda match: f"features.{2 * int(match[1])}."),
    (r"^backbone\.layers\.(\d)\.downsample\.", lambda match: f"features.{2 * int(match[1]) + 1}."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^backbone\.norm3\.", "norm."),
    (r"^backbone\.", ""),
    (r"^cls_head\.fc_cls\.", "head."),
)
TO_IMAGES = ((r"^backbone\.norm3\.", "norm."), (r"^backbone\.", ""), (r"^cls_head\.fc_cls\.", "head."))
TO_TIMM = (
    *TO_IMAGES,
    (r"^layers\.(\d)\.downsample\.", lambda match: f"layers.{int(match[1]) + 1}.downsample."),
    (r"^head\.", "head.fc."),
)


@pytest.mark.parametrize(
    ("table", "rules"),
    [
        (weights.AUTHORS, TO_AUTHORS),
        (weights.TORCHVISION, TO_TORCHVISION),
        (weights.IMAGES, TO_IMAGES),
        (weights.TIMM, TO_TIMM),
    ],
    ids=lambda value: getattr(value, "title", ""),
)
def test_files_of_other_names_hold_the_same_network(table, rules):
    of_images = table in (weights.IMAGES, weights.TIMM)
    spec = ModelSpec("swin", dataclasses.replace((IMAGES if of_images else SPEC).options, embedding_dim=0))
    known = to_state_dict(random_variables(spec), spec, weights.MMACTION2)
    state = rename(known, *rules)
    if of_images:
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    assert recognise(state, pretrained.TABLES, "the file") is table
    found = table.options_from(state)
    assert dataclasses.replace(found, clip=spec.options.clip, num_classes=3, drop_path=0.0) == spec.options
    expected = to_variables(known, spec, weights.MMACTION2, "the file")
    taken = to_variables(state, spec, table, "the file")
    lacked = {path for path in expected if ".heads." in path} if of_images else set()
    assert taken.keys() == expected.keys() - lacked
    for path, value in taken.items():
        np.testing.assert_array_equal(value, expected[path])


def test_published_names_are_those_of_a_full_network():
    shapes = zoo_inputs.record("swin_base").tensors
    state = {name: np.broadcast_to(np.float32(1), shape) for name, (shape, _) in shapes.items()}
    options = recognise(state, pretrained.TABLES, "the file").options_from(state)
    assert options == SwinOptions(depth=18, width=128, num_heads=4)
    # The networks for which a table of 2535 rows of heads is published differ in these alone.
    state = {name: value for name, value in state.items() if not name.startswith("backbone.layers.1.blocks.1.")}
    with pytest.raises(ValueError, match=r"its stages have \[2, 1, 18, 2\] blocks; only those with 2, 2, any number"):
        weights.MMACTION2.options_from(state)


@pytest.mark.parametrize(
    ("rows", "window"),
    [
        (2535, (8, 7)),
        (31 * 169, (16, 7)),
        (15 * 529, (8, 12)),
        (169, (1, 7)),
        (529, (1, 12)),
        (75, (2, 3)),
        (2, (8, 7)),
    ],
)
def test_windows_are_found_by_the_rows_of_a_table(rows, window):
    assert weights.find_window(rows) == window


@pytest.mark.slow
def test_bfloat16_keeps_published_logits():
    known = zoo_inputs.outputs("swin_tiny_12x96")
    clip = ClipSpec(num_frames=12, short_side=96, crop_size=96)
    spec = ModelSpec("swin", SwinOptions(dtype="bfloat16", clip=clip))
    state = zoo_inputs.weights("swin_tiny_12x96")
    graphdef, abstract = abstract_variables(spec)
    variables = replace(abstract, to_variables(state, spec, weights.MMACTION2, "the file"))
    video = jnp.asarray(zoo_inputs.clips("swin_tiny_12x96"))
    logits = jax.jit(lambda variables, video: merge(graphdef, variables)({"video": video}).logits)(variables, video)
    assert np.abs(logits - known["logits"]).max() < 0.02 * np.abs(known["logits"]).max()


def test_layers_keep_a_merging_with_the_block_after_it():
    layers = SwinOptions().layers
    assert len(layers) == 14
    assert layers[:2] == (("patches",), ("blocks.0",))
    assert layers[3] == ("mergings.stage2", "blocks.2")
    assert layers[11] == ("mergings.stage4", "blocks.10")
    assert layers[-1] == ("norm", "heads")


@pytest.mark.parametrize(
    ("size", "options", "batch_size", "weight_decay"),
    [
        ("tiny", {}, 8, 0.02),
        ("small", {"depth": 18, "drop_path": 0.2}, 4, 0.02),
        ("base", {"depth": 18, "width": 128, "num_heads": 4, "drop_path": 0.3}, 2, 0.05),
    ],
)
def test_recipe_is_the_published_network(size, options, batch_size, weight_decay):
    config = configuration.parse(recipe.get_config(size))
    assert config.network.spec(52).options == SwinOptions(dtype="bfloat16", **options)
    assert (config.batch_size, config.optimizer.weight_decay) == (batch_size, weight_decay)
    assert config.optimizer.learning_rate * config.optimizer.head_lr_multiplier == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="has no size 'x'; name one of tiny, small, base after a colon"):
        recipe.get_config("x")
