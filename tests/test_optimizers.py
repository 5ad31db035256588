import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from manet_jax import optimizers

RELEASED = {"head_lr_multiplier": 5.0, "head": "last"}


def group(path, has_embedding, head="last", multiplier=5.0, frozen_module=""):
    return optimizers.parameter_group(
        path, head_lr_multiplier=multiplier, head=head, has_embedding=has_embedding, frozen_module=frozen_module
    )


def test_create_schedule_falls_after_whole_epochs():
    schedule = optimizers.create_schedule("step", learning_rate=2.0, total_steps=10, decay_steps=(3, 6))
    np.testing.assert_allclose([schedule(step) for step in range(8)], [2, 2, 2, 0.2, 0.2, 0.2, 0.02, 0.02], rtol=1e-6)


def test_create_schedule_with_warmup_keeps_the_decay_steps():
    schedule = optimizers.create_schedule("step", learning_rate=2.0, total_steps=9, warmup_steps=2, decay_steps=(4,))
    np.testing.assert_allclose([schedule(step) for step in range(6)], [0, 1, 2, 2, 0.2, 0.2], rtol=1e-6)


def test_create_schedule_of_a_cosine():
    schedule = optimizers.create_schedule("cosine", learning_rate=1.0, total_steps=10, warmup_steps=2)
    expected = [0, 0.5, *(0.5 * (1 + np.cos(np.pi * np.arange(9) / 8)))]
    np.testing.assert_allclose([schedule(step) for step in range(11)], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "has_embedding", "head", "multiplier", "expected"),
    [
        (("blocks", "0", "conv1", "conv", "kernel"), True, "last", 5.0, (1, True)),
        (("blocks", "0", "se", "squeeze", "kernel"), True, "last", 5.0, (1, True)),
        (("blocks", "0", "conv1", "bn", "scale"), True, "last", 5.0, (1, False)),
        (("blocks", "0", "conv1", "bn", "bias"), True, "last", 5.0, (1, False)),
        (("heads", "classifier", "linear", "kernel"), True, "last", 5.0, (1, True)),
        (("heads", "classifier", "linear", "bias"), True, "last", 5.0, (2, False)),
        (("heads", "joint_embedding", "hidden", "bias"), True, "last", 5.0, (2, False)),
        (("heads", "joint_embedding", "out", "kernel"), True, "last", 5.0, (5, True)),
        (("heads", "joint_embedding", "out", "bias"), True, "last", 5.0, (10, False)),
        (("heads", "classifier", "linear", "kernel"), False, "last", 5.0, (5, True)),
        (("heads", "classifier", "linear", "kernel"), True, "classifier", 5.0, (5, True)),
        (("heads", "classifier", "linear", "bias"), True, "classifier", 5.0, (10, False)),
        (("heads", "joint_embedding", "out", "kernel"), True, "classifier", 5.0, (1, True)),
        (("heads", "joint_embedding", "out", "kernel"), True, "last", 1.0, (1, True)),
    ],
)
def test_parameter_group_is_the_released_one(path, has_embedding, head, multiplier, expected):
    assert group(path, has_embedding, head, multiplier) == expected


def test_parameter_group_inside_a_model_of_emotions():
    out = ("micro_action", "heads", "joint_embedding", "out", "kernel")
    assert group(out, True) == (5, True)
    assert group(out, True, frozen_module="appearance") == (5, True)
    assert group(("micro_action", "stem", "bn", "scale"), True, frozen_module="micro_action") == (0, False)
    assert group(("emotion", "bias"), True, frozen_module="micro_action") == (2, False)


def test_create_optimizer_updates_as_pytorchs_sgd():
    # Some of the model's parameters, under its names.
    layer = {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.linspace(0.5, 1, 3)}
    conv = {"conv": {"kernel": layer["kernel"]}, "bn": {"scale": layer["bias"], "bias": layer["bias"]}}
    heads = {"classifier": {"linear": layer}, "joint_embedding": {"out": layer}}
    params = start = {"blocks": {0: {"conv2": conv}}, "heads": heads}
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(0.1), momentum=0.9, weight_decay=0.01, clip_norm=2.0, **RELEASED
    )
    state = optimizer.init(params)
    gradients = [jax.tree.map(lambda x, size=size: jnp.full_like(x, size), params) for size in (1e-5, 1.0)]
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)

    count = sum(leaf.size for leaf in jax.tree.leaves(start))
    clipped = [1e-5, 2.0 / np.sqrt(count)]  # the first gradient's norm is below 2, the second is scaled to 2

    def reference(value, factor, decay):
        buffer = 0.0
        for gradient in clipped:
            buffer = 0.9 * buffer + gradient + decay * value
            value = value - 0.1 * factor * buffer
        return value

    for path, factor, decay in [
        (("blocks", 0, "conv2", "conv", "kernel"), 1, 0.01),
        (("blocks", 0, "conv2", "bn", "scale"), 1, 0),
        (("heads", "classifier", "linear", "bias"), 2, 0),
        (("heads", "joint_embedding", "out", "kernel"), 5, 0.01),
        (("heads", "joint_embedding", "out", "bias"), 10, 0),
    ]:
        before, after = start, params
        for key in path:
            before, after = before[key], after[key]
        np.testing.assert_allclose(after, reference(np.array(before), factor, decay), rtol=1e-5, err_msg=str(path))


def test_create_optimizer_with_clip_norm_0_does_not_clip():
    params = {"classifier": {"kernel": jnp.ones(2)}}
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(1.0), momentum=0.0, weight_decay=0.0, clip_norm=0.0, head_lr_multiplier=1.0, head="last"
    )
    updates, _ = optimizer.update({"classifier": {"kernel": jnp.full(2, 1e6)}}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["classifier"]["kernel"], -1e6)
