"""What GC-TSM is beyond the contract of tests/test_models.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from manet_jax import configuration, parallel, train
from manet_jax.models import ModelSpec
from manet_jax.models.emotion import EmotionNetOptions
from manet_jax.models.gc_tsm import ContextGates, GCTSMOptions
from manet_jax.models.manet import MANetOptions

FLOAT32 = jnp.dtype("float32")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def gates():
    """Gates of four channels, one for each kind of context, whose BatchNorms change values in a way of their own."""
    module = ContextGates(4, dtype=FLOAT32, rngs=nnx.Rngs(0))
    for gate in (module.local, module.time, module.space, module.clip):
        gate.bn.scale[...], gate.bn.bias[...] = jnp.array([2.0]), jnp.array([0.5])
    module.local.conv.kernel[...] = module.time.conv.kernel[...] = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    module.clip.conv.kernel[...] = jnp.array([[3.0]])
    module.space.conv.kernel[...] = jnp.arange(9.0).reshape(3, 3, 1, 1) / 10
    return module


def test_context_gates_by_hand(gates):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 4)).astype(np.float32)
    local, time, space, clip = np.moveaxis(x, -1, 0)

    def over_time(values):
        padded = np.pad(values, ((0, 0), (1, 1), (0, 0), (0, 0)))
        return padded[:, :-2] + 2 * padded[:, 1:-1] + 3 * padded[:, 2:]

    def normalized(values):
        return 2 * values / np.sqrt(1 + 1e-5) + 0.5

    mean = np.pad(space.mean(1), ((0, 0), (2, 2), (2, 2)))
    # Each pixel sees those two to the left, to the right, above and below.
    around = sum(i / 10 * mean[:, i // 3 * 2 :, i % 3 * 2 :][:, :4, :5] for i in range(9))
    expected = [
        local * sigmoid(normalized(over_time(local))),
        time * sigmoid(normalized(over_time(time.mean((2, 3), keepdims=True)))),
        space * sigmoid(around)[:, None],  # without its BatchNorm
        clip * sigmoid(normalized(3 * clip.mean((1, 2, 3), keepdims=True))),
    ]
    np.testing.assert_allclose(gates(jnp.asarray(x)), np.stack(expected, axis=-1), rtol=1e-4, atol=1e-5)


def test_context_gates_of_a_single_clip_see_no_context_of_it(gates):
    # As docs/models.md warns: the only value of a channel is its mean, so that its BatchNorm's bias alone decides.
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 5, 4)).astype(np.float32)
    gated = nnx.view(gates, train=True, axis_name=None)(jnp.asarray(x))
    np.testing.assert_allclose(gated[..., 3], x[..., 3] * sigmoid(0.5), rtol=1e-5)
    np.testing.assert_allclose(gates.clip.bn.var[...], 0.9, rtol=1e-6)


@pytest.mark.parametrize(
    ("num_devices", "batch_size", "accumulate", "sync", "parts", "remedy"),
    [
        (8, 8, 1, False, "", "16 or more, or config.sync_batch_norm to True"),
        (8, 8, 1, True, "", None),
        (8, 16, 1, False, "", None),
        (1, 1, 1, True, "", "2 or more"),
        (1, 2, 1, False, "", None),
        (1, 2, 2, False, " in each of 2 parts (config.accumulate)", "4 or more"),
        (8, 16, 2, False, " in each of 2 parts (config.accumulate)", "32 or more, or config.sync_batch_norm to True"),
        (8, 16, 2, True, "", None),
        (8, 32, 2, False, "", None),
    ],
)
def test_training_with_single_clips_warns(
    config, monkeypatch, caplog, num_devices, batch_size, accumulate, sync, parts, remedy
):
    config.model = {"name": "gc_tsm", "embedding": False, "depth": 8, "width": 8}
    config.batch_size, config.accumulate, config.sync_batch_norm = batch_size, accumulate, sync
    mesh = parallel.make_mesh(num_devices)
    monkeypatch.setattr(parallel, "make_mesh", lambda: mesh)
    train._prepare(configuration.parse(config))
    expected = (
        f"config.batch_size gives each device 1 clip{parts}; a BatchNorm of the network that sees one clip learns "
        f"nothing and spoils the evaluation; set it to {remedy}"
    )
    assert caplog.messages == ([expected] if remedy else [])


def test_emotions_need_as_many_clips_as_what_is_trained():
    gc_tsm, manet = ModelSpec("gc_tsm", GCTSMOptions.tiny()), ModelSpec("manet", MANetOptions.tiny())
    assert EmotionNetOptions(num_emotions=3, micro_action=gc_tsm).min_clips == 2
    assert EmotionNetOptions(num_emotions=3, micro_action=gc_tsm, frozen=True).min_clips == 1
    assert EmotionNetOptions(num_emotions=3, micro_action=manet, appearance=gc_tsm, frozen=True).min_clips == 2
