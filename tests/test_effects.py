import json

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from manet_jax.metrics import confusion_matrix
from manet_jax.studies import effects
from tfds_ma52.errors import UserError


def accuracy(confusion):
    return np.array([np.trace(confusion) / confusion.sum()])


def measure(confusion):
    return {"accuracy": accuracy(confusion)[0], "first": confusion[0, 0] / confusion[0].sum()}


def result(predicted, target, names=None):
    """What `measure` writes of a run on two classes."""
    names = names or [f"{i % 3:04d}_01_{i:04d}.mp4" for i in range(len(target))]
    confusion = confusion_matrix(np.array(target), np.array(predicted), 2)
    clips = {"video_ids": names, "target": list(target), "predicted": list(predicted)}
    return {"confusion": confusion.tolist(), "clips": clips}


@pytest.fixture
def paired():
    """Of 500 clips of class 0, the predictions of two arms, right for 70 and 60 % of them, both for 50."""
    draws = np.random.default_rng(0).choice(4, 500, p=(0.5, 0.2, 0.1, 0.2))
    first, second = draws > 1, (draws == 1) | (draws == 3)
    return {"a": first.astype(int)[None], "b": second.astype(int)[None]}


def width(samples):
    low, high = effects.percentiles(samples["a"][:, 0] - samples["b"][:, 0])
    return high - low


def test_t_interval_is_scipys():
    values = np.array([0.1, 0.25, 0.15, 0.3, np.nan])
    expected = scipy.stats.ttest_1samp(values[:4], 0).confidence_interval()
    assert effects.t_interval(values) == pytest.approx((expected.low, expected.high))
    assert np.isnan(effects.t_interval(values[:1])).all()


def test_bootstrap_of_paired_clips_is_the_t_interval(paired):
    samples = effects.bootstrap(np.zeros(500, int), paired, np.arange(500), accuracy, 2, num_samples=4000)
    difference = (paired["a"] == 0).astype(float) - (paired["b"] == 0)
    expected = effects.t_interval(difference[0])
    assert effects.percentiles(samples["a"][:, 0] - samples["b"][:, 0]) == pytest.approx(expected, abs=0.004)
    # Unpaired, the interval would be wider: the arms agree on most clips.
    unpaired = 2 * 1.96 * np.sqrt(sum((of_arm == 0).var() for of_arm in paired.values()) / 500)
    assert width(samples) < 0.85 * unpaired


def test_bootstrap_by_person_knows_that_clips_of_a_person_are_alike(paired):
    alone = effects.bootstrap(np.zeros(500, int), paired, np.arange(500), accuracy, 2)
    four = {arm: np.repeat(of_arm, 4, axis=1) for arm, of_arm in paired.items()}
    target, person = np.zeros(2000, int), np.repeat(np.arange(500), 4)
    by_person = effects.bootstrap(target, four, person, accuracy, 2)
    by_clip = effects.bootstrap(target, four, np.arange(2000), accuracy, 2)
    assert width(by_person) == pytest.approx(width(alone))
    assert width(by_person) / width(by_clip) == pytest.approx(np.sqrt(4), rel=0.1)


def test_bootstrap_draws_seeds_once_for_all_clips():
    # The arms differ by 0 in one seed and by 1 in the other, on every clip: 0, a half and 1 have 1/4, 1/2 and 1/4.
    right, wrong = np.zeros(50, int), np.ones(50, int)
    predicted = {"a": np.array([right, right]), "b": np.array([right, wrong])}
    samples = effects.bootstrap(right, predicted, np.arange(50), accuracy, 2)
    values, counts = np.unique(samples["a"] - samples["b"], return_counts=True)
    np.testing.assert_array_equal(values, [0, 0.5, 1])
    np.testing.assert_allclose(counts / 1000, [0.25, 0.5, 0.25], atol=0.05)


@pytest.mark.parametrize(
    ("names", "units", "known"),
    [
        (["0007_01_0003.mp4", "0012_02_0004.mp4", "0007_02_0001.mp4"], [0, 1, 0], True),
        (["val/0007_01_0003.mp4", "val/0012_02_0004"], [0, 1], True),
        (["0007_01_0003.mp4", "test0000.mp4", "0007_02_0001.mp4"], [0, 1, 2], False),
    ],
)
def test_persons_are_known_from_the_names_of_clips(names, units, known):
    found, of_persons = effects.group_by_person(names)
    assert (found.tolist(), of_persons) == (units, known)


