import dataclasses
import random

import numpy as np
import pytest

from manet_jax.detection.diagnosis import KINDS, LENGTHS, Recall, diagnose, gains
from manet_jax.detection.metric import detection_metrics
from manet_jax.detection.segments import Segment
from tfds_ma52.labels import LabelSet
from tfds_ma52.untrimmed import Action

LABELS = LabelSet(("nodding", "waving", "tiptoe"), ("head", "hand", "leg"), (0, 1, 2))
NODDING, WAVING, TIPTOE = range(3)


def wrong(segments, actions, **options):
    """The kinds of the errors, those that occur."""
    found = diagnose({"v": segments}, {"v": actions}, LABELS, **options)
    return {kind: count for kind, count in found.wrong.items() if count}


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0.0, 4.0), "double"),  # all of the nodding, which the more certain segment has taken
        ((0.0, 2.0), "double"),  # exactly half of it
        ((0.0, 1.9), "wrong place"),
        ((0.0, 0.4), "wrong place"),  # exactly a tenth
        ((0.0, 0.3), "background"),
        ((10.0, 12.0), "wrong class"),  # the waving
        ((11.2, 13.0), "wrong class and place"),  # 0.8 of 3 s of it
        ((20.0, 22.0), "background"),
    ],
)
def test_diagnose_names_the_kind_of_an_error(span, expected):
    actions = [Action(NODDING, 0.0, 4.0), Action(NODDING, 30.0, 31.0), Action(WAVING, 10.0, 12.0)]
    segments = [Segment(0.0, 4.0, NODDING, 0.9), Segment(*span, NODDING, 0.8)]
    assert wrong(segments, actions) == {expected: 1}


def test_diagnose_goes_by_the_action_that_overlaps_most():
    # 3 of 4 s of the nodding, which is taken, and all of the waving.
    actions = [Action(NODDING, 0.0, 4.0), Action(NODDING, 30.0, 31.0), Action(WAVING, 0.0, 3.0)]
    segments = [Segment(0.0, 4.0, NODDING, 0.9), Segment(0.0, 3.0, NODDING, 0.8)]
    assert wrong(segments, actions) == {"wrong class": 1}


@pytest.mark.parametrize("reverse", [False, True])
def test_diagnose_prefers_its_own_class_among_equal_ones(reverse):
    actions = [Action(NODDING, 0.0, 4.0), Action(WAVING, 0.0, 4.0), Action(NODDING, 30.0, 31.0)]
    segments = [Segment(0.0, 4.0, NODDING, 0.9), Segment(0.0, 4.0, NODDING, 0.8)]
    assert wrong(segments, actions[::-1] if reverse else actions) == {"double": 1}


def test_diagnose_errors_depend_on_the_threshold():
    segments, actions = [Segment(0.0, 3.0, NODDING, 0.9)], [Action(NODDING, 0.0, 4.0)]
    assert wrong(segments, actions, threshold=0.75) == {}
    assert wrong(segments, actions, threshold=0.8) == {"wrong place": 1}


def test_diagnose_considers_as_many_segments_as_actions():
    """The two most certain of a class with two actions; twice as many with a depth of 2."""
    actions = [Action(NODDING, 0.0, 4.0), Action(NODDING, 10.0, 14.0)]
    segments = [
        Segment(0.0, 4.0, NODDING, 0.9),
        Segment(20.0, 21.0, NODDING, 0.8),
        Segment(10.0, 14.0, NODDING, 0.7),
        Segment(22.0, 23.0, NODDING, 0.6),
        Segment(24.0, 25.0, NODDING, 0.5),
        Segment(0.0, 4.0, WAVING, 1.0),  # a class without actions has none that are considered
    ]
    found = diagnose({"v": segments}, {"v": actions}, LABELS)
    assert (found.correct, found.wrong["background"], sum(found.wrong.values())) == (1, 1, 1)
    found = diagnose({"v": segments}, {"v": actions}, LABELS, depth=2)
    assert (found.correct, found.wrong["background"], sum(found.wrong.values())) == (2, 2, 2)


def test_diagnose_recall_by_length_and_class():
    # The lower end of a range belongs to it; 1.4 - 0.4 is a little less than 1 in floating point.
    assert 1.4 - 0.4 < 1
    targets = {
        "a": [Action(NODDING, 0.4, 1.4), Action(NODDING, 5.0, 5.5), Action(WAVING, 0.0, 3.0)],
        "b": [Action(NODDING, 0.0, 8.0), Action(WAVING, 1.0, 4.9), Action(WAVING, 20.0, 40.0)],
        "c": [],
    }
    predictions = {
        "a": [Segment(0.4, 1.4, NODDING, 0.9), Segment(0.0, 3.0, WAVING, 0.9)],
        "b": [Segment(1.0, 5.0, WAVING, 0.5), Segment(0.0, 7.0, NODDING, 0.1)],
        "c": [Segment(0.0, 1.0, NODDING, 0.4)],
        "unlisted": [Segment(0.0, 1.0, WAVING, 0.4)],
    }
    found = diagnose(predictions, targets, LABELS)
    assert found.by_length == (
        Recall("0 to 1 s", 0, 1),
        Recall("1 to 2 s", 1, 1),
        Recall("2 to 4 s", 2, 2),
        Recall("4 to 8 s", 0, 0),
        Recall("8 s and more", 1, 2),
    )
    assert found.by_class == (Recall("nodding", 2, 3), Recall("waving", 2, 3), Recall("tiptoe", 0, 0))
    assert [each.value for each in found.by_class] == [2 / 3, 2 / 3, None]
    assert (found.correct, found.wrong) == (4, dict.fromkeys(KINDS, 0) | {"background": 2})


