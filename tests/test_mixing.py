"""Mixup and CutMix, accumulation of gradients, and the mean of the weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from manet_jax import losses, mixing, parallel, tasks, train_step
from manet_jax.mixing import Mixing
from manet_jax.models import MODELS, ModelSpec
from manet_jax.models.options import OptionError
from manet_jax.models.variables import abstract_variables
from tfds_ma52.labels import LabelSet

LABELS = LabelSet(("a", "b", "c"), ("a", "b", "c"), (0, 1, 2))
VECTORS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
KEY = jax.random.key(5)


def make_batch(size=8, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": rng.integers(0, 256, (size, 4, 32, 32, 3)).astype(np.uint8),
        "label": rng.integers(0, 3, size).astype(np.int32),
    }


def mixed(chosen, num_devices=1, seed=5):
    """What `mix` makes of a batch on a number of devices."""
    batch = parallel.shard_batch(make_batch(), parallel.make_mesh(num_devices))
    return jax.device_get(compile_mix(chosen, num_devices)(batch, jax.random.key(seed)))


@functools.cache
def compile_mix(chosen, num_devices):
    mesh = parallel.make_mesh(num_devices)
    specs = jax.sharding.PartitionSpec(parallel.AXIS), jax.sharding.PartitionSpec()
    function = jax.shard_map(
        lambda batch, key: mixing.mix(batch, key, chosen),
        mesh=mesh,
        in_specs=specs,
        out_specs=(specs[0], specs[0], specs[1]),
        check_vma=False,
    )
    return jax.jit(function)


def test_mixup_blends_each_clip_with_that_of_the_reversed_batch():
    batch, (clips, others, share) = make_batch(), mixed(Mixing(mixup=0.8))
    assert 0 < share < 1
    video = batch["video"].astype(np.float64)
    blended = share * video + (1 - share) * video[::-1]
    assert clips["video"].dtype == np.uint8
    np.testing.assert_allclose(clips["video"], blended, atol=0.501)  # rounded
    np.testing.assert_array_equal(clips["label"], batch["label"])
    np.testing.assert_array_equal(others["label"], batch["label"][::-1])


def test_cutmix_fills_one_box_and_shares_by_its_area():
    batch, (clips, _, share) = make_batch(), mixed(Mixing(cutmix=1.0))
    ours, theirs = (clips["video"] == each for each in (batch["video"], batch["video"][::-1]))
    assert (ours | theirs).all()
    inside = theirs.all((0, 1, 4))  # pixels that are the other's in every clip and frame
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    assert inside.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert ours[:, :, ~inside].all()
    assert share == pytest.approx(1 - inside.mean())


def test_with_both_a_batch_gets_either():
    shares = []
    for seed in range(8):
        clips, _, _ = mixed(Mixing(mixup=0.8, cutmix=1.0), seed=seed)
        whole = (clips["video"] == make_batch()["video"]) | (clips["video"] == make_batch()["video"][::-1])
        shares.append(bool(whole.all()))
    assert 0 < sum(shares) < 8


def test_shares_are_drawn_from_the_beta_distribution():
    draw = jax.jit(jax.vmap(lambda key: mixing._draw_weights(key, Mixing(mixup=0.8))(1, 1)[0, 0]))
    shares = np.asarray(draw(jax.random.split(KEY, 4000)))
    # Of Beta(a, a) the mean is a half and the variance 1 / (8 a + 4).
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (8 * 0.8 + 4), rel=0.1)


@pytest.mark.parametrize("chosen", [Mixing(mixup=0.8), Mixing(cutmix=1.0)])
def test_mixtures_know_no_devices(chosen):
    for one, many in zip(*map(jax.tree.leaves, (mixed(chosen), mixed(chosen, 8))), strict=True):
        np.testing.assert_array_equal(one, many)


def test_mixed_losses_are_those_of_mixed_targets():
    rng = np.random.default_rng(1)
    logits, embedding = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, 3), (4, 5)))
    first, second, share = jnp.array([0, 1, 2, 0]), jnp.array([1, 1, 0, 2]), jnp.float32(0.3)

    def ours(logits, embedding):
        outputs = [jnp.mean(losses.cross_entropy(logits, label, 0.1)) for label in (first, second)]
        distances = [
            jnp.mean(losses.joint_embedding(embedding, jnp.asarray(VECTORS)[label])) for label in (first, second)
        ]
        return mixing.mix_losses(outputs[0] + distances[0], outputs[1] + distances[1], share)

    def of_mixed_targets(logits, embedding):
        shares = [share, 1 - share]
        hot = sum(part * jnp.eye(3)[label] for part, label in zip(shares, (first, second), strict=True))
        target = 0.9 * hot + 0.1 / 3
        vectors = sum(part * jnp.asarray(VECTORS)[x] for part, x in zip(shares, (first, second), strict=True))
        cross_entropy = -(target * jax.nn.log_softmax(logits)).sum(-1).mean()
        return cross_entropy + jnp.square(embedding - vectors).mean()

    for one, other in zip(*(jax.grad(f, (0, 1))(logits, embedding) for f in (ours, of_mixed_targets)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("value", [-0.1])
def test_alphas_below_zero_are_refused(value):
    with pytest.raises(OptionError, match=r"mixup is -0.1; it must be at least 0"):
        Mixing(mixup=value)


@functools.cache
def run_steps(name="timesformer", num_devices=1, num_steps=2, **options):
    """The states after some steps of a tiny network, and their metrics."""
    spec = ModelSpec(name, MODELS[name].Options.tiny(dropout=0.0, embedding_dim=5))
    optimizer, mesh = optax.sgd(0.05), parallel.make_mesh(num_devices)
    task = tasks.SingleLabel(LABELS, tasks.JointEmbedding(VECTORS, 1.0))
    step = train_step.create_step(
        abstract_variables(spec)[0], optimizer, [task], mesh, seed=0, donate_state=False, **options
    )
    state = train_step.create_train_state(spec, optimizer, 0, mesh)
    state = state.replace(mean_params=state.params if "ema_decay" in options else None)
    states, metrics = [state], []
    for i in range(num_steps):
        state, values = step(state, parallel.shard_batch(make_batch(seed=i), mesh))
        states.append(state)
        metrics.append({name: float(value) for name, value in values.items()})
    return states, metrics


def assert_close(ours, theirs, atol):
    for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_batch_in_parts_gives_the_step_of_the_whole(num_devices):
    # A network without BatchNorm: that sees each part by itself.
    whole, of_whole = run_steps()
    parts, of_parts = run_steps(num_devices=num_devices, accumulate=4)
    for one, other in zip(of_parts, of_whole, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert_close(parts[-1].params, whole[-1].params, atol=1e-5)


def test_mixed_training_knows_no_devices_and_no_parts():
    _, one = run_steps(mixing=Mixing(mixup=0.8, cutmix=1.0))
    _, many = run_steps(mixing=Mixing(mixup=0.8, cutmix=1.0), num_devices=4, accumulate=2)
    _, plain = run_steps()
    for ours, theirs in zip(many, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert one[0]["loss"] != pytest.approx(plain[0]["loss"], rel=1e-5)


def test_batch_norm_sees_the_parts_one_after_the_other():
    (_, state), _ = run_steps("manet", num_steps=1, accumulate=2)
    first, second = ({name: x[part] for name, x in make_batch().items()} for part in (slice(0, 4), slice(4, 8)))
    means = [batch["video"].mean() for batch in (first, second)]
    assert means[0] != means[1]
    (start, whole), _ = run_steps("manet", num_steps=1)
    path = ("stem", "bn", "mean")
    of_parts, of_whole, before = (
        functools.reduce(dict.__getitem__, path, x.batch_stats) for x in (state, whole, start)
    )
    # From 0, two updates of momentum 0.1 by the halves' means a and b, 0.09 a + 0.1 b, where one is by 0.1 (a + b) / 2.
    assert np.abs(before).max() == 0
    ratio = of_parts / of_whole
    np.testing.assert_allclose(ratio, 0.19 / 0.1, rtol=0.2)


def test_the_mean_of_the_weights_by_hand():
    states, _ = run_steps(ema_decay=0.15)
    plain, _ = run_steps()
    start, first, second = (state.params for state in states)
    assert_close(second, plain[-1].params, atol=0)  # training itself is as before
    # The decay is at most (1 + n) / (10 + n) at step n: 2 / 11 and 3 / 12, of which 0.15 is less.
    mean = jax.tree.map(lambda a, b: 0.15 * a + 0.85 * b, start, first)
    assert_close(states[1].mean_params, mean, atol=1e-7)
    mean = jax.tree.map(lambda a, b: 0.15 * a + 0.85 * b, mean, second)
    assert_close(states[2].mean_params, mean, atol=1e-7)
    assert states[2].variables["params"] is states[2].mean_params


def test_the_mean_of_the_weights_forgets_its_start_faster():
    states, _ = run_steps(ema_decay=0.9999)
    start, first, _ = (state.params for state in states)
    mean = jax.tree.map(lambda a, b: 2 / 11 * a + 9 / 11 * b, start, first)
    assert_close(states[1].mean_params, mean, atol=1e-7)


def test_weights_that_do_not_learn_stay_their_mean_exactly():
    state = run_steps()[0][0]
    mean = train_step._update_mean(state.replace(mean_params=state.params), state.params, 0.9999)
    jax.tree.map(np.testing.assert_array_equal, mean, state.params)