TARGET = [0, 0, 0, 0, 1, 1]
RIGHT, HALF, NONE = TARGET, [0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]


def test_compute_gives_differences_by_hand():
    results = {
        "a": {0: result(RIGHT, TARGET), 1: result(HALF, TARGET), 2: result(NONE, TARGET)},
        "b": {0: result(HALF, TARGET), 1: result(NONE, TARGET)},
        "c": {},  # has no part in the contrast
    }
    found = effects.compute(results, {"a - b": {"a": 1.0, "b": -1.0}}, measure, ["accuracy", "first"])
    assert (found.num_seeds, found.num_units, found.of_persons) == (2, 3, True)
    assert found.drawn == "seeds and persons"
    row = found.table["a - b"]
    assert row["accuracy"].value == pytest.approx((3 / 6 + 3 / 6) / 2)
    assert row["first"].value == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert row["accuracy"].over_seeds == pytest.approx((0.5, 0.5))
    assert row["accuracy"].over_clips[0] <= 0.5 <= row["accuracy"].over_clips[1]


def test_compute_leaves_out_seeds_without_a_value():
    def only_if_right(confusion):
        return {"x": accuracy(confusion)[0] if confusion[0, 0] else float("nan")}

    results = {arm: {0: result(RIGHT, TARGET), 1: result(NONE, TARGET)} for arm in "ab"}
    effect = effects.compute(results, {"a - b": {"a": 1.0, "b": -1.0}}, only_if_right, ["x"]).table["a - b"]["x"]
    assert effect.value == 0
    assert np.isnan(effect.over_seeds).all()  # of one seed


def test_compute_needs_common_seeds_and_clips():
    contrast = {"a - b": {"a": 1.0, "b": -1.0}}
    apart = {"a": {0: result(RIGHT, TARGET)}, "b": {1: result(RIGHT, TARGET)}}
    assert effects.compute(apart, contrast, measure, ["accuracy"]) is None
    assert effects.compute(apart, {}, measure, ["accuracy"]) is None
    other = {"a": {0: result(RIGHT, TARGET)}, "b": {0: result(RIGHT, TARGET, [f"{i}.mp4" for i in range(6)])}}
    with pytest.raises(UserError, match="evaluated on different clips; compare runs on the same data and split"):
        effects.compute(other, contrast, measure, ["accuracy"])


def test_effects_are_written_as_tables_plot_and_json(tmp_path):
    table = {
        "a - b": {"f1_mean": effects.Effect(0.051, (0.01, 0.092), (-0.02, 0.1))},
        "c - b": {"f1_mean": effects.Effect(-0.2, (float("nan"), float("nan")), (-0.25, -0.15))},
    }
    text = effects.write(tmp_path, "effects", effects.Effects(table, 3, 20, of_persons=True))
    assert (tmp_path / "effects.md").read_text() == text + "\n"
    assert text.splitlines() == [
        "Differences in points, with 95 % intervals: Student's t over 3 seeds, and the bootstrap over 3 seeds and "
        "20 persons, with all of their clips.",
        "",
        "**f1 mean**",
        "",
        "| difference | points | over seeds | over seeds and persons |",
        "|---|---|---|---|",
        "| a - b | +5.1 | +1.0 to +9.2 | -2.0 to +10.0 |",
        "| c - b | -20.0 | - | -25.0 to -15.0 |",
    ]
    written = json.loads((tmp_path / "effects.json").read_text())["effects"]
    assert written["a - b"]["f1_mean"] == {"value": 0.051, "over_seeds": [0.01, 0.092], "over_clips": [-0.02, 0.1]}
    assert written["c - b"]["f1_mean"]["over_seeds"] == [None, None]
    assert np.asarray(Image.open(tmp_path / "effects.png")).std() > 10


def test_effects_of_one_seed_have_one_interval():
    table = {"a - b": {"f1_mean": effects.Effect(0.05, (float("nan"),) * 2, (-0.02, 0.1))}}
    lines = effects.format_tables(effects.Effects(table, 1, 20, of_persons=False)).splitlines()
    assert lines[0].endswith("intervals: the bootstrap over 20 clips, whose persons are not known.")
    assert lines[-3:] == ["| difference | points | over clips |", "|---|---|---|", "| a - b | +5.0 | -2.0 to +10.0 |"]
