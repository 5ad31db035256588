import math
import random

import pytest

from manet_jax.detection.diagnosis import KINDS, FalsePositives, Recall, diagnose
from manet_jax.detection.metric import detection_metrics
from manet_jax.detection.segments import Segment
from tfds_ma52.labels import LabelSet
from tfds_ma52.mma52 import Action

LABELS = LabelSet(("a", "b", "c"), ("x", "y"), (0, 0, 1))
A, B, C = range(3)
TARGETS = {"v": [Action(A, 0.0, 4.0), Action(B, 10.0, 12.0), Action(A, 20.0, 21.0)], "w": []}
FOUND = {
    "v": [
        Segment(0.0, 4.0, A, 0.9),
        Segment(0.5, 4.0, A, 0.8),  # double
        Segment(10.0, 12.0, A, 0.7),  # of the wrong class
        Segment(20.0, 23.0, A, 0.6),  # in the wrong place: a third
        Segment(11.0, 16.0, A, 0.5),  # both: a sixth
        Segment(30.0, 31.0, A, 0.4),
        Segment(20.0, 21.0, A, 0.2),
        Segment(40.0, 41.0, A, 0.1),  # more than four times the actions of the class
        Segment(0.0, 4.0, C, 0.9),  # no action is of its class
    ],
    "w": [Segment(0.0, 4.0, A, 0.3)],
}


def test_diagnose_counts_what_is_found_and_what_is_wrong():
    found = diagnose(FOUND, TARGETS, LABELS, multiple=4)
    assert found.by_class == (Recall("a", 2, 2), Recall("b", 0, 1))
    assert [(each.name, each.found, each.count) for each in found.by_length] == [
        ("below 1 s", 0, 0),
        ("1 to 2 s", 1, 1),
        ("2 to 4 s", 0, 1),
        ("4 to 8 s", 1, 1),
        ("8 s or more", 0, 0),
    ]
    assert [each.share for each in found.by_length[1:4]] == [1, 0, 1]
    assert math.isnan(found.by_length[0].share)
    # The second hit of `a` comes eighth, after two of the background, and one of each other kind; half of the classes.
    assert found.mean_average_precision == pytest.approx((1 + 2 / 8) / 2 / 2)
    assert [(each.kind, each.count) for each in found.false_positives] == list(zip(KINDS, (1, 1, 1, 1, 2), strict=True))
    one, two = (2 / 7 - 2 / 8) / 2 / 2, (2 / 6 - 2 / 8) / 2 / 2
    assert [each.gain for each in found.false_positives] == pytest.approx([one, one, one, one, two])


def test_diagnose_counts_as_many_predictions_as_actions():
    found, more = diagnose(FOUND, TARGETS, LABELS), diagnose(FOUND, TARGETS, LABELS, multiple=4)
    assert found.by_class == (Recall("a", 1, 2), Recall("b", 0, 1))
    assert [each.count for each in found.false_positives] == [1, 0, 0, 0, 0]
    assert found.mean_average_precision == more.mean_average_precision  # all predictions count there
    assert [each.gain for each in found.false_positives] == [each.gain for each in more.false_positives]


@pytest.mark.parametrize(
    ("segment", "actions", "kind"),
    [
        # Of two actions that it reaches at 0.5, its own class's decides, though 0.8 is less than 1.
        (Segment(0.0, 5.0, A, 0.5), [Action(A, 0.0, 4.0), Action(B, 0.0, 5.0)], "double"),
        # Another class's at 0.5 comes before its own at 0.1.
        (Segment(0.0, 5.0, A, 0.5), [Action(A, 0.0, 2.0), Action(B, 0.0, 5.0)], "wrong class"),
        (Segment(0.0, 5.0, A, 0.5), [Action(A, 0.0, 0.5), Action(B, 0.0, 2.4)], "wrong place"),  # a tenth
        (Segment(0.0, 5.0, A, 0.5), [Action(A, 0.0, 0.49), Action(B, 0.0, 2.4)], "wrong class and place"),
        (Segment(0.0, 5.0, A, 0.5), [Action(A, 0.0, 0.49), Action(B, 5.0, 9.0)], "background"),
        (Segment(0.0, 5.0, A, 0.5), [], "background"),
    ],
)
def test_diagnose_takes_the_first_kind_that_fits(segment, actions, kind):
    targets = {"v": [*actions, Action(A, 100.0, 101.0), Action(A, 102.0, 103.0)]}
    taken = [Segment(each.start, each.end, each.class_id, 0.9) for each in actions]
    counts = {each.kind: each.count for each in diagnose({"v": [*taken, segment]}, targets, LABELS).false_positives}
    assert counts == {**dict.fromkeys(KINDS, 0), kind: 1}


def test_diagnose_at_another_threshold_and_with_other_lengths():
    found = diagnose({"v": [Segment(0.0, 3.0, A, 0.9)]}, TARGETS, LABELS, tiou=0.8, lengths=(3.5,))
    assert found.tiou == 0.8
    assert found.false_positives[KINDS.index("wrong place")] == FalsePositives("wrong place", 1, 0.0)
    assert found.by_length == (Recall("below 3.5 s", 0, 2), Recall("3.5 s or more", 0, 1))
    assert diagnose({"v": [Segment(0.0, 3.0, A, 0.9)]}, TARGETS, LABELS, tiou=0.7).by_class[0].found == 1


def test_diagnose_without_any_predictions_or_actions():
    nothing = diagnose({}, TARGETS, LABELS)
    assert [each.found for each in nothing.by_class + nothing.by_length] == [0] * 7
    assert [each.count for each in nothing.false_positives] == [0] * 5
    assert diagnose(FOUND, {"v": []}, LABELS).by_class == ()
    assert diagnose(FOUND, {"v": []}, LABELS).mean_average_precision == 0


@pytest.mark.parametrize("seed", range(20))
def test_diagnose_adds_up(seed):
    rng = random.Random(seed)

    def span():
        start = rng.randint(0, 20) / 4
        return start, start + rng.randint(1, 12) / 4

    targets = {v: [Action(rng.randrange(3), *span()) for _ in range(rng.randint(0, 5))] for v in "uvw"}
    found = {v: [Segment(*span(), rng.randrange(3), rng.choice([0.2, rng.random()])) for _ in range(15)] for v in "vwx"}
    result = diagnose(found, targets, LABELS, multiple=2)
    assert result.mean_average_precision == pytest.approx(detection_metrics(found, targets, LABELS)["action_map_0.5"])
    of_classes = {each.name: each for each in result.by_class}
    counted = 0
    for class_id, name in enumerate(LABELS.names):
        count = sum(action.class_id == class_id for actions in targets.values() for action in actions)
        assert (of_classes[name].count if count else 0) == count
        counted += min(2 * count, sum(each.class_id == class_id for some in found.values() for each in some))
    recalled = sum(each.found for each in result.by_class)
    assert recalled == sum(each.found for each in result.by_length)
    assert recalled + sum(each.count for each in result.false_positives) == counted
    assert sum(each.count for each in result.by_length) == sum(map(len, targets.values()))
    assert all(each.gain >= 0 for each in result.false_positives)
    shuffled = {name: rng.sample(found[name], len(found[name])) for name in rng.sample(list(found), len(found))}
    assert diagnose(shuffled, targets, LABELS, multiple=2) == result
