import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from flax import nnx

from manet_jax import models, nets
from manet_jax.models import BatchNormContext


def count(**options):
    _, variables = nets.abstract_variables({"num_classes": 52, **options})
    return nets.count_parameters(variables["params"])


OPTIONS = {"num_classes": 5, "embedding_dim": 6, "depth": 14, "width": 8, "num_segments": 4}


@functools.cache
def tiny(**options):
    """The structure and the fresh variables of a small model."""
    options = OPTIONS | options
    graphdef, _ = nets.abstract_variables(options)
    return graphdef, nets.create_variables(options, seed=0)


def visible(graphdef, variables):
    """A classifier so large that small differences show in the logits: a fresh one is nearly zero."""
    classifier = jax.tree.map(lambda x: x * 1000, variables["params"]["classifier"])
    return graphdef, variables | {"params": variables["params"] | {"classifier": classifier}}


@functools.partial(jax.jit, static_argnums=0)
def apply(graphdef, variables, x):
    return nnx.merge(graphdef, variables["params"], variables["batch_stats"])(x)


@functools.partial(jax.jit, static_argnums=0)
def features(graphdef, variables, x):
    return nnx.merge(graphdef, variables["params"], variables["batch_stats"]).features(x)


def video(batch=2, seed=0):
    return jnp.array(np.random.default_rng(seed).integers(0, 256, (batch, 4, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"embedding_dim": 300}, 32_284_252),  # the released MANet without its unused action_p2 convolutions
        # ResNet-50 without its classifier has 23,508,032 parameters, ResNet-101 42,500,160; the classifier 2049 x 52.
        ({"se": False, "shift": False}, 23_508_032 + 2049 * 52),
        ({"se": False}, 23_508_032 + 2049 * 52),
        ({"se": False, "depth": 101}, 42_500_160 + 2049 * 52),
        # The embedding branch: 2048 -> 300 -> 300.
        ({"se": False, "embedding_dim": 300}, 23_508_032 + 2049 * 52 + 2049 * 300 + 301 * 300),
        # Squeeze-and-excitation holds c * c / 4 * 2 values for a block's c input channels.
        ({}, 23_508_032 + 2049 * 52 + sum(c * c // 2 for c in [64, *[256] * 3, *[512] * 4, *[1024] * 6, *[2048] * 2])),
    ],
)
def test_parameter_counts(options, expected):
    assert count(**options) == expected


def test_squeeze_excite_by_hand():
    se = models.SqueezeExcite(4, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    se.squeeze.kernel[...] = jnp.array([[1.0], [0.0], [-1.0], [0.0]])
    se.excite.kernel[...] = jnp.array([[0.0, 1.0, -1.0, 2.0]])
    x = np.zeros((2, 1, 2, 4), np.float32)
    x[0, 0, :, 0] = [2, 4]  # mean 3, gates sigmoid([0, 3, -3, 6])
    x[1, 0, :, 2] = [2, 4]  # squeezed to -3, cut to 0: all gates 1/2
    x[..., 1] = 1
    gates = 1 / (1 + np.exp(-np.array([[0, 3, -3, 6], [0, 0, 0, 0]])))
    np.testing.assert_allclose(se(jnp.array(x)), x * gates[:, None, None, :], rtol=1e-6)


def test_batch_norm_has_pytorchs_statistics():
    bn = models.BatchNorm(3)
    bn.scale[...], bn.bias[...] = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, 2.0])
    x = np.random.default_rng(0).normal(2, 3, (4, 2, 5, 3)).astype(np.float32)
    flat = x.reshape(-1, 3)
    y = bn(jnp.array(x), BatchNormContext(train=True))
    normal = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y, normal * [1, 2, 3] + [0, 1, 2], atol=1e-5)
    np.testing.assert_allclose(bn.mean[...], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(bn.var[...], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)  # unbiased

    mean, var = np.array(bn.mean[...]), np.array(bn.var[...])
    y = bn(jnp.array(x), BatchNormContext())
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5) * [1, 2, 3] + [0, 1, 2], atol=1e-5)
    np.testing.assert_array_equal(bn.mean[...], mean)


