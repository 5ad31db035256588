"""What TimeSformer, and the layers of vision transformers, are beyond the contract of tests/test_models.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoints import random_variables
from flax import nnx

from configs.models import timesformer as recipe
from manet_jax import configuration, models, optimizers, parallel, pretrained, tasks
from manet_jax.models import ModelSpec, vit
from manet_jax.models.emotion import EmotionNetOptions
from manet_jax.models.timesformer import SpatialAttention, TemporalAttention, TimeSformer, TimeSformerOptions, nearest
from manet_jax.models.variables import abstract_variables, create_variables, flatten, merge
from manet_jax.pretrained import timesformer as weights
from manet_jax.pretrained.table import recognise, to_variables
from manet_jax.train_step import create_step, create_train_state
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet

FLOAT32 = jnp.dtype("float32")
OPTIONS = TimeSformerOptions.tiny()


def test_attention_by_hand():
    # One head; q = x, k = 2 x, v = 3 x, and a result that is doubled.
    attention = vit.Attention(2, 1, dtype=FLOAT32, rngs=nnx.Rngs(0))
    attention.qkv.kernel[...] = jnp.concatenate([jnp.eye(2), 2 * jnp.eye(2), 3 * jnp.eye(2)], axis=1)
    attention.out.kernel[...] = 2 * jnp.eye(2)
    x = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    scores = np.exp(x @ (2 * x).T / np.sqrt(2))
    expected = 2 * (scores / scores.sum(1, keepdims=True)) @ (3 * x)
    np.testing.assert_allclose(attention(jnp.array(x[None]))[0], expected, rtol=1e-5)


def test_attention_keeps_heads_apart():
    # The second head's queries, keys and values do not touch what the first returns.
    attention = vit.Attention(4, 2, dtype=FLOAT32, rngs=nnx.Rngs(0))
    attention.out.kernel[...] = jnp.eye(4)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4)), jnp.float32)
    before = attention(x)
    for start in (0, 4, 8):
        attention.qkv.bias[...] = attention.qkv.bias[...].at[start + 2 : start + 4].add(1.0)
    after = attention(x)
    np.testing.assert_array_equal(before[..., :2], after[..., :2])
    assert np.abs(before[..., 2:] - after[..., 2:]).max() > 0.1


def test_patches_are_a_convolution_as_wide_as_its_stride():
    patches = vit.PatchEmbedding(4, 5, dtype=FLOAT32, rngs=nnx.Rngs(0))
    patches.projection.bias[...] = jnp.arange(5.0)
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    ours = patches(jnp.array(x))
    expected = np.einsum("ijcd,ijc->d", patches.projection.kernel[...], x[1, 4:8, 8:12]) + np.arange(5)
    assert ours.shape == (2, 2, 3, 5)
    np.testing.assert_allclose(ours[1, 1, 2], expected, rtol=1e-5, atol=1e-6)


def test_drop_path_drops_whole_sequences_of_a_clips_own_key():
    keys = jax.random.split(jax.random.key(0), 64)
    x = jnp.ones((64, 10, 3, 2))
    drop_path = jax.jit(vit.drop_path, static_argnums=2)
    dropped = np.asarray(drop_path(x, keys, 0.2))
    assert set(np.unique(dropped)) == {0, np.float32(1.25)}
    assert (dropped == dropped[:, :, :1, :1]).all()
    assert (dropped > 0).mean() == pytest.approx(0.8, abs=0.05)
    assert len(np.unique(dropped[:, :, 0, 0], axis=0)) > 32
    np.testing.assert_array_equal(dropped[5:6], drop_path(x[5:6], keys[5:6], 0.2))
    assert vit.drop_path(x, None, 0.2) is x


def test_drop_path_changes_training_alone():
    spec = ModelSpec("timesformer", dataclasses.replace(OPTIONS, dropout=0.0, drop_path=0.5))
    variables = random_variables(spec)
    video = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 4, 32, 32, 3)), jnp.uint8)
    network = merge(abstract_variables(spec)[0], variables)
    plain, dropped = (network({"video": video}, keys) for keys in (None, jax.random.split(jax.random.key(0), 4)))
    assert np.abs(plain.features - dropped.features).max() > 0.1
    assert [block.rate for block in network.blocks] == [0.0, 0.5]


def random_tokens(attention):
    """An attention with large weights, and tokens of two clips of 4 frames with 3 patches each."""
    rng = np.random.default_rng(0)
    layers = [attention.attention.qkv, attention.attention.out]
    for layer in [*layers, attention.linear] if hasattr(attention, "linear") else layers:
        layer.kernel[...] = jnp.asarray(rng.normal(0, 0.3, layer.kernel.shape), jnp.float32)
    return rng.normal(size=(2, 13, 32)).astype(np.float32)


def test_temporal_attention_sees_the_same_patch_of_all_frames():
    attention = TemporalAttention(OPTIONS, 0.0, rngs=nnx.Rngs(0))
    tokens = random_tokens(attention)
    changed = tokens.copy()
    changed[0, 1 + 1 * 4 + 2, 0] += 5  # the second patch, in the third frame
    before, after = (np.asarray(attention(jnp.array(x), None)) for x in (tokens, changed))
    np.testing.assert_array_equal(before[:, 0], tokens[:, 0])
    differing = np.abs(before - after).max(-1) > 1e-4
    assert np.flatnonzero(differing[0]).tolist() == [5, 6, 7, 8]
    assert not differing[1].any()


def test_spatial_attention_sees_a_frame_and_the_class_token():
    attention = SpatialAttention(OPTIONS, 0.0, rngs=nnx.Rngs(0))
    tokens = random_tokens(attention)
    changed = tokens.copy()
    changed[0, 1 + 1 * 4 + 2, 0] += 5
    before, after = (np.asarray(attention(jnp.array(x), None)) for x in (tokens, changed))
    differing = np.abs(before - after).max(-1) > 1e-4
    assert np.flatnonzero(differing[0]).tolist() == [0, 3, 7, 11]
    # The class token gets the mean of what it gets in each frame alone.
    alone = []
    for frame in range(4):
        of_frame = np.concatenate([tokens[:, :1], tokens[:, 1 + frame :: 4]], axis=1)
        alone.append(attention.attention(attention.norm(jnp.array(of_frame)))[:, 0])
    np.testing.assert_allclose(before[:, 0] - tokens[:, 0], np.mean(alone, axis=0), atol=1e-5)


def test_nearest_takes_the_place_before():
    table = jnp.arange(3.0).reshape(1, 3, 1)
    assert nearest(table, (3,))[0, :, 0].tolist() == [0, 1, 2]
    assert nearest(table, (5,))[0, :, 0].tolist() == [0, 0, 1, 1, 2]
    assert nearest(table, (2,))[0, :, 0].tolist() == [0, 1]
    square = jnp.arange(4.0).reshape(1, 2, 2, 1)
    assert nearest(square, (2, 4))[0, ..., 0].tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


def test_tables_of_other_sizes_are_resized():
    # Frames twice as large, of 8 frames: positions and times repeat, and the weights stay as they are.
    clip = dataclasses.replace(OPTIONS.clip, num_frames=8, short_side=64, crop_size=64)
    small, large = (ModelSpec("timesformer", o) for o in (OPTIONS, dataclasses.replace(OPTIONS, clip=clip)))
    variables = random_variables(small)
    shapes = [{k: v.shape for k, v in flatten(abstract_variables(x)[1]).items()} for x in (small, large)]
    assert shapes[0] == shapes[1]
    embed = merge(abstract_variables(large)[0], variables)._embed
    tokens = np.asarray(embed(jnp.full((1, 8, 64, 64, 3), 99, jnp.uint8)))[0, 1:].reshape(4, 4, 8, 32)
    np.testing.assert_array_equal(tokens[:, :, ::2], tokens[:, :, 1::2])
    np.testing.assert_array_equal(tokens[::2, ::2], tokens[1::2, 1::2])
    assert np.abs(tokens[0, 0, 0] - tokens[2, 0, 0]).max() > 1e-2
    assert np.abs(tokens[0, 0, 0] - tokens[0, 0, 2]).max() > 1e-2


def test_fresh_blocks_leave_time_out():
    spec = ModelSpec("timesformer", OPTIONS)
    params = flatten(create_variables(spec, seed=0)["params"])
    assert not np.any(params["blocks.1.temporal.linear.kernel"])
    assert not np.any(params["times"])
    assert np.std(params["blocks.0.mlp.fc1.kernel"]) == pytest.approx(0.02, rel=0.05)
    assert np.std(params["positions"]) == pytest.approx(0.02, rel=0.3)


def image_vit(num_blocks=2, width=64):
    """A ViT over images with timm's names; each tensor holds a number of its own, by which it is found again."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 197, width), "head.weight": (10, width), "head.bias": (10,)}
    modules = {"patch_embed.proj": (width, 3, 16, 16), "norm": (width,)}
    for i in range(num_blocks):
        sizes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width), "norm1": (width,), "norm2": (width,)}
        modules |= {f"blocks.{i}.{name}": shape for name, shape in sizes.items()}
    shapes |= {f"{name}.weight": shape for name, shape in modules.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in modules.items()}
    return {name: np.full(shape, number, np.float32) for number, (name, shape) in enumerate(shapes.items())}


