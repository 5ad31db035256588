import math
import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from manet_jax.detection.grouping import Grouping, group, soft_nms
from manet_jax.detection.review import Scored, doubt, least_sure
from manet_jax.detection.segments import Segment

ONE = Grouping(thresholds=(0.5,), contrast=0.0)


def spans(values, grouping=ONE, stride=1.0):
    """Start, end and score of the segments of one class, whose moments lie in the middle of their strides."""
    times = (np.arange(len(values)) + 0.5) * stride
    found = group(np.array(values, float)[:, None], times, len(values) * stride, grouping)
    return [(each.start, each.end, each.score) for each in sorted(found, key=lambda each: each.start)]


def test_group_finds_runs():
    assert spans([0.1, 0.1, 0.9, 0.8, 0.4, 0.0]) == [(2, 4, pytest.approx(0.85))]
    assert spans([0.0, 0.5, 0.0, 0.6, 0.0]) == [(1, 2, 0.5), (3, 4, pytest.approx(0.6))]  # also a lone one, also at 0.5
    assert spans([0.0, 0.49, 0.0]) == []


def test_group_ends_runs_halfway_or_with_the_video():
    times = np.array([0.2, 1.0, 3.0, 3.4])
    (first, second) = group(np.array([[0.7], [0.3], [0.9], [0.9]]), times, 4.0, ONE)
    assert (first.start, first.end) == (2, 4)  # more certain
    assert (second.start, second.end) == (0, pytest.approx(0.6))


def test_group_leaves_out_what_is_too_short():
    values = [0.0, 0.6, 0.0, 0.0, 1.0, 1.0, 0.0]
    assert [span[:2] for span in spans(values, stride=0.5)] == [(0.5, 1), (2, 3)]
    rule = Grouping(thresholds=(0.5,), contrast=0.0, shortest=0.6)
    assert [span[:2] for span in spans(values, rule, stride=0.5)] == [(2, 3)]


def test_group_has_segments_of_every_threshold_and_class():
    scores = np.array([[0.0, 0.9], [0.4, 0.0], [0.8, 0.0], [0.4, 0.0], [0.0, 0.0]])
    found = group(scores, np.arange(5) + 0.5, 5.0, Grouping(thresholds=(0.1, 0.2, 0.6), contrast=0.0))
    # Of two thresholds that find the same there is one.
    assert sorted((each.class_id, each.start, each.end) for each in found) == [(0, 1, 4), (0, 2, 3), (1, 0, 1)]
    scores = {(each.class_id, each.end): each.score for each in found}
    assert scores[0, 3] == pytest.approx(0.8)  # the most certain one keeps its score
    assert scores[0, 4] == pytest.approx(1.6 / 3 * math.exp(-((1 / 3) ** 2) / 0.5))  # 1 of 3 s are shared


def test_group_lowers_scores_by_their_surroundings():
    rule = Grouping(thresholds=(0.5,), contrast=0.5)
    # Four moments, a margin of one: 0.3 before and 0.1 behind, 0.2 on average.
    assert spans([0.9, 0.3, 0.8, 0.8, 0.8, 0.8, 0.1, 0.4], rule)[1][2] == pytest.approx(0.8 - 0.5 * 0.2)
    # Eight moments, a margin of two; it is shorter where the video ends.
    assert spans([0.4, 0.1, 0.3, *[0.8] * 8, 0.2, 0.2, 0.4], rule)[0][2] == pytest.approx(0.8 - 0.5 * 0.2)
    assert spans([0.4, *[0.8] * 8, 0.2, 0.0, 0.4], rule)[0][2] == pytest.approx(0.8 - 0.5 * 0.2)
    assert spans([0.8] * 3, rule)[0][2] == pytest.approx(0.8)  # there are no surroundings
    # Where the surroundings are as high, nothing remains.
    assert spans([0.49, 0.5, 0.5, 0.49], Grouping(thresholds=(0.5,), contrast=1.1)) == []


def test_group_smooths_in_seconds():
    values = np.zeros(41)
    values[20] = 1.0
    (span,) = spans(values, Grouping(thresholds=(0.1,), contrast=0.0, smoothing=0.5), stride=0.25)
    # A Gaussian of 2 moments falls from 0.1995 through 0.1 at 2 * sqrt(2 * ln(1.995)) = 2.35 moments.
    assert span[:2] == (4.5, 5.75)  # two moments on each side of the one from 5 to 5.25 s
    assert spans(values, Grouping(thresholds=(0.25,), smoothing=0.5), stride=0.25) == []


