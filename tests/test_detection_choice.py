import numpy as np
import pytest

from manet_jax.detection import choice
from manet_jax.detection.choice import ScoredVideo, choose
from manet_jax.detection.grouping import Grouping, group
from manet_jax.detection.metric import detection_metrics
from tfds_ma52.labels import LabelSet
from tfds_ma52.untrimmed import Action

LABELS = LabelSet(("nodding", "waving"), ("head", "hand"), (0, 1))
TIMES = np.arange(80) / 4 + 0.125


def drawn_video(seed, *, height, noise):
    """20 s with an action of each class, where its scores are `height`; they are 0 elsewhere, and noisy."""
    rng = np.random.default_rng(seed)
    actions = [
        Action(i, float(start), float(start + rng.integers(2, 6))) for i, start in enumerate(rng.integers(1, 12, 2))
    ]
    scores = np.abs(rng.normal(0, noise, (len(TIMES), 2)))
    for action in actions:
        scores[np.searchsorted(TIMES, action.start) : np.searchsorted(TIMES, action.end), action.class_id] += height
    return ScoredVideo(np.clip(scores, 0, 1), TIMES, 20.0, actions)


def drawn_videos(**options):
    return [drawn_video(seed, **options) for seed in range(2)]


@pytest.fixture(scope="module")
def noisy():
    """Videos of noisy scores, and what is chosen on them."""
    videos = drawn_videos(height=0.5, noise=0.3)
    return videos, *choose(videos, LABELS)


def test_choose_tries_the_whole_grid_once(noisy):
    _, _, tried = noisy
    assert len(tried) == len(choice.THRESHOLDS) * len(choice.SMOOTHING) * len(choice.CONTRAST) == 18
    assert {(each.thresholds, each.smoothing, each.contrast) for each in tried} == {
        (thresholds, smoothing, contrast)
        for thresholds in choice.THRESHOLDS.values()
        for smoothing in choice.SMOOTHING
        for contrast in choice.CONTRAST
    }


def test_choose_reports_the_metric_of_what_each_grouping_finds(noisy):
    videos, best, tried = noisy
    assert len(set(tried.values())) > 5
    targets = {str(i): video.actions for i, video in enumerate(videos)}
    for grouping in [best, *list(tried)[:3]]:
        found = {str(i): group(v.scores, v.times, v.duration, grouping) for i, v in enumerate(videos)}
        assert tried[grouping] == detection_metrics(found, targets, LABELS)["action_map"]
    assert tried[best] == max(tried.values())


def test_choose_smooths_noisy_scores(noisy):
    _, best, tried = noisy
    assert best.smoothing > 0
    assert tried[best] > max(value for each, value in tried.items() if not each.smoothing)


def test_choose_does_not_depend_on_the_order_of_videos(noisy):
    videos, best, tried = noisy
    found, values = choose(videos[::-1], LABELS)
    assert found == best
    assert values == pytest.approx(tried)


def test_choose_finds_low_scores_by_low_thresholds():
    """No score reaches 0.1, the lowest of the even thresholds."""
    best, tried = choose(drawn_videos(height=0.08, noise=0.0), LABELS)
    assert best.thresholds == choice.THRESHOLDS["low"]
    assert tried[best] == 1
    assert {tried[each] for each in tried if each.thresholds == choice.THRESHOLDS["even"]} == {0.0}


def test_choose_takes_the_first_of_equal_ones():
    """Without any score every grouping finds nothing."""
    best, tried = choose([ScoredVideo(np.zeros((80, 2)), TIMES, 20.0, [Action(0, 1.0, 3.0)])], LABELS)
    assert set(tried.values()) == {0.0}
    assert best == Grouping(thresholds=choice.THRESHOLDS["even"], smoothing=0.0, contrast=0.0)
