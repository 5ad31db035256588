import itertools

import numpy as np
import pytest

from manet_jax.detection import choice
from manet_jax.detection.choice import ScoredVideo
from manet_jax.detection.grouping import Grouping, group
from manet_jax.detection.metric import detection_metrics
from tfds_ma52.labels import LabelSet
from tfds_ma52.mma52 import Action


def label_set(count):
    return LabelSet(tuple(f"c{i}" for i in range(count)), ("g",), (0,) * count)


def draw_video(seed, *, duration=20.0, num_classes=2, num_actions=4, noise=0.1, peak=0.8, rate=4):
    """Scores that rise to a peak within 0.8 s about the start of an action, and fall likewise, with noise."""
    rng = np.random.default_rng(seed)
    times = (np.arange(round(duration * rate)) + 0.5) / rate
    scores, actions = np.full((len(times), num_classes), 0.05 * peak), []
    for i in range(num_actions):
        class_id, start = i % num_classes, duration * i / num_actions + rng.uniform(0, 1)
        action = Action(class_id, start, start + rng.uniform(0.5, 0.8 * duration / num_actions))
        inside = np.clip(np.minimum(times - action.start, action.end - times) / 0.8 + 0.5, 0, 1)
        scores[:, class_id] = np.maximum(scores[:, class_id], peak * inside)
        actions.append(action)
    scores = np.clip(scores + peak * noise * rng.normal(size=scores.shape), 0, 1)
    return ScoredVideo(scores, times, duration, actions)


def test_choose_tries_the_whole_grid_and_takes_the_best():
    videos = [draw_video(seed) for seed in range(3)]
    best, tried = choice.choose(videos, label_set(2))
    grid = itertools.product(choice.THRESHOLDS.values(), choice.SMOOTHING, choice.CONTRAST)
    assert [(each.thresholds, each.smoothing, each.contrast) for each in tried] == list(grid)
    assert len(tried) == 18
    targets = {name: video.actions for name, video in zip("abc", videos, strict=True)}
    for rule, value in tried.items():
        found = {n: group(v.scores, v.times, v.duration, rule) for n, v in zip("abc", videos, strict=True)}
        assert detection_metrics(found, targets, label_set(2))["action_map"] == pytest.approx(value, abs=1e-12)
    assert tried[best] == max(tried.values()) > min(tried.values())
    assert choice.choose(videos, label_set(2)) == (best, tried)


def test_choose_takes_low_thresholds_for_low_scores():
    best, tried = choice.choose([draw_video(seed, peak=0.15, noise=0.15) for seed in range(4)], label_set(2))
    assert best.thresholds == choice.THRESHOLDS["low"]
    assert tried[best] > 0.1 + max(tried[each] for each in tried if each.thresholds == choice.THRESHOLDS["even"])


def test_choose_smooths_noisy_scores_only():
    rules = [choice.choose([draw_video(s, noise=noise) for s in range(4)], label_set(2))[0] for noise in (0.02, 0.4)]
    assert rules[0].smoothing == 0
    assert rules[1].smoothing > 0


def test_choose_takes_the_first_where_all_are_equal():
    nothing = ScoredVideo(np.zeros((8, 2)), np.arange(8) + 0.5, 8.0, [])
    best, tried = choice.choose([nothing], label_set(2))
    assert set(tried.values()) == {0.0}
    assert best == Grouping(thresholds=choice.THRESHOLDS["even"], smoothing=0.0, contrast=0.0)