def test_group_accepts_videos_of_any_length_and_any_classes():
    for rule in (Grouping(), Grouping(smoothing=0.5)):
        for times in (np.array([0.2]), np.linspace(0.01, 0.39, 9)):  # one moment; constant scores
            found = group(np.full((len(times), 2), 0.5), times, 0.4, rule)
            assert [(each.start, each.end, each.class_id) for each in found] == [(0, 0.4, 0), (0, 0.4, 1)]
            assert [each.score for each in found] == pytest.approx([0.5, 0.5])
        assert group(np.zeros((9, 2)), np.arange(9.0), 9.0, rule) == []
        assert group(np.zeros((9, 0)), np.arange(9.0), 9.0, rule) == []  # no classes
        assert group(np.zeros((0, 2)), np.zeros(0), 0.0, rule) == []  # no moments


@hypothesis.given(
    strategies.lists(strategies.sampled_from([0.0, 0.1, 0.25, 0.5, 0.55, 0.9, 1.0]), min_size=1, max_size=30),
    strategies.sampled_from([0.0, 0.3]),
    strategies.sampled_from([0.0, 0.5, 1.0]),
    strategies.sampled_from([0.0, 0.4]),
)
def test_group_gives_segments_inside_the_video(values, shortest, contrast, smoothing):
    rule = Grouping(shortest=shortest, contrast=contrast, smoothing=smoothing)
    duration = 0.25 * len(values) + 0.1
    times = (np.arange(len(values)) + 0.5) * 0.25
    scores = np.stack([values, values[::-1]], axis=1)
    found = group(scores, times, duration, rule)
    for each in found:
        assert 0 <= each.start < each.end <= duration
        assert each.end - each.start >= shortest
        assert 0 < each.score <= 1
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    # Classes have no part in each other's segments.
    alone = group(scores[:, 1:], times, duration, rule)
    assert [(each.start, each.end, each.score) for each in found if each.class_id] == [
        (each.start, each.end, each.score) for each in alone
    ]


def slow_soft_nms(segments, sigma, lowest):
    """Each segment in turn, by recursion: the best one, then the rest, whose scores it has lowered."""
    waiting = [each for each in segments if each.score >= lowest]
    if not waiting:
        return []
    best = min(waiting, key=lambda each: (-each.score, each.start, each.end))
    waiting.remove(best)
    lowered = []
    for each in waiting:
        shared = max(0.0, min(best.end, each.end) - max(best.start, each.start))
        length = max(best.end, each.end) - min(best.start, each.start) if shared else 1.0
        factor = math.exp(-((shared / length) ** 2) / sigma)
        lowered.append(Segment(each.start, each.end, each.class_id, each.score * factor))
    return [best, *slow_soft_nms(lowered, sigma, lowest)]


def draw_segments(rng, count, num_classes=1):
    starts = [rng.randint(0, 12) / 4 for _ in range(count)]
    return [
        Segment(start, start + rng.randint(1, 12) / 4, rng.randrange(num_classes), rng.choice([0.1, 0.3, rng.random()]))
        for start in starts
    ]


@pytest.mark.parametrize("sigma", [0.5, 0.1])
def test_soft_nms_equals_a_recursion(sigma):
    rng = random.Random(0)
    for _ in range(50):
        segments = draw_segments(rng, rng.randint(0, 12))
        found, expected = soft_nms(segments, sigma=sigma, lowest=0.01), slow_soft_nms(segments, sigma, 0.01)
        assert len(found) == len(expected)
        for one, other in zip(found, sorted(expected, key=lambda s: (-s.score, s.start, s.end)), strict=True):
            assert (one.start, one.end) == (other.start, other.end)
            assert one.score == pytest.approx(other.score, abs=1e-12)


