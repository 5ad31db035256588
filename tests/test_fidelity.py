"""Equality with the recorded outputs of the released code; tests/fidelity.py prints the measured differences."""

import csv
import functools
import json
import os
import subprocess
import sys

import fidelity
import numpy as np
import pytest
import recorded
import scipy.stats
from flax import nnx
from golden.inputs import GOLDEN

from manet_jax import evaluate, metrics, parallel
from manet_jax.data import sampling
from manet_jax.models import Outputs
from manet_jax.tasks import SingleLabel
from tfds_ma52.labels import MA52


def exceeded(measurements):
    return [each for each in measurements if not each.difference <= each.tolerance]


@pytest.mark.slow
def test_outputs_and_training_are_the_releases(tmp_path):
    # In a process of its own, whose programs are compiled as usual: conftest.py's options round otherwise.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, fidelity.__file__, "--json", str(tmp_path / "measured.json")]
    subprocess.run(command, env=environment, check=True)
    measured = json.loads((tmp_path / "measured.json").read_text())
    of_forward, of_training = (
        [recorded.Measurement(**each) for each in measured[part]] for part in ("forward", "training")
    )
    assert len(of_forward) == 4
    assert not exceeded(of_forward)
    by_parameter = "each parameter's change, its norm, relative"
    assert [each.quantity for each in of_training].count(by_parameter) == 1
    assert len(of_training) == 5
    assert not exceeded([each for each in of_training if each.quantity != by_parameter])

    changes = measured["changes"]
    record, exact = recorded.outputs()["param_delta_norms"], recorded.EXACT["param_delta_norms"]
    assert changes.keys() == record.keys() == exact.keys()
    assert len(changes) == 197
    # All are within 1 % here (docs/fidelity.md). Rounding decides: the record itself is 1.5 % off in one parameter, and
    # CPUs with other instructions push one or two past 1 %.
    for reference in (record, exact):
        errors = {name: abs(changes[name] / change - 1) for name, change in reference.items()}
        assert max(errors.values()) < 2e-2
        assert sorted(errors.values())[-3] < 1e-2, errors

    # The built sets' clips cost little. The three are test patterns of saturated colours, the hardest case for chroma
    # at half the resolution.
    assert measured["transcoded"].keys() == {f"{form} {name}" for form, name in fidelity.TRANSCODED}
    for psnr, _, change, same_class in measured["transcoded"].values():
        assert psnr > 20
        assert change < 0.1
        assert same_class


@pytest.mark.parametrize("name", fidelity.VIDEOS)
def test_eval_clips_are_the_releases(name):
    assert fidelity.recorded_frames()[f"{name}_images"].std() > 50
    assert not exceeded(fidelity.frames(name))


def test_center_segments_for_every_length():
    for n in range(1, 201):
        assert sampling.center_segments(n, 8).tolist() == [n * (2 * i + 1) // 16 for i in range(8)]


def test_random_segments_are_the_releases_where_not_random():
    # mmaction2: below 8 frames np.around(i n / 8), modulo n; from 8 to 15 frames segments are one frame long.
    spread = {
        1: [0, 0, 0, 0, 0, 0, 0, 0],
        2: [0, 0, 0, 1, 1, 1, 0, 0],
        3: [0, 0, 1, 1, 2, 2, 2, 0],
        4: [0, 0, 1, 2, 2, 2, 3, 0],
        5: [0, 1, 1, 2, 2, 3, 4, 4],
        6: [0, 1, 2, 2, 3, 4, 4, 5],
        7: [0, 1, 2, 3, 4, 4, 5, 6],
    }
    for n in range(1, 16):
        for seed in range(10):
            drawn = sampling.random_segments(np.random.default_rng(seed), n, 8).tolist()
            assert drawn == spread.get(n, list(range(8))), n


def test_random_segments_have_the_releases_distribution(unchecked):
    # Eight independent uniform offsets in segments of n // 8 frames: each segment, and each pair of neighbours.
    p_values, rng, num_draws = [], np.random.default_rng(0), 1500
    for n in range(16, 201):
        length = n // 8
        draws = np.stack([sampling.random_segments(rng, n, 8) for _ in range(num_draws)])
        offsets = draws - np.arange(8) * length
        assert offsets.min() >= 0
        assert offsets.max() < length
        for i in range(8):
            p_values.append(scipy.stats.chisquare(np.bincount(offsets[:, i], minlength=length)).pvalue)
        for i in range(7 if length <= 12 else 0):  # at least ten draws expected in every cell
            pairs = offsets[:, i] * length + offsets[:, i + 1]
            p_values.append(scipy.stats.chisquare(np.bincount(pairs, minlength=length**2)).pvalue)
    # If all is well, the p-values are uniform: none is extreme, and their distribution has no bend.
    assert len(p_values) > 2000
    assert min(p_values) > 1e-6
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3


class Echo(nnx.Module):
    """A model that returns its input as logits."""

    def __call__(self, inputs):
        return Outputs(logits=inputs["video"])


@pytest.mark.parametrize("num_devices", [1, 8])
def test_metrics_of_a_table_are_scikit_learns(num_devices):
    with (GOLDEN / "predictions.csv").open() as file:
        labels, *ranked = np.array(list(csv.reader(file))[1:], int).T
    logits = np.full((len(labels), 52), -10, np.float32)
    for rank, guess in enumerate(ranked):
        logits[np.arange(len(labels)), guess] = 5 - rank
    mesh = parallel.make_mesh(num_devices)
    step = functools.partial(evaluate.eval_step, graphdef=nnx.split(Echo())[0], outputs=("logits",))
    step, parts = parallel.map_step(step, mesh, "shard_map"), []
    for start in range(0, len(labels), 64):  # the last batch is padded
        rows = slice(start, start + 64)
        batch = {
            "video": np.pad(logits[rows], ((0, 64 - len(labels[rows])), (0, 0))),
            "label": np.pad(labels[rows], (0, 64 - len(labels[rows]))).astype(np.int32),
            "index": np.pad(np.arange(start, len(labels))[:64], (0, 64 - len(labels[rows])), constant_values=-1),
        }
        parts.append(step({"params": {}, "batch_stats": {}}, parallel.shard_batch(batch, mesh)))
    predictions, tasks = evaluate.collect(parts), (SingleLabel(MA52),)
    values = evaluate.compute_metrics(predictions, tasks)
    published = {name: values[name] for name in metrics.NAMES}
    expected = json.loads((GOLDEN / "predictions.json").read_text())
    assert list(published) == list(expected)
    assert published == pytest.approx(expected, rel=1e-12)
    counts = evaluate.compute_confusions(predictions, tasks)["confusion"]
    assert ((counts.sum(0) + counts.sum(1)) == 0).any()  # some classes occur nowhere: scikit-learn leaves them out
