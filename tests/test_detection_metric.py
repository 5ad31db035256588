import math
import random

import numpy as np
import pytest

from manet_jax.detection.metric import THRESHOLDS, detection_metrics
from manet_jax.detection.segments import Segment
from tfds_ma52.labels import LabelSet
from tfds_ma52.untrimmed import Action

LABELS = LabelSet(("a", "b", "c", "d"), ("x", "y"), (0, 0, 1, 1))


def slow_average_precision(rows, instances, threshold, slack):
    """One class: rows of (score, video, start, end), instances of (video, start, end); recall point by recall point."""
    remaining, flags = sorted(instances), []
    for _, video, start, end in sorted(rows, key=lambda row: (-row[0], *row[1:])):
        candidates = []
        for instance in remaining:
            if instance[0] == video:
                shared = max(0.0, min(end, instance[2]) - max(start, instance[1]))
                whole = (end - start) + (instance[2] - instance[1]) - shared
                if whole + slack > 0 and shared / (whole + slack) >= threshold:
                    candidates.append((-shared / (whole + slack), instance))
        if candidates:
            remaining.remove(min(candidates)[1])
        flags.append(bool(candidates))
    area = 0.0
    for hit in range(1, sum(flags) + 1):  # the best precision at this recall or a higher one
        best = 0.0
        for end in range(1, len(flags) + 1):
            if sum(flags[:end]) >= hit:
                best = max(best, sum(flags[:end]) / end)
        area += best / len(instances)
    return area


def slow_metrics(predictions, targets):
    values = {}
    for level, mapping, count in (("action", (0, 1, 2, 3), 4), ("body", LABELS.groups, 2)):
        rows = [(s.score, v, s.start, s.end, mapping[s.class_id]) for v, some in predictions.items() for s in some]
        actions = [(v, a.start, a.end, mapping[a.class_id]) for v, some in targets.items() for a in some]
        for form, slack in (("", 0.0), ("mma52_", 1e-4)):
            of_thresholds = []
            for number, threshold in enumerate(THRESHOLDS):
                exact = np.arange(0.1, 1, 0.1)[number] if form else threshold
                scores = []
                for c in range(count):
                    instances = [a[:3] for a in actions if a[3] == c]
                    if instances:
                        of_class = [row[:4] for row in rows if row[4] == c]
                        scores.append(slow_average_precision(of_class, instances, exact, slack))
                    elif form:
                        scores.append(0.0)
                of_thresholds.append(sum(scores) / len(scores) if scores else 0.0)
                values[f"{form}{level}_map_{threshold}"] = of_thresholds[-1]
            values[f"{form}{level}_map"] = sum(of_thresholds) / len(of_thresholds)
    return values


def random_case(seed):
    """Videos with few distinct times and scores, so that there are ties, duplicates, and classes without actions."""
    rng = random.Random(seed)
    grid = rng.choice([0.5, 0.25, 0.01])

    def span():
        start = round(rng.uniform(0, 8) / grid) * grid
        return start, start + max(grid, round(rng.uniform(0, 4) / grid) * grid)

    videos = [f"v{i}" for i in range(rng.randint(1, 4))]
    classes = range(rng.randint(1, 4))
    targets = {v: [Action(rng.choice(classes), *span()) for _ in range(rng.randint(0, 5))] for v in videos}
    predictions = {}
    for video in [*videos[: rng.randint(0, 4)], *(["other"] if rng.random() < 0.2 else [])]:
        found = [Segment(*span(), rng.choice(range(4)), rng.choice([0.1, 0.2, 0.5, 0.9, 1.0])) for _ in range(8)]
        near = [
            Segment(a.start, a.end + rng.choice([0.0, grid]), a.class_id, rng.random()) for a in targets.get(video, [])
        ]
        predictions[video] = found + near + found[: rng.randint(0, 3)]
    return predictions, targets


@pytest.mark.parametrize("part", range(4))
def test_detection_metrics_equal_a_slow_computation(part):
    positive = 0
    for seed in range(50 * part, 50 * part + 50):
        predictions, targets = random_case(seed)
        found, expected = detection_metrics(predictions, targets, LABELS), slow_metrics(predictions, targets)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert math.isclose(found[name], value, rel_tol=0, abs_tol=1e-9), (seed, name)
        positive += 0 < expected["action_map_0.3"] < 1
    assert positive > 20


@pytest.mark.parametrize("seed", range(10))
def test_detection_metrics_do_not_depend_on_the_order_of_rows(seed):
    predictions, targets = random_case(seed)
    rng = random.Random(seed)

    def shuffled(rows):
        return {name: rng.sample(list(rows[name]), len(rows[name])) for name in rng.sample(list(rows), len(rows))}

    expected = detection_metrics(predictions, targets, LABELS)
    assert detection_metrics(shuffled(predictions), shuffled(targets), LABELS) == expected


def metrics(segments, actions):
    return detection_metrics({"v": segments}, {"v": actions}, LABELS)


def test_exact_half_misses_in_the_form_of_mma52():
    """Half of the union is 0.5, but not with 0.0001 s more."""
    found = metrics([Segment(0.0, 1.0, 0, 0.9)], [Action(0, 0.0, 2.0)])
    assert (found["action_map_0.5"], found["mma52_action_map_0.5"]) == (1, 0)
    assert (found["mma52_action_map_0.4"], found["mma52_body_map_0.4"]) == (1 / 4, 1 / 2)  # the mean over all classes


def test_second_best_action_is_taken_where_the_best_is_gone():
    actions = [Action(0, 0.0, 2.0), Action(0, 0.5, 3.0)]
    found = metrics([Segment(0.0, 2.0, 0, 0.9), Segment(0.0, 2.0, 0, 0.8)], actions)
    assert found["action_map_0.5"] == 1  # the second prediction shares 1.5 of 3 s with the second action
    assert found["action_map_0.6"] == 0.5


def test_duplicates_after_the_hit_cost_nothing_and_before_it_half():
    action, hit = [Action(1, 1.0, 3.0)], Segment(1.0, 3.0, 1, 0.8)
    assert metrics([hit, *[Segment(1.0, 3.0, 1, 0.7)] * 3], action)["action_map"] == 1
    assert metrics([hit, Segment(5.0, 6.0, 1, 0.9)], action)["action_map"] == 0.5
    # Of equal scores the earlier segment comes first, whatever the order of the rows.
    for rows in ([hit, Segment(5.0, 6.0, 1, 0.8)], [Segment(5.0, 6.0, 1, 0.8), hit]):
        assert metrics(rows, action)["action_map"] == 1


def test_body_level_counts_any_class_of_the_group():
    found = metrics([Segment(0.0, 1.0, 1, 0.9)], [Action(0, 0.0, 1.0)])
    assert (found["action_map"], found["body_map"], found["mma52_body_map_0.9"]) == (0, 1, 0.5)


def test_nothing_found_and_nothing_there_is_zero():
    assert set(detection_metrics({}, {"v": []}, LABELS).values()) == {0.0}
    assert set(metrics([Segment(0.0, 1.0, 1, 0.9)], []).values()) == {0.0}
