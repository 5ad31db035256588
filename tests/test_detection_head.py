import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from manet_jax.detection import fit, head
from manet_jax.detection.features import VideoFeatures
from manet_jax.detection.fit import Example, Recipe
from manet_jax.detection.head import DetectionHead, HeadOptions, Points
from tfds_ma52.untrimmed import Action

OPTIONS = HeadOptions(num_inputs=6, stride=0.5, width=16, num_levels=3)


def test_points_lie_in_the_middle_of_their_moments():
    times = head.point_times(8, OPTIONS)
    np.testing.assert_allclose(times, [0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 0.5, 1.5, 2.5, 3.5, 1, 3])
    np.testing.assert_allclose(head.level_strides(8, OPTIONS), [0.5] * 8 + [1] * 4 + [2] * 2)


@pytest.mark.parametrize(("moments", "expected"), [(1, 4), (4, 4), (5, 8), (256, 256), (257, 512)])
def test_padded_is_a_power_of_two(moments, expected):
    assert head.padded(moments, OPTIONS) == expected


def test_class_inputs_are_the_logits_of_a_class_and_the_largest_of_the_others():
    probabilities = np.array([[[0.5, 0.2, 0.8]], [[1.0, 0.5, 0.0]]])
    found = head.class_inputs(VideoFeatures(1.0, np.zeros((2, 1, 4)), probabilities))
    four, top = np.log(4), np.log(1e6 - 1)
    np.testing.assert_allclose(found[0], [[0, four], [top, 0]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[2], [[four, 0], [-top, top]], rtol=1e-5, atol=1e-6)
    alone = head.class_inputs(VideoFeatures(1.0, np.zeros((2, 1, 4)), probabilities[..., :1]))
    np.testing.assert_allclose(alone[0, :, 1], 0)


def test_head_does_not_depend_on_padding():
    network = DetectionHead(OPTIONS, rngs=nnx.Rngs(0))
    inputs = np.random.default_rng(0).normal(size=(1, 6, 6)).astype(np.float32)
    found = []
    for length in (8, 16):
        padded = np.pad(inputs, ((0, 0), (0, length - 6), (0, 0)), constant_values=7)
        points = network(jnp.asarray(padded), jnp.arange(length)[None] < 6)
        there = head.point_times(length, OPTIONS) < 3
        found.append([np.asarray(value)[:, there] for value in points])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert np.ptp(one) > 1e-3


def test_assign_gives_each_action_to_points_of_its_scale():
    times, strides = head.point_times(32, OPTIONS), head.level_strides(32, OPTIONS)

    def found(action):
        present, distances = fit.assign([action], 32, OPTIONS)
        assert not distances[~present].any()
        return list(zip(times[present], strides[present], strict=True)), distances[present]

    # At the only point of the finest level inside.
    assert found(Action(0, 0.5, 1.0))[0] == [(0.75, 0.5)]
    # The ends of seven seconds around 5 s are 4 s away or less from two points of the next level, and more than 4 s
    # from two of the coarsest.
    points, distances = found(Action(0, 1.5, 8.5))
    assert points == [(4.5, 1), (5.5, 1), (3, 2), (7, 2)]
    np.testing.assert_allclose(distances[[0, 2]], [[3, 4], [0.75, 2.75]])
    # Two seconds around 2 s: within 0.75 s on the finest level; on the next its ends are too near.
    points, distances = found(Action(1, 1.0, 3.0))
    assert points == [(1.25, 0.5), (1.75, 0.5), (2.25, 0.5), (2.75, 0.5)]
    np.testing.assert_allclose(distances[0], [0.5, 3.5])


def test_assign_gives_an_action_between_points_to_the_nearest():
    present, distances = fit.assign([Action(1, 1.30, 1.40)], 8, OPTIONS)
    assert np.flatnonzero(present).tolist() == [2]
    np.testing.assert_allclose(distances[2], [0, 0.3], atol=1e-6)  # the point lies 0.05 s before its start


def test_assign_prefers_the_shorter_of_two_actions():
    present, distances = fit.assign(
        [Action(0, 0.0, 1.5), Action(0, 0.0, 2.0)], 4, dataclasses.replace(OPTIONS, num_levels=1)
    )
    assert present.all()
    np.testing.assert_allclose(distances.sum(-1), [3, 3, 3, 4])  # strides of half a second


def test_head_loss_is_focal_and_diou():
    logits, present = np.array([[0.3, 2.0, 5.0]]), np.array([[True, False, True]])
    mask = np.array([[True, True, False]])
    distances, target = np.ones((1, 3, 2)), np.ones((1, 3, 2))
    distances[0, 0], target[0, 0] = (1, 3), (2, 1)
    p = 1 / (1 + np.exp(-logits[0, :2]))
    right = np.where(present[0, :2], p, 1 - p)
    focal = (np.where(present[0, :2], 0.25, 0.75) * (1 - right) ** 2 * -np.log(right)).sum()
    # [-1, 3] and [-2, 1]: 2 of 5 shared, middles 1.5 apart.
    diou = 2 / 5 - (1.5 / 5) ** 2
    found = fit.head_loss(
        Points(jnp.asarray(logits), jnp.asarray(distances)),
        jnp.asarray(present),
        jnp.asarray(target),
        jnp.asarray(mask),
    )
    np.testing.assert_allclose(found, focal + 1 - diou, rtol=1e-5)


def drawn_examples(count, seed):
    """Videos of 100 moments; one channel shows where the class is, and the others are noise."""
    rng, examples = np.random.default_rng(seed), []
    middles = (np.arange(100) + 0.5) / 2
    for _ in range(count):
        inputs, actions = rng.normal(size=(100, 6)).astype(np.float32), []
        for start in (rng.uniform(1, 15), rng.uniform(25, 40)):
            actions.append(Action(0, start, start + rng.uniform(1, 8)))
            inputs[:, 0] += 5 * ((middles > start) & (middles < actions[-1].end))
        examples.append(Example(inputs, tuple(actions)))
    return examples


def median_error(network, examples):
    """The median distance in seconds of starts and ends from those that the best point near each action gives."""
    times, strides = head.point_times(128, network.options), head.level_strides(128, network.options)
    errors = []
    for example in examples:
        inputs = np.pad(example.inputs, ((0, 28), (0, 0)))[None]
        points = network(jnp.asarray(inputs), jnp.arange(128)[None] < 100)
        logits, distances = (np.asarray(values[0]) for values in points)
        for action in example.actions:
            near = np.abs(times - (action.start + action.end) / 2) < 1
            best = np.where(near, logits, -np.inf).argmax()
            left, right = distances[best] * strides[best]
            errors += [times[best] - left - action.start, times[best] + right - action.end]
    return np.median(np.abs(errors))


def test_train_head_finds_actions_that_features_show():
    recipe = Recipe(num_steps=60, batch_size=4, num_moments=64, learning_rate=3e-3)
    network = fit.train_head(drawn_examples(24, 0), 0.5, recipe, progress=False)
    fresh = DetectionHead(network.options, rngs=nnx.Rngs(0))
    unseen = drawn_examples(4, 1)
    assert median_error(network, unseen) < 0.8 < 1.2 < median_error(fresh, unseen)


def test_train_head_with_the_same_seed_gives_the_same_head():
    recipe = Recipe(num_steps=3, batch_size=2, num_moments=32)
    one, other = (fit.train_head(drawn_examples(2, 0), 0.5, recipe, progress=False) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(one), nnx.state(other))