def test_image_vit_starts_time_as_space():
    state = image_vit()
    table = recognise(state, pretrained.TABLES, "the file")
    options = table.options_from(state)
    assert (table.title, options.depth, options.width, options.num_heads) == (weights.VIT.title, 2, 64, 1)
    taken = to_variables(state, ModelSpec("timesformer", options), table, "the file")
    for i in (0, 1):
        for module, variable, name in (
            ("norm", "scale", "norm1.weight"),
            ("attention.qkv", "kernel", "attn.qkv.weight"),
            ("attention.out", "bias", "attn.proj.bias"),
        ):
            for part in ("temporal", "spatial"):
                assert (
                    taken[f"params.blocks.{i}.{part}.{module}.{variable}"]
                    == state[f"blocks.{i}.{name}"][0, ...].flat[0]
                ).all()
    missing = {path.split(".", 1)[1] for path in flatten(abstract_variables(ModelSpec("timesformer", options))[1])} - {
        path.split(".", 1)[1] for path in taken
    }
    heads = {f"heads.classifier.linear.{name}" for name in ("kernel", "bias")}
    assert missing == {
        "times",
        *heads,
        *(f"blocks.{i}.temporal.linear.{x}" for i in (0, 1) for x in ("kernel", "bias")),
    }


@pytest.mark.parametrize(
    ("table", "pixels"),
    [(weights.MMACTION2, 127.5), (weights.AUTHORS, 114.75), (weights.TRANSFORMERS, 114.75), (weights.VIT, 127.5)],
)
def test_files_bring_the_scale_of_their_pixels(table, pixels):
    clip = table.options_from({}).clip
    assert (clip.num_frames, clip.frame_interval, clip.short_side, clip.crop_size) == (8, 32, 256, 224)
    assert clip.mean == (pixels,) * 3
    config = recipe.get_config("mmaction2" if pixels == 127.5 else "authors")
    assert config.clip.mean == clip.mean
    assert config.clip.std == clip.std


