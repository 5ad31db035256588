import csv
import json
import types

import numpy as np
import pytest
import sklearn.metrics
from helpers import ROOT
from PIL import Image

from manet_jax import metrics, train
from manet_jax.studies import benchmark, measure, study
from tfds_ma52.errors import UserError

GROUPS = [0, 0, 1]
TARGET = [0, 0, 0, 0, 1, 1, 2, 2]
RIGHT = TARGET
HALF = [0, 0, 1, 2, 1, 0, 2, 0]


def result(predicted, gflops=0.5, **values):
    """What `measure` writes of a run on three classes."""
    confusion = metrics.confusion_matrix(np.array(TARGET), np.array(predicted), 3)
    values = metrics.recognition_metrics(confusion, 6, np.array(GROUPS)) | values
    values["mean_class_accuracy"] = metrics.mean_class_accuracy(confusion)
    names = [f"{i % 4:04d}_01_{i:04d}.mp4" for i in range(len(TARGET))]
    clips = {"video_ids": names, "groups": GROUPS, "target": TARGET, "predicted": list(predicted)}
    cost = {"parameters": 1_234_000, "gflops": gflops, "clips_per_second": 12.34, "device": "cpu"}
    return {"cross_entropy": 1.0, "confusion": confusion.tolist(), "clips": clips, **cost, **values}


@pytest.fixture
def results():
    return {
        "c3d": {0: result(HALF, 0.25), 1: result(RIGHT, 0.25)},
        "manet": {0: result(RIGHT, 0.5), 1: result(RIGHT, 0.5)},
        "my_net": {0: result(HALF, 2.0)},
    }


@pytest.fixture
def plan(tmp_path):
    fields = {"config_file": "configs/benchmark.py:synthetic", "arms": ("c3d", "manet"), "reference": "manet"}
    return study.Study(**fields, num_seeds=2, workdir=tmp_path, measure=("--cost",))


def test_table_has_metrics_cost_and_published_figures(results):
    head, *rows = benchmark.table_rows(results)
    named = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(named) == ["C3D", "MANet", "my_net"]
    c3d = named["C3D"]
    # Half of the clips are right in one seed, all in the other; recalls 2/4, 1/2 and 1/2, and 1.
    assert c3d["action top1"] == f"75.0 ± {100 * np.std([0.5, 1], ddof=1):.1f}"
    assert c3d["mean class accuracy"] == "75.0 ± 35.4"
    assert (c3d["parameters (M)"], c3d["GFLOPs"], c3d["clips/s"]) == ("1.23", "0.25", "12.3")
    assert c3d["published, MA-52 test: top1 / F1 mean"] == "52.22 / 58.43"
    assert named["MANet"]["f1 mean"] == "100.0 ± 0.0"
    assert named["my_net"]["action top1"] == "50.0"
    assert named["my_net"]["published, MA-52 test: top1 / F1 mean"] == "-"


def test_published_figures_are_the_papers():
    assert benchmark.PUBLISHED["manet"]["action_f1_macro"] == 49.22
    for name, values in benchmark.PUBLISHED.items():
        parts = [f"{level}_f1_{mean}" for level in ("body", "action") for mean in ("macro", "micro")]
        if "body_top1" in values:
            assert values["f1_mean"] == pytest.approx(np.mean([values[part] for part in parts]), abs=0.006), name


def test_files_hold_the_same_numbers(results, plan, unchecked):
    text = benchmark.compare(plan, results)
    assert (plan.workdir / "benchmark.md").read_text() == text + "\n"
    rows = {row["network"]: row for row in csv.DictReader((plan.workdir / "benchmark.csv").read_text().splitlines())}
    assert float(rows["c3d"]["action_top1"]) == 0.75
    assert float(rows["c3d"]["action_top1_std"]) == pytest.approx(np.std([0.5, 1], ddof=1))
    assert rows["my_net"]["action_top1_std"] == rows["my_net"]["published_f1_mean"] == ""
    assert (rows["c3d"]["seeds"], rows["c3d"]["published_f1_mean"], rows["c3d"]["gflops"]) == ("2", "58.43", "0.25")
    written = json.loads((plan.workdir / "benchmark.json").read_text())
    assert written["networks"]["c3d"]["seeds"]["0"]["action_top1"] == 0.5
    assert written["commands"]["c3d, seed 1"] in text
    assert "python -m manet_jax.main --workdir" in text
    # The three have one seed in common, in which both differ from MANet by half of the clips.
    table = json.loads((plan.workdir / "differences.json").read_text())["effects"]
    assert {name: row["action_top1"]["value"] for name, row in table.items()} == {
        "C3D - MANet": -0.5,
        "my_net - MANet": -0.5,
    }
    recall = sklearn.metrics.balanced_accuracy_score(TARGET, HALF)
    assert table["C3D - MANet"]["mean_class_accuracy"]["value"] == pytest.approx(recall - 1)
    for name in ("benchmark", "differences"):
        assert np.asarray(Image.open(plan.workdir / f"{name}.png")).std() > 10