def test_soft_nms_lowers_what_overlaps_within_a_class():
    first, second, third = Segment(0.0, 2.0, 0, 0.8), Segment(1.0, 3.0, 0, 0.6), Segment(5.0, 6.0, 0, 0.5)
    other = Segment(0.0, 2.0, 1, 0.7)  # of another class
    *untouched, last = soft_nms([third, second, other, first])
    assert untouched == [first, other, third]
    assert (last.start, last.end, last.score) == (1, 3, pytest.approx(0.6 * math.exp(-((1 / 3) ** 2) / 0.5)))
    assert soft_nms([third, second, other, first], most=2) == [first, other]
    assert soft_nms([third, second, other, first], lowest=0.5) == [first, other, third]
    assert soft_nms([]) == []


def test_soft_nms_takes_the_next_by_the_lowered_scores():
    # The second is lowered by exp(-2) to 0.12, so that the third (0.5) comes first, and lowers it again.
    segments = [Segment(0.0, 4.0, 0, 1.0), Segment(0.0, 4.0, 0, 0.9), Segment(2.0, 6.0, 0, 0.5)]
    third = 0.5 * math.exp(-((2 / 6) ** 2) / 0.5)
    second = 0.9 * math.exp(-2) * math.exp(-((2 / 6) ** 2) / 0.5)
    assert [each.score for each in soft_nms(segments)] == [1.0, pytest.approx(third), pytest.approx(second)]


@pytest.mark.parametrize("seed", range(5))
def test_soft_nms_does_not_depend_on_the_order_of_the_input(seed):
    rng = random.Random(seed)
    segments = draw_segments(rng, 40, num_classes=3)
    expected = soft_nms(segments)
    for _ in range(3):
        assert soft_nms(rng.sample(segments, len(segments))) == expected
    assert [soft_nms(each for each in segments if each.class_id == c) for c in range(3)] == [
        [each for each in expected if each.class_id == c] for c in range(3)
    ]


def test_doubt_is_the_margin_of_the_mean_probabilities():
    times = np.array([0.5, 1.5, 2.5])
    probabilities = np.array([[0.2, 0.5, 0.3], [0.4, 0.5, 0.1], [0.9, 0.1, 0.0]])
    segment, video = Segment(0.0, 2.0, 0, 0.9), Scored(times, probabilities, [])
    # 0.3 inside, 0.5 of the best other one.
    assert doubt(segment, video, exclusive=True) == pytest.approx(0.8)
    assert doubt(segment, video, exclusive=False) == pytest.approx(0.6)
    assert doubt(Segment(2.9, 3.0, 0, 0.9), video, exclusive=False) == pytest.approx(0.2)


def test_views_that_disagree_add_to_the_doubt():
    times, probabilities = np.array([0.5, 1.5]), np.array([[0.9, 0.1], [0.9, 0.1]])
    segment = Segment(0.0, 2.0, 0, 0.9)

    def of(*spread):
        return Scored(times, probabilities, [segment], np.array([[each, 0.5] for each in spread]))

    assert doubt(segment, of(0.0, 0.0), exclusive=False) == pytest.approx(0.2)
    # Views that say 0.8 and 1.0 have a standard deviation of 0.1: 1 - 0.8 * 0.8.
    assert doubt(segment, of(0.1, 0.1), exclusive=False) == pytest.approx(0.36)
    assert doubt(segment, of(0.0, 0.2), exclusive=True) == pytest.approx(0.36)
    assert doubt(segment, of(0.5, 0.5), exclusive=False) == 1
    assert least_sure([of(0.0, 0.0), of(0.1, 0.1)], 1, exclusive=False) == [[], [segment]]


def test_least_sure_are_chosen_over_all_videos():
    times = np.array([0.5, 1.5, 2.5])
    sure, unsure = np.full((3, 1), 0.9), np.array([[0.5], [0.6], [0.99]])
    segments = [
        Segment(0.0, 1.0, 0, 0.5),
        Segment(1.0, 2.0, 0, 0.4),
        Segment(1.1, 2.0, 0, 0.3),
        Segment(2.0, 3.0, 0, 0.2),
    ]
    videos = [Scored(times, sure, segments), Scored(times, unsure, segments)]
    assert least_sure(videos, 2, exclusive=False) == [[], segments[:2]]
    # The third overlaps the second, and does not count.
    assert least_sure(videos, 4, exclusive=False) == [segments[:2], segments[:2]]
    assert least_sure(videos, 9, exclusive=False)[1] == [*segments[:2], segments[3]]