def test_convolutions_pad_as_pytorch_does():
    # A 3x3 convolution of ones with stride 2 on a 4x4 image of ones: padding 1 on every side, not "SAME".
    conv = models.ConvBN(1, 1, 3, 2, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    conv.conv.kernel[...] = jnp.ones((3, 3, 1, 1))
    y = conv.conv(jnp.ones((1, 4, 4, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(y, [[4, 6], [6, 9]])


def test_bottleneck_shortcut_gets_the_raw_input():
    block = models.Bottleneck(
        16, 4, 1, num_segments=4, shift_div=8, shift=True, se=True, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)
    )
    assert block.shortcut is None
    block.conv3.bn.scale[...] = jnp.zeros(16)  # silences the residual branch
    x = np.random.default_rng(0).normal(size=(4, 3, 3, 16)).astype(np.float32)
    np.testing.assert_array_equal(block(jnp.array(x), BatchNormContext()), np.maximum(x, 0))


def test_outputs_and_switches():
    x = video()
    logits, embedding = apply(*tiny(), x)
    assert (logits.shape, embedding.shape) == ((2, 5), (2, 6))
    logits, embedding = apply(*tiny(embedding_dim=0), x)
    assert logits.shape == (2, 5)
    assert embedding is None
    assert features(*tiny(), x).shape == (2, 4, 1, 1, 256)


@pytest.mark.parametrize("num_frames", [3, 8])
def test_another_number_of_frames_is_refused(num_frames):
    # 8 frames of a 4-frame model would be taken for two clips.
    with pytest.raises(ValueError, match=f"takes 4 frames a clip, but got {num_frames}"):
        apply(*tiny(), jnp.zeros((4, num_frames, 32, 32, 3), jnp.uint8))


def test_pixels_that_are_not_bytes_are_refused():
    # Floats of 0..1 would pass for nearly black frames. The type checker of the tests is not there in a notebook.
    code = (
        "import jax, jax.numpy as jnp; from flax import nnx; from manet_jax.models import MANet; "
        "make = lambda: MANet(num_classes=2, depth=14, width=8, num_segments=2, rngs=nnx.Rngs(0)); "
        "jax.eval_shape(lambda: make()(jnp.zeros((1, 2, 32, 32, 3))))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ValueError: the model takes uint8 pixels, 0..255, but got float32" in result.stderr


def test_only_the_shift_sees_the_order_of_frames():
    x = video()
    for shift in (True, False):
        model = visible(*tiny(shift=shift))
        forward, backward = apply(*model, x)[0], apply(*model, x[:, ::-1])[0]
        assert np.allclose(forward, backward, atol=1e-4) == (not shift)


def test_clips_of_a_batch_do_not_mix():
    model, x = visible(*tiny()), video(batch=3)
    together = apply(*model, x)[0]
    alone = jnp.concatenate([apply(*model, x[i : i + 1])[0] for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_dropout_has_one_mask_for_both_branches_and_a_key_for_each_clip():
    x = jnp.ones((3, 4, 1000))
    keys = jax.random.split(jax.random.key(0), 3)
    dropped = models._dropout(x, keys, 0.25)
    assert set(np.unique(dropped).tolist()) == {0.0, np.float32(1 / 0.75)}
    assert 0.2 < (dropped == 0).mean() < 0.3
    np.testing.assert_array_equal(models._dropout(x[1:], keys[1:], 0.25), dropped[1:])
    assert (dropped[0] != dropped[1]).any()
    assert (dropped[0, 0] != dropped[0, 1]).any()  # frames have masks of their own


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    model = tiny(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model[1])} == {jnp.dtype("float32")}
    assert features(*model, video()).dtype == jnp.bfloat16
    logits, embedding = apply(*model, video())
    assert logits.dtype == embedding.dtype == jnp.float32
    reference, _ = apply(*tiny(), video())
    np.testing.assert_allclose(logits, reference, atol=0.05 * np.abs(reference).max())


def test_fresh_heads_are_small_and_backbone_is_he_initialised():
    params = tiny()[1]["params"]
    assert np.std(params["classifier"]["kernel"]) == pytest.approx(0.001, rel=0.1)
    assert not np.any(params["classifier"]["bias"])
    kernel = params["blocks"][3]["conv2"]["conv"]["kernel"]  # 3 x 3 x in x out, fan out 9 * out
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * kernel.shape[-1])), rel=0.05)


def test_variables_have_the_abstract_ones_shapes():
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), tiny()[1])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), nets.abstract_variables(OPTIONS)[1]) == shapes


def test_rematerialisation_keeps_less_and_changes_no_gradient():
    x = video()

    def step(options):
        graphdef, variables = tiny(**options)

        def loss(params):
            model = nnx.merge(graphdef, params, variables["batch_stats"])
            logits, embedding = model(x, BatchNormContext(train=True))
            stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return jnp.square(logits * 1000).sum() + jnp.square(embedding * 1000).sum(), stats

        kept = jax.eval_shape(lambda params: jax.vjp(loss, params, has_aux=True)[1], variables["params"])
        results = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
        return results, sum(leaf.size for leaf in jax.tree.leaves(kept))

    (plain, kept), (recomputed, kept_less) = step({}), step({"remat": True})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, recomputed)
    assert kept_less < kept / 2
