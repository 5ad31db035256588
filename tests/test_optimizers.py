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


def update_twice(optimizer, params, gradients):
    """The parameters after a step for each gradient, which is the same for all of them."""
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(
            jax.tree.map(lambda x, g=gradient: jnp.full_like(x, g), params), state, params
        )
        params = optax.apply_updates(params, updates)
    return params


PLAIN = {"momentum": 0.9, "clip_norm": 0.0, "head_lr_multiplier": 1.0, "head": "last"}


def test_create_optimizer_with_nesterovs_momentum_by_hand():
    optimizer = optimizers.create_optimizer(optax.constant_schedule(0.1), weight_decay=0.5, nesterov=True, **PLAIN)
    params = update_twice(optimizer, {"conv": {"kernel": jnp.ones(1)}}, [1.0, 2.0])
    # PyTorch: g = 1 + 0.5 * 1, buffer = g, step 0.1 (g + 0.9 buffer) = 0.285; then g = 2 + 0.5 * 0.715, and so on.
    buffer = 0.9 * 1.5 + 2.3575
    np.testing.assert_allclose(params["conv"]["kernel"], 1 - 0.285 - 0.1 * (2.3575 + 0.9 * buffer), rtol=1e-6)


def test_create_optimizer_adamw_by_hand():
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(0.1), weight_decay=0.5, name="adamw", betas=(0.8, 0.9), **PLAIN
    )
    params = {"conv": {"kernel": jnp.full(1, 3.0), "bias": jnp.full(1, 3.0)}, "norm1": {"bias": jnp.full(1, 3.0)}}
    after = update_twice(optimizer, params | {"cls_token": jnp.full(1, 3.0)}, [2.0, 1.0])
    first, second = 0.2 * 2 / (1 - 0.8), 0.1 * 4 / (1 - 0.9)
    assert (first, second) == pytest.approx((2, 4))
    mean, square = (0.8 * 0.4 + 0.2 * 1) / (1 - 0.64), (0.9 * 0.4 + 0.1 * 1) / (1 - 0.81)
    steps = [first / np.sqrt(second), mean / np.sqrt(square)]
    plain, decayed = 3.0, 3.0
    for step in steps:
        plain, decayed = plain - 0.1 * step, decayed - 0.1 * (step + 0.5 * decayed)
    np.testing.assert_allclose(after["conv"]["kernel"], decayed, rtol=1e-6)
    for other in (after["conv"]["bias"], after["norm1"]["bias"], after["cls_token"]):
        np.testing.assert_allclose(other, plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("blocks", "0", "norm1", "scale"), (1, False)),
        (("blocks", "0", "temporal_norm", "bias"), (1, False)),
        (("blocks", "0", "attn", "qkv", "kernel"), (1, True)),
        (("blocks", "0", "attn", "qkv", "bias"), (2, False)),
        (("blocks", "0", "attn", "bias_table"), (1, False)),
        (("cls_token",), (1, False)),
        (("pos_embed",), (1, False)),
    ],
)
def test_parameter_group_of_transformers(path, expected):
    assert group(path, has_embedding=False) == expected


LAYERS = (("stem", "cls_token"), ("blocks.0",), ("blocks.1",), ("blocks.10", "norm"), ("heads",))


def test_layer_of_is_by_whole_names():
    paths = ["stem.conv.kernel", "cls_token", "blocks.0.bn.scale", "blocks.1.kernel", "blocks.10.kernel", "norm.scale"]
    assert [optimizers.layer_of(path.split("."), LAYERS) for path in paths] == [0, 0, 1, 2, 3, 3]
    with pytest.raises(ValueError, match=r"the parameter stem2\.kernel belongs to 0 of the network's layers, not one"):
        optimizers.layer_of(["stem2", "kernel"], LAYERS)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_create_optimizer_lowers_the_rate_from_layer_to_layer(name):
    kernel = {"kernel": jnp.ones((2, 1))}
    params = {"stem": kernel, "blocks": {0: kernel, 1: kernel, 10: kernel}, "heads": {"classifier": {"linear": kernel}}}
    settings = PLAIN | {"head_lr_multiplier": 4.0, "weight_decay": 0.1, "name": name}
    plain, decayed = (
        update_twice(optimizers.create_optimizer(optax.constant_schedule(0.01), **settings, **more), params, [1.0])
        for more in ({}, {"layer_decay": 0.5, "layers": LAYERS})
    )
    ratios = jax.tree.map(lambda a, b, start: (b - start) / (a - start), plain, decayed, params)
    by_layer = [ratios["stem"], *ratios["blocks"].values(), ratios["heads"]["classifier"]["linear"]]
    np.testing.assert_allclose([each["kernel"][0, 0] for each in by_layer], [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1], rtol=1e-4)


def test_create_optimizer_with_clip_norm_0_does_not_clip():
    params = {"classifier": {"kernel": jnp.ones(2)}}
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(1.0), momentum=0.0, weight_decay=0.0, clip_norm=0.0, head_lr_multiplier=1.0, head="last"
    )
    updates, _ = optimizer.update({"classifier": {"kernel": jnp.full(2, 1e6)}}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["classifier"]["kernel"], -1e6)


def test_create_optimizer_muon_turns_a_gradient_into_directions_of_equal_size():
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(0.1), weight_decay=0.5, name="muon", betas=(0.8, 0.9), **PLAIN
    )
    rng = np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 3, 4, 6), "bias": (6,)}, "linear": {"kernel": (8, 5)}}
    params, grads = (
        jax.tree.map(
            lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: type(x) is tuple
        )
        for _ in range(2)
    )
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # A bias does not decay; Adam with Nesterov's momentum looks ahead: b1 m' + (1 - b1) g over their corrections.
    ahead = 0.8 * 0.2 / (1 - 0.8**2) + 0.2 / (1 - 0.8)
    np.testing.assert_allclose(updates["conv"]["bias"], -0.1 * ahead * np.sign(grads["conv"]["bias"]), rtol=1e-4)
    for name, rows in (("conv", 36), ("linear", 8)):
        step = (updates[name]["kernel"] + 0.1 * 0.5 * params[name]["kernel"]).reshape(rows, -1)
        left, _, right = np.linalg.svd(grads[name]["kernel"].reshape(rows, -1), full_matrices=False)
        turned = left.T @ step @ right.T / (-0.1 * 0.2 * np.sqrt(rows))
        # The iteration brings the singular values near 1, without turning the directions.
        np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-3)
        assert 0.6 < np.diag(turned).min() < np.diag(turned).max() < 1.3