def test_recipe_is_the_published_network():
    config = configuration.parse(recipe.get_config())
    assert config.network.spec(52).options == TimeSformerOptions()
    with pytest.raises(ValueError, match="has no pixels of 'x'; name one of mmaction2, authors after a colon"):
        recipe.get_config("x")


def test_config_of_a_clip_that_does_not_fit_is_one_sentence():
    config = recipe.get_config()
    config.clip.crop_size = 100
    with pytest.raises(UserError, match=r"config\.model\.patch_size is 16; clip\.crop_size, 100, must be a multiple"):
        configuration.parse(config)


def emotion_spec():
    """Emotions over two TimeSformers, of which that of the micro-actions is frozen."""
    appearance = TimeSformerOptions.tiny(num_classes=4, embedding_dim=0)
    options = EmotionNetOptions(
        num_emotions=4,
        micro_action=ModelSpec("timesformer", OPTIONS),
        appearance=ModelSpec("timesformer", appearance),
        frozen=True,
    )
    return ModelSpec("emotion", options)


@pytest.mark.slow
def test_emotions_and_several_labels_train_over_a_frozen_timesformer():
    spec, mesh = emotion_spec(), parallel.make_mesh(1)
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(0.05),
        momentum=0.9,
        weight_decay=1e-2,
        clip_norm=20.0,
        head_lr_multiplier=5.0,
        head="last",
        frozen_module="micro_action",
    )
    embedding = tasks.JointEmbedding(np.ones((3, 5), np.float32), weight=2.0)
    labels, emotions = LabelSet(("a", "b", "c"), ("all",), (0, 0, 0)), ("joy", "fear", "anger", "calm")
    losses = tasks.create_tasks(spec, labels, emotions, multilabel=True, joint_embedding=embedding)
    graphdef, state = abstract_variables(spec)[0], create_train_state(spec, optimizer, 0, mesh)
    before = flatten(jax.device_get(state.params))
    step = create_step(graphdef, optimizer, losses, mesh, seed=0, frozen_module="micro_action")
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    batch = {"video": video, "appearance": video, "labels": np.eye(2, 3, dtype=np.float32)}
    batch["emotion"] = np.array([2, -1], np.int32)
    state, values = step(parallel.replicate(state, mesh), parallel.shard_batch(batch, mesh))
    assert {"multilabel", "joint_embedding", "emotion_cross_entropy"} <= values.keys()
    after = flatten(jax.device_get(state.params))
    changed = {path.split(".")[0] for path, value in before.items() if (after[path] != value).any()}
    assert changed == {"appearance", "emotion"}


def test_emotions_over_two_timesformers_have_no_class_maps():
    network = nnx.eval_shape(lambda: models.create(emotion_spec(), nnx.Rngs(0)))
    assert isinstance(network.micro_action, TimeSformer)
    assert not hasattr(network, "class_maps")
    assert not hasattr(network.appearance, "class_maps")