def test_without_a_reference_there_are_no_differences(results, plan, tmp_path):
    del results["manet"]
    assert "Differences" not in benchmark.compare(plan, results)
    assert not (tmp_path / "differences.md").exists()


def test_latex_is_escaped_and_has_a_line_for_each_network():
    assert benchmark.escape("a_b & 5 % of $x ~ {y} # \\ ^ 1 ± 2") == (
        r"a\_b \& 5 \% of \$x \textasciitilde{} \{y\} \# \textbackslash{} \textasciicircum{} 1 $\pm$ 2"
    )
    assert benchmark.to_latex([["network", "top1 %"], ["my_net", "50.0 ± 1.0"]]).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"network & top1 \% \\",
        r"\midrule",
        r"my\_net & 50.0 $\pm$ 1.0 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_names_in_the_plot_hide_nothing(results, tmp_path, monkeypatch):
    # Four at each of three places.
    cost = {name: 10.0 ** (i // 4) * (1 + i % 4 / 100) for i, name in enumerate(benchmark.NETWORKS)}
    crowd = {name: {0: result(RIGHT if gflops < 10 else HALF, gflops)} for name, gflops in cost.items()}
    seen = []
    real = benchmark._label

    def label(axes, points):
        real(axes, points)
        seen.extend(text.get_window_extent() for text in axes.texts)
        seen.extend(points)

    monkeypatch.setattr(benchmark, "_label", label)
    benchmark.plot(crowd, tmp_path / "plot.png")
    boxes, points = seen[:12], seen[12:]
    assert len(points) == 12
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_runs_of_several_labels_a_clip_are_refused(results, plan):
    del results["c3d"][1]["clips"]
    with pytest.raises(UserError, match="the clips of c3d's runs have several labels; the benchmark is of one label"):
        benchmark.compare(plan, results)


def test_a_run_that_is_not_finished_is_not_measured(trained, monkeypatch):
    workdir, result = trained
    monkeypatch.setattr(train, "count_steps", lambda config, num_clips: types.SimpleNamespace(total=7 * num_clips))
    step = result["last"]["step"]
    with pytest.raises(UserError, match=f"trained is at step {step} of 84; its command resumes it"):  # of 12 clips
        measure.measure(workdir, cost=False)


CONFIG = """
from configs import benchmark
from manet_jax.studies.small_runs import FIELDS

ARMS = ("tsn", "videomae")
REFERENCE = "videomae"


def get_config(arm):
    config = benchmark.get_config(f"synthetic:{arm}")
    small = {name: value for name, value in FIELDS.items() if not name.startswith("model.")}
    model = {"depth": 8, "width": 8} if arm == "tsn" else {"depth": 1, "width": 16, "num_heads": 2}
    small |= {f"model.{name}": value for name, value in model.items()}
    config.update_from_flattened_dict(small | {"num_epochs": 1.0, "eval.every_epochs": 1.0, "data.synthetic.size": 0.0})
    return config
"""


@pytest.mark.slow
def test_benchmark_command_trains_measures_and_resumes(folder, tmp_path, commands_here, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (tmp_path / "config.py").write_text(CONFIG)
    workdir = tmp_path / "study"
    arguments = [
        f"--workdir={workdir}",
        f"--config={tmp_path}/config.py",
        "--seeds=1",
        f"--config.data.manual_dir={folder}",
    ]
    assert benchmark.main(arguments) == 0
    printed = capsys.readouterr()
    assert [line[:12] for line in printed.err.splitlines()] == ["run 1 of 2: ", "run 2 of 2: "]
    assert len(commands_here) == 4
    networks = json.loads((workdir / "benchmark.json").read_text())["networks"]
    for arm, parameters in (("tsn", networks["tsn"]["seeds"]["0"]["parameters"]), ("videomae", None)):
        evaluation = json.loads((workdir / f"{arm}_0/evaluation_val_latest.json").read_text())
        measured = json.loads((workdir / f"{arm}_0" / study.RESULT_FILE).read_text())
        assert networks[arm]["seeds"]["0"]["f1_mean"] == measured["f1_mean"] == evaluation["f1_mean"]
        clips = measured["clips"]
        assert (
            sklearn.metrics.confusion_matrix(clips["target"], clips["predicted"], labels=range(3)).tolist()
            == (evaluation["confusion"])
        )
        assert clips["video_ids"] == [f"{100 + i % 4:04d}_01_{i:04d}.mp4" for i in range(5)]
        assert measured["mean_class_accuracy"] == pytest.approx(
            sklearn.metrics.balanced_accuracy_score(clips["target"], clips["predicted"])
        )
        assert measured["clips_per_second"] > 0
        assert parameters is None or parameters == measured["parameters"] > 1000
    assert "TSN - VideoMAE" in printed.out
    assert "bootstrap over 4 persons" in printed.out

    assert benchmark.main([*arguments, "--collect"]) == 0
    assert benchmark.main(arguments) == 0
    again = capsys.readouterr()
    assert again.out == 2 * printed.out
    assert len(commands_here) == 4  # nothing was started again
