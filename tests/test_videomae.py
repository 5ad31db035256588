"""What VideoMAE is beyond the contract of tests/test_models.py."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import zoo
from checkpoints import random_variables
from flax import nnx
from golden import zoo_inputs
from recorded import relative_to_largest

from configs.models import videomae as recipe
from manet_jax import configuration, models, pretrained
from manet_jax.checkpoint import read_model
from manet_jax.models import MODELS, ModelSpec, vit
from manet_jax.models.emotion import EmotionNetOptions
from manet_jax.models.layers import normalize
from manet_jax.models.variables import abstract_variables, create_variables, flatten, merge
from manet_jax.models.videomae import VideoMAEOptions, positions
from manet_jax.optimizers import layer_of
from manet_jax.pretrained import videomae as weights
from manet_jax.pretrained.convert import convert
from manet_jax.pretrained.table import recognise, tensors_of, to_variables
from tfds_ma52.errors import UserError

OPTIONS = VideoMAEOptions.tiny()
# Several tests draw its weights, which is compiled once.
FRESH = VideoMAEOptions(depth=1, width=64, num_heads=1, patch_size=8)


def test_positions_by_hand():
    # Angles of the token's number over 1, 1, 100 and 100; sine and cosine in turn.
    expected = [[f(p / x) for x in (1, 100) for f in (math.sin, math.cos)] for p in range(3)]
    np.testing.assert_allclose(positions(3, 4), expected, rtol=1e-6)
    assert positions(3, 4).dtype == np.float32


@pytest.mark.parametrize(("name", "width"), [("videomae_s", 384), ("videomae_b", 768)])
def test_positions_are_those_of_the_reference(name, width):
    # With angles in float32 they would differ by 1e-4.
    known = zoo_inputs.outputs(name)["positions"]
    np.testing.assert_allclose(zoo_inputs.probe(positions(1568, width)), known, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("num_frames", "size"), [(4, 32), (6, 48)])
def test_positions_are_of_all_tokens_in_order(num_frames, size):
    # Without blocks features are the patches and their positions.
    clip = dataclasses.replace(OPTIONS.clip, num_frames=num_frames, short_side=size, crop_size=size)
    spec = ModelSpec("videomae", dataclasses.replace(OPTIONS, clip=clip))
    variables = random_variables(ModelSpec("videomae", OPTIONS))  # the weights fit every size
    video = np.random.default_rng(0).integers(0, 256, (1, num_frames, size, size, 3), np.uint8)

    def embed(variables, video):
        network = merge(abstract_variables(spec)[0], variables)
        network.blocks = nnx.List([])
        return network.features(video), network.patches(normalize(video, spec.options))

    features, patches = (np.asarray(x)[0] for x in jax.jit(embed)(variables, jnp.asarray(video)))
    t, h, w, c = features.shape
    assert (t, h, w, c) == (num_frames // 2, size // 8, size // 8, 32)
    table = positions(t * h * w, 32)
    for place in np.ndindex(t, h, w):
        number = place[0] * h * w + place[1] * w + place[2]
        np.testing.assert_allclose(features[place] - patches[place], table[number], atol=1e-5)


def test_attention_without_key_bias_by_hand():
    # One head; q = x + (1, -2), k = 2 x, v = 3 x + (5, 7).
    attention = vit.Attention(2, 1, key_bias=False, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    attention.qkv.kernel[...] = jnp.concatenate([jnp.eye(2), 2 * jnp.eye(2), 3 * jnp.eye(2)], axis=1)
    attention.q_bias[...], attention.v_bias[...] = jnp.array([1.0, -2.0]), jnp.array([5.0, 7.0])
    attention.out.kernel[...] = jnp.eye(2)
    x = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    scores = np.exp((x + np.array([1, -2])) @ (2 * x).T / np.sqrt(2))
    expected = (scores / scores.sum(1, keepdims=True)) @ (3 * x + np.array([5, 7]))
    np.testing.assert_allclose(jax.jit(attention)(jnp.array(x[None]))[0], expected, rtol=1e-5)


def test_softmax_is_float32_in_bfloat16():
    # Weights of 1,568 nearly equal tokens: normalised in bfloat16 their sum is off by per cents.
    rng = np.random.default_rng(0)
    attention = vit.Attention(64, 1, key_bias=False, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    attention.qkv.kernel[...] = jnp.concatenate([jnp.eye(64)] * 3, axis=1)
    attention.v_bias[...] = jnp.ones(64)
    attention.out.kernel[...] = jnp.eye(64)
    x = np.asarray(jnp.asarray(rng.normal(0, 0.3, (1, 1568, 64)), jnp.bfloat16), np.float64)
    scores = np.exp(x[0] @ x[0].T / 8)
    exact = scores / scores.sum(1, keepdims=True) @ (x[0] + 1)
    error = np.asarray(jax.jit(attention)(jnp.asarray(x, jnp.bfloat16))[0], np.float64) - exact
    assert np.abs(error).max() < 0.006  # rounding the result alone gives up to 0.004
    assert abs(error.mean()) < 0.002


@pytest.mark.slow
def test_bfloat16_is_close_to_the_reference():
    # At full size; 0.006 and 0.005 were measured.
    name = "videomae_s"
    state = zoo_inputs.weights(name)
    spec = zoo.NETWORKS[name].spec
    low = ModelSpec("videomae", dataclasses.replace(spec.options, dtype="bfloat16"))
    variables = zoo.load(name, state, weights.AUTHORS)
    run = jax.jit(lambda variables, video: merge(abstract_variables(low)[0], variables)({"video": video}))
    outputs = run(variables, jnp.asarray(zoo_inputs.clips(name)))
    known = zoo_inputs.outputs(name)
    assert relative_to_largest(outputs.logits, known["logits"]) < 0.015
    assert relative_to_largest(outputs.features, known["pooled"]) < 0.015


def test_patches_span_frames():
    patches = vit.PatchEmbedding((2, 4, 4), 5, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    patches.projection.bias[...] = jnp.arange(5.0)
    x = np.random.default_rng(0).normal(size=(2, 6, 8, 12, 3)).astype(np.float32)
    ours = patches(jnp.array(x))
    expected = np.einsum("tijcd,tijc->d", patches.projection.kernel[...], x[1, 2:4, 4:8, 8:12]) + np.arange(5)
    assert ours.shape == (2, 3, 2, 3, 5)
    np.testing.assert_allclose(ours[1, 1, 1, 2], expected, rtol=1e-5, atol=1e-6)


def test_drop_path_rises_and_changes_training_alone():
    spec = ModelSpec("videomae", dataclasses.replace(OPTIONS, dropout=0.0, drop_path=0.5))
    graphdef, variables = abstract_variables(spec)[0], random_variables(spec)
    video = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 4, 32, 32, 3)), jnp.uint8)
    run = jax.jit(lambda keys: merge(graphdef, variables)({"video": video}, keys).features)
    plain, dropped = run(None), run(jax.random.split(jax.random.key(0), 4))
    assert np.abs(plain - dropped).max() > 0.1
    assert [block.rate for block in merge(graphdef, variables).blocks] == [0.0, 0.5]


def test_fresh_weights_are_the_authors():
    params = flatten(create_variables(ModelSpec("videomae", FRESH), seed=0)["params"])
    block = {path.removeprefix("blocks.0.attention.") for path in params if path.startswith("blocks.0.attention.")}
    assert block == {"qkv.kernel", "q_bias", "v_bias", "out.kernel", "out.bias"}
    assert not np.any(params["blocks.0.attention.q_bias"])
    assert np.std(params["blocks.0.mlp.fc1.kernel"]) == pytest.approx(0.02, rel=0.05)
    # The patches' are uniform, up to 1 / sqrt(2 * 8 * 8 * 3).
    patches = np.abs(params["patches.projection.kernel"])
    assert 0.99 / np.sqrt(384) < patches.max() <= 1 / np.sqrt(384)


def make_state(table, *, num_blocks=2, width=64, num_classes=7):
    """The tensors of a file; each holds a number of its own, by which it is found again."""
    options = VideoMAEOptions.tiny(depth=num_blocks, width=width, num_classes=num_classes, embedding_dim=0)
    tensors = tensors_of(ModelSpec("videomae", options), table)
    shapes = {tensor.name: tensor.shape for tensor in tensors if tensor.name is not None}
    return {name: np.full(shape, number, np.float32) for number, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("table", weights.TABLES, ids=lambda table: table.title)
@pytest.mark.parametrize(("width", "num_heads"), [(384, 6), (768, 12), (32, 1)])
def test_heads_have_64_features(table, width, num_heads):
    # transformers' configuration of the small network has 16 heads of 24.
    found = table.options_from(make_state(table, num_blocks=1, width=width))
    assert (found.depth, found.width, found.num_heads) == (1, width, num_heads)
    assert (found.patch_size, found.tubelet_size) == (8, 2)
    assert found.clip == VideoMAEOptions().clip


def test_transformers_rows_are_queries_keys_and_values():
    state = make_state(weights.TRANSFORMERS)
    spec = ModelSpec("videomae", weights.TRANSFORMERS.options_from(state))
    attention = "videomae.encoder.layer.1.attention.attention"
    kernel = to_variables(state, spec, weights.TRANSFORMERS, "the file")["params.blocks.1.attention.qkv.kernel"]
    assert kernel.shape == (64, 3 * 64)
    for i, name in enumerate(("query", "key", "value")):
        assert (kernel[:, 64 * i : 64 * (i + 1)] == state[f"{attention}.{name}.weight"][0, 0]).all()
    del state[f"{attention}.key.weight"]
    state[f"{attention}.value.weight"] = np.zeros((65, 64), np.float32)
    with pytest.raises(UserError) as error:
        to_variables(state, spec, weights.TRANSFORMERS, "the file")
    assert str(error.value).splitlines()[1:] == [
        f"  missing: {attention}.key.weight [64, 64]",
        f"  shape: {attention}.value.weight is [65, 64], should be [64, 64]",
    ]


def test_pretrained_file_brings_its_encoder(tmp_path):
    state = make_state(weights.PRETRAINED, num_blocks=1)
    decoder = ("encoder_to_decoder.weight", "mask_token", "decoder.blocks.0.attn.q_bias", "decoder.head.bias")
    unused = dict.fromkeys([*decoder, "encoder.norm.weight", "encoder.norm.bias"], np.zeros(2, np.float32))
    safetensors.numpy.save_file(state | unused, tmp_path / "a.safetensors")
    metadata = convert(tmp_path / "a.safetensors", tmp_path / "run")
    assert metadata.model.options == FRESH
    assert metadata.source["unused"] == {"the decoder": 4, "the encoder's last norm": 2}
    assert set(metadata.fresh) == {
        *(f"params.heads.classifier.linear.{name}" for name in ("kernel", "bias")),
        *(f"params.norm.{name}" for name in ("scale", "bias")),
    }
    params = read_model(tmp_path / "run", "best").variables["params"]
    assert (params["norm"]["scale"] == 1).all()
    assert (params["norm"]["bias"] == 0).all()
    assert params["heads"]["classifier"]["linear"]["kernel"].shape == (64, 52)


def test_distilled_file_of_other_classes_brings_its_norm(tmp_path):
    # Version 2's, of 710 classes, as torch.compile names it.
    state = {
        f"_orig_mod.{name}": value for name, value in make_state(weights.AUTHORS, num_blocks=1, num_classes=710).items()
    }
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
    metadata = convert(tmp_path / "a.safetensors", tmp_path / "run", drop_classifier=True)
    assert metadata.source["unused"] == {"the classifier": 2}
    assert set(metadata.fresh) == {f"params.heads.classifier.linear.{name}" for name in ("kernel", "bias")}
    scale = read_model(tmp_path / "run", "best").variables["params"]["norm"]["scale"]
    assert (scale == state["_orig_mod.fc_norm.weight"][0]).all()


def test_wrong_tensors_of_a_file_are_reported_alone(tmp_path):
    # The width is known from what is left; a patch then has the published size.
    state = make_state(weights.AUTHORS, num_blocks=1, width=128)
    state["patches.weight"] = state.pop("patch_embed.proj.weight")
    state["blocks.0.mlp.fc1.weight"] = np.ascontiguousarray(state["blocks.0.mlp.fc1.weight"].T)
    del state["fc_norm.bias"]
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError) as error:
        convert(tmp_path / "a.safetensors", tmp_path / "run", drop_classifier=True)
    assert str(error.value).splitlines()[1:] == [
        "  unknown: patches.weight [128, 3, 2, 8, 8]",
        "  missing: fc_norm.bias [128]",
        "  missing: patch_embed.proj.weight [128, 3, 2, 16, 16]",
        "  shape: blocks.0.mlp.fc1.weight is [128, 512], should be [512, 128]",
    ]


def test_files_with_a_decoder_are_not_taken_for_others():
    # Those of transformers have the names of its fine-tuned ones, too.
    state = make_state(weights.TRANSFORMERS_PRETRAINED)
    decoder = dict.fromkeys(["decoder.decoder_layers.0.attention.attention.q_bias", "mask_token"], np.zeros(2))
    assert recognise(state | decoder, pretrained.TABLES, "the file") is weights.TRANSFORMERS_PRETRAINED
    assert recognise(state, pretrained.TABLES, "the file") is weights.TRANSFORMERS


@pytest.mark.parametrize(
    ("variant", "options", "epochs"),
    [("small", {}, 150), ("base", {"width": 768, "num_heads": 12}, 75)],
)
def test_recipe_is_the_published_one(variant, options, epochs):
    config = recipe.get_config(variant)
    assert configuration.parse(config).network.spec(52).options == VideoMAEOptions(**options)
    assert config.num_epochs == epochs
    # 5e-4 for 256 clips.
    assert config.optimizer.learning_rate / config.batch_size == pytest.approx(7.5e-4 / 384)


def test_recipe_of_another_variant_is_refused():
    with pytest.raises(ValueError, match=r"videomae\.py has no variant 'x'; name one of small, base after a colon"):
        recipe.get_config("x")


def test_layers_are_those_of_the_published_layer_decay():
    layers = VideoMAEOptions().layers
    numbers = {"patches.projection.kernel": 0, "blocks.0.norm1.scale": 1, "blocks.11.attention.q_bias": 12}
    numbers |= {"norm.bias": 13, "heads.classifier.linear.kernel": 13}
    assert {path: layer_of(path.split("."), layers) for path in numbers} == numbers


def test_emotions_over_two_videomaes_have_no_class_maps():
    appearance = ModelSpec("videomae", VideoMAEOptions.tiny(num_classes=4, embedding_dim=0))
    micro_action = ModelSpec("videomae", OPTIONS)
    options = EmotionNetOptions(num_emotions=4, micro_action=micro_action, appearance=appearance)
    network = nnx.eval_shape(lambda: models.create(ModelSpec("emotion", options), nnx.Rngs(0)))
    assert isinstance(network.micro_action, MODELS["videomae"])
    assert not hasattr(network, "class_maps")