def test_diagnose_nothing_is_all_zero():
    found = diagnose({}, {"v": []}, LABELS)
    assert (found.correct, sum(found.wrong.values())) == (0, 0)
    assert all(each.value is None for each in (*found.by_length, *found.by_class))


def drawn(seed):
    rng = random.Random(seed)

    def span():
        start = rng.randint(0, 16) / 2
        return start, start + rng.randint(1, 20) / 2

    videos = [f"v{i}" for i in range(3)]
    targets = {v: [Action(rng.randrange(3), *span()) for _ in range(rng.randint(0, 6))] for v in videos}
    predictions = {v: [Segment(*span(), rng.randrange(3), rng.randint(1, 5) / 5) for _ in range(20)] for v in videos}
    return predictions, targets


@pytest.mark.parametrize("seed", range(20))
def test_diagnose_counts_each_segment_and_action_once_in_any_order(seed):
    predictions, targets = drawn(seed)
    found = diagnose(predictions, targets, LABELS, threshold=0.3, depth=2)
    counts = np.bincount([a.class_id for some in targets.values() for a in some], minlength=3)
    made = np.bincount([s.class_id for some in predictions.values() for s in some], minlength=3)
    assert found.correct + sum(found.wrong.values()) == np.minimum(2 * counts, made).sum()
    assert [each.actions for each in found.by_class] == counts.tolist()
    for parts in (found.by_class, found.by_length):
        assert (sum(each.found for each in parts), sum(each.actions for each in parts)) == (found.correct, counts.sum())
    assert len(found.by_length) == len(LENGTHS) + 1
    rng = random.Random(seed)
    mixed = [{v: rng.sample(rows[v], len(rows[v])) for v in reversed(rows)} for rows in (predictions, targets)]
    assert dataclasses.asdict(diagnose(*mixed, LABELS, threshold=0.3, depth=2)) == dataclasses.asdict(found)


def test_gains_are_what_the_map_lacks_through_each_kind():
    actions = [Action(NODDING, 0.0, 4.0), Action(WAVING, 10.0, 12.0), Action(NODDING, 20.0, 21.0)]
    segments = [
        Segment(0.0, 4.0, NODDING, 0.9),
        Segment(0.5, 4.0, NODDING, 0.8),  # double
        Segment(10.0, 12.0, NODDING, 0.7),  # wrong class
        Segment(20.0, 23.0, NODDING, 0.6),  # wrong place: a third
        Segment(11.0, 16.0, NODDING, 0.5),  # both: a sixth
        Segment(30.0, 31.0, NODDING, 0.4),
        Segment(20.0, 21.0, NODDING, 0.2),
        Segment(40.0, 41.0, NODDING, 0.1),  # costs nothing: all is found
        Segment(0.0, 4.0, TIPTOE, 0.9),  # no action is of its class
    ]
    predictions, targets = {"v": segments, "w": [Segment(0.0, 4.0, NODDING, 0.3)]}, {"v": actions, "w": []}
    # The second nodding comes eighth, after one error of each kind and two of the background; a half for two classes.
    assert detection_metrics(predictions, targets, LABELS)["action_map_0.5"] == pytest.approx((1 + 2 / 8) / 2 / 2)
    one, two = (2 / 7 - 2 / 8) / 2 / 2, (2 / 6 - 2 / 8) / 2 / 2
    found = gains(predictions, targets, LABELS)
    assert list(found) == list(KINDS)
    assert list(found.values()) == pytest.approx([one, one, one, one, two])
    assert set(gains({}, targets, LABELS).values()) == set(gains(predictions, {"v": []}, LABELS).values()) == {0.0}


@pytest.mark.parametrize("seed", range(10))
def test_gains_of_background_hold_for_what_is_added_to_it(seed):
    predictions, targets = drawn(seed)
    found = gains(predictions, targets, LABELS, threshold=0.3)
    assert all(value >= 0 for value in found.values())
    counts = diagnose(predictions, targets, LABELS, threshold=0.3, depth=100).wrong
    assert all(counts[kind] for kind, value in found.items() if value)
    stray = {video: [*rows, Segment(50.0, 51.0, NODDING, 1.1)] for video, rows in predictions.items()}
    lost = [detection_metrics(each, targets, LABELS)["action_map_0.3"] for each in (predictions, stray)]
    more = gains(stray, targets, LABELS, threshold=0.3)
    assert more["background"] == pytest.approx(found["background"] + lost[0] - lost[1])
