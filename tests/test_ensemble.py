"""Ensembles: their probabilities by hand, from the members' own outputs, by the real commands and in Python."""

import csv
import dataclasses
import json
import re
import shlex
import shutil
import sys
import zipfile

import numpy as np
import pytest
from helpers import outcome, set_network, shrink, write_clip, write_folder
from saved_models import LABELS, save, softmax
from test_emotion import pro_config, pro_folder  # noqa: F401

import manet_jax
from configs import ma52
from manet_jax import configuration, ensemble, evaluate, predict, tasks
from manet_jax.data import clips
from manet_jax.data.views import SINGLE_VIEW
from manet_jax.label_vectors import load_label_vectors
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.labels import MA52_NAMES, LabelSet

NAMES = MA52_NAMES[:6]  # a submission ranks five
SIX = LabelSet(NAMES, ("body", "head"), (0, 0, 0, 0, 0, 1))


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def make_config(data, network):
    """MANet over 4 frames of segments, or TimeSformer over two clips of 6 neighbouring, larger ones."""
    config = shrink(ma52.get_config(), data)
    if network == "timesformer":
        set_network(config, "timesformer")
        config.clip.update(sampling="dense", num_frames=6, short_side=56, crop_size=48)
        config.eval.num_clips = 2
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return write_folder(root, per_split=(("train", 6), ("val", 7), ("test", 3)), names=NAMES)


@pytest.fixture(scope="module")
def workdirs(data, tmp_path_factory):
    """Runs of two networks, of drawn weights."""
    root = tmp_path_factory.mktemp("runs")
    labels = configuration.parse(make_config(data, "manet")).data.open().labels
    vectors = load_label_vectors("", NAMES)
    return (
        save(root / "manet", make_config(data, "manet"), labels, vectors=vectors),
        save(root / "timesformer", make_config(data, "timesformer"), labels),
    )


@pytest.fixture(scope="module")
def evaluation(workdirs):
    return manet_jax.evaluate_ensemble(workdirs, weights=[2, 1])


@pytest.fixture(scope="module")
def models(workdirs):
    return [manet_jax.load_model(workdir) for workdir in workdirs]


def probabilities(evaluation, task=0):
    return evaluation.tasks[task].probabilities(evaluation.predictions.outputs[evaluation.tasks[task].output])


def test_average_models_weighs_probabilities():
    single, several = tasks.SingleLabel(SIX), tasks.MultiLabel(SIX)
    first, second = np.array([[0.5, 0.25, 0.25, 0, 0, 0]]) + 1e-300, np.array([[0.2, 0.2, 0.6, 0, 0, 0]]) + 1e-300
    logits = [{"logits": np.log(first) + 3, "embedding": np.ones((1, 2))}, {"logits": np.log(second) - 9}]
    averaged = tasks.average_models([single], logits, [3, 1])
    assert averaged.keys() == {"logits"}
    np.testing.assert_allclose(np.exp(averaged["logits"]), (3 * first + second) / 4, rtol=1e-12)
    odds = [{"logits": np.log([[3.0, 1, 1, 1, 1, 1]])}, {"logits": np.log([[0.25, 1, 1, 1, 1, 3]])}]
    averaged = several.probabilities(tasks.average_models([several], odds, [0.25, 0.75])["logits"])
    np.testing.assert_allclose(averaged, [[0.75 / 4 + 0.2 * 0.75, 0.5, 0.5, 0.5, 0.5, 0.125 + 0.75 * 0.75]])


def test_an_ensemble_has_the_mean_probabilities_of_its_members(evaluation, workdirs):
    alone = manet_jax.evaluate_checkpoint(workdirs[1])
    np.testing.assert_allclose(probabilities(evaluation.members[1]), probabilities(alone), rtol=1e-6)
    assert evaluation.members[1].metrics == pytest.approx(alone.metrics)
    outputs = [each.predictions.outputs["logits"] for each in evaluation.members]
    assert [len(each.views) for each in evaluation.members] == [1, 2]
    expected = (2 * softmax(outputs[0]) + softmax(outputs[1])) / 3
    assert min(np.abs(expected - softmax(each)).max() for each in outputs) > 1e-2
    np.testing.assert_allclose(probabilities(evaluation), expected, rtol=1e-12)
    np.testing.assert_allclose(np.exp(evaluation.predictions.outputs["logits"]), expected, rtol=1e-12)
    label = np.arange(7) % 6
    assert evaluation.metrics["action_top1"] == (expected.argmax(1) == label).mean()
    assert evaluation.metrics["cross_entropy"] == pytest.approx(-np.log(expected[np.arange(7), label]).mean())
    assert evaluation.weights == pytest.approx((2 / 3, 1 / 3))


def test_weights_order_and_copies(evaluation):
    first, second = evaluation.members
    of_first = ensemble.average([first, second], [1, 0])
    np.testing.assert_allclose(probabilities(of_first), probabilities(first), rtol=1e-14)
    assert of_first.metrics == pytest.approx({name: x for name, x in first.metrics.items() if name != "step"})
    turned = ensemble.average([second, first], [1, 2])
    np.testing.assert_allclose(probabilities(turned), probabilities(evaluation), rtol=1e-14)
    doubled = ensemble.average([second, second])
    np.testing.assert_allclose(probabilities(doubled), probabilities(second), rtol=1e-14)


def test_evaluate_command_writes_table_report_and_submission(evaluation, workdirs, tmp_path, run_command):
    copies = [shutil.copytree(each, tmp_path / each.name, ignore=shutil.ignore_patterns("eval*")) for each in workdirs]
    flags = [f"--workdir={copies[0]}", f"--workdir={copies[1]}", "--weights=2,1", "--submission", tmp_path / "x.zip"]
    done = run_command([sys.executable, "-m", "manet_jax.main", "--mode=evaluate", *flags])
    assert done.returncode == 0, done.stderr
    assert_table(done.stdout, evaluation, copies)
    assert_files(evaluation, copies, tmp_path)
    assert_report((copies[0] / "report_val_best_with_timesformer/report.html").read_text(), evaluation, copies)


def assert_table(output, evaluation, copies):
    """A column for each model and one for the ensemble."""
    head, *lines = output.splitlines()
    assert head.split() == [str(copies[0]), "(step", "1)", str(copies[1]), "(step", "1)", "ensemble"]
    printed = {name: [float(value) for value in values] for name, *values in map(str.split, lines)}
    columns = [*evaluation.members, evaluation]
    assert printed["f1_mean"] == [pytest.approx(100 * each.metrics["f1_mean"], abs=0.01) for each in columns]


def assert_files(evaluation, copies, root):
    """Beside those of a single model lie those of the ensemble, with the mean by hand."""
    assert sorted(str(path.relative_to(root)) for path in root.glob("*/[er]*")) == [
        "manet/evaluation_val_best.json",
        "manet/evaluation_val_best_with_timesformer.json",
        "manet/report_val_best_with_timesformer",
        "timesformer/evaluation_val_best.json",
    ]
    content = json.loads((copies[0] / "evaluation_val_best_with_timesformer.json").read_text())
    assert content["f1_mean"] == pytest.approx(evaluation.metrics["f1_mean"])
    assert np.sum(content["confusion"]) == 7
    assert [(each["workdir"], each["step"], each["num_clips"]) for each in content["members"]] == [
        (str(copies[0]), 1, 1),
        (str(copies[1]), 1, 2),
    ]
    assert [each["weight"] for each in content["members"]] == pytest.approx([2 / 3, 1 / 3])
    expected = (2 * probabilities(evaluation.members[0]) + probabilities(evaluation.members[1])) / 3
    with (copies[0] / "report_val_best_with_timesformer/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([[float(row[f"p({name})"]) for name in NAMES] for row in rows], expected, rtol=1e-4)
    with zipfile.ZipFile(root / "x.zip") as file:
        submitted = list(csv.DictReader(file.read("prediction.csv").decode().splitlines()))
    assert [row["vid"] for row in submitted] == evaluation.video_ids
    ranked = np.argsort(-expected, axis=1)[:, :5]
    assert [[int(row[f"action_pred_{i}"]) for i in range(1, 6)] for row in submitted] == ranked.tolist()


def assert_report(text, evaluation, copies):
    """It has the members' metrics beside the ensemble's, and says what an ensemble has not."""
    assert "<h1>Evaluation of manet + timesformer</h1>" in text
    assert "The mean probabilities of 2 models, on the 7 clips of split val of " in text
    folders = " ".join(f"--workdir {shlex.quote(str(path))}" for path in copies)
    assert f"python -m manet_jax.predict {folders} --weights 0.666667,0.333333 --html pages VIDEO" in text
    for path, weight in zip(copies, ("0.667", "0.333"), strict=True):
        assert f"<td>{path}</td><td>{weight}</td><td>{path.name}</td><td>best</td><td>1</td>" in text
        assert f"<summary>Config of {path}</summary>" in text
        assert f"<th>{path}, %</th>" in text
    remark = "each model of the ensemble has its own, which the report of that model alone shows."
    assert f"<h2>Joint embedding</h2>\n<p>There is none: {remark}</p>" in text
    assert f"<h2>Class activation maps</h2>\n<p>There are none: {remark}</p>" in text
    row = next(row for row in text.split("<tr>") if row.startswith("<td>f1 mean</td>"))
    cells = [re.sub("(?s)<.*", "", cell) for cell in row.split("<td>")]
    metrics = [f"{100 * each.metrics['f1_mean']:.2f}" for each in (evaluation, *evaluation.members)]
    assert [cells[i] for i in (2, 4, 5)] == metrics


def test_hidden_labels_give_an_ensemble_without_metrics(workdirs, data, tmp_path):
    config = shrink(ma52.get_config(), data)
    config.eval.split = "test"
    evaluation = manet_jax.evaluate_ensemble(workdirs, config=config, need_labels=False)
    assert (evaluation.hidden, evaluation.metrics, len(evaluation.predictions)) == (True, {}, 3)
    assert not [path for workdir in workdirs for path in workdir.glob("*test*")]
    error = outcome(lambda: manet_jax.evaluate_ensemble(workdirs, config=config))[1]
    assert error.startswith("the labels of split 'test' are hidden")


def test_several_labels_and_emotions(pro_folder, tmp_path):  # noqa: F811
    """The mean of actions is over both models, that of emotions over the only one that has them."""
    dataset = configuration.parse(pro_config(pro_folder)).data.open()
    emotions = {"micro_actions": (), "micro_action": dataset.emotions}
    workdirs = [
        save(tmp_path / form, pro_config(pro_folder, form), dataset.labels, names, multilabel=True)
        for form, names in emotions.items()
    ]
    evaluation = manet_jax.evaluate_ensemble(workdirs, weights=[1, 3])
    first, second = evaluation.members
    assert [task.name for task in evaluation.tasks] == ["actions", "emotions"]
    expected = (sigmoid(first.predictions.outputs["logits"]) + 3 * sigmoid(second.predictions.outputs["logits"])) / 4
    np.testing.assert_allclose(probabilities(evaluation), expected, rtol=1e-12)
    np.testing.assert_allclose(sigmoid(evaluation.predictions.outputs["logits"]), probabilities(evaluation), rtol=1e-12)
    np.testing.assert_array_equal(evaluation.predictions.outputs["emotion"], second.predictions.outputs["emotion"])
    thresholds = [each.metrics["threshold"] for each in (first, second)]
    mean = (thresholds[0] + 3 * thresholds[1]) / 4
    assert evaluation.tasks[0].threshold == evaluation.metrics["threshold"] == pytest.approx(mean)
    exact = ((expected >= mean) == evaluation.predictions.targets["labels"]).all(1)
    assert evaluation.metrics["exact_match"] == exact.mean()
    assert "emotion_accuracy" not in first.metrics
    assert evaluation.metrics["emotion_accuracy"] == second.metrics["emotion_accuracy"]
    table = evaluate.format_table({"a": first.metrics, "ensemble": evaluation.metrics}).splitlines()
    (row,) = (line.split() for line in table if line.startswith("emotion_accuracy"))
    assert row[1] == "-"
    alone = ensemble.average([first, second], [1, 0])
    assert alone.predictions.outputs.keys() == {"logits"}
    assert alone.metrics == pytest.approx({name: x for name, x in first.metrics.items() if name != "step"}, nan_ok=True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A short clip, a file that is no video, and eleven seconds."""
    root = tmp_path_factory.mktemp("videos")
    write_clip(root / "a.mp4", seed=1, num_frames=17)
    (root / "b.mp4").write_text("this is no video")
    write_clip(root / "c.mp4", seed=5, num_frames=330)
    return [root / name for name in ("a.mp4", "b.mp4", "c.mp4")]


def test_predict_reads_a_video_once_and_averages(models, videos, monkeypatch):
    calls, read = [], ClipFrames.read

    def count(self, **options):
        calls.append(self.path.name)
        return read(self, **options)

    several = ensemble.Ensemble(tuple(models), (0.2, 0.8))
    monkeypatch.setattr(ClipFrames, "read", count)
    options = {"window": 4.0, "stride": 3.0, "batch_size": 2}
    predicted = several.predict(videos, **options)
    assert sorted(calls) == ["a.mp4", "b.mp4", "c.mp4"]
    first, second = (model.predict(videos, **options) for model in models)
    assert len(predicted) == 6
    for each, one, other in zip(predicted, first, second, strict=True):
        assert (each.video, each.start, each.end, each.error) == (one.video, one.start, one.end, one.error)
        if not each.error:
            assert np.abs(one.probabilities - other.probabilities).max() > 1e-2
            expected = (one.probabilities + 4 * other.probabilities) / 5
            np.testing.assert_allclose(each.probabilities, expected, rtol=1e-6)
            # One view, and two, which are as far above as below their mean.
            assert one.disagreement is None
            assert other.disagreement.max() > 1e-4
            views = [one.probabilities, *(other.probabilities + sign * other.disagreement for sign in (-1, 1))]
            spread = np.abs(np.array(views) - expected)
            variance = (one.probabilities - expected) ** 2 / 5 + (spread[1] ** 2 + spread[2] ** 2) * 2 / 5
            np.testing.assert_allclose(each.disagreement, np.sqrt(variance), rtol=1e-4, atol=1e-7)
    assert several.labels.names == NAMES
    assert several.emotions == ()


def test_predict_cuts_out_once_what_two_members_see_alike(models, videos, monkeypatch):
    """An ensemble of a model and itself crops no frame twice, and predicts the same."""
    crops, crop = [], clips.crop_frame
    monkeypatch.setattr(clips, "crop_frame", lambda *arguments: crops.append(1) or crop(*arguments))
    alone = models[0].predict([videos[0]] * 2)
    count = len(crops)
    both = ensemble.Ensemble((models[0], models[0]), (0.5, 0.5)).predict([videos[0]] * 2)
    assert count == len(crops) - count == 8
    np.testing.assert_allclose(both[0].probabilities, alone[0].probabilities, rtol=1e-14)


def test_predict_command_averages(workdirs, models, videos, capsys):
    flags = [f"--workdir={workdirs[0]}", f"--workdir={workdirs[1]}", "--weights=2,1", "--json", "--top=6"]
    flags += ["--num_clips=1", "--batch_size=2", "--stride=9"]
    assert predict.main([*flags, str(videos[0]), str(videos[2])]) == 0
    short, long = map(json.loads, capsys.readouterr().out.splitlines())
    (one, _), (other, _) = (model.predict([videos[0]] * 2, views=SINGLE_VIEW) for model in models)
    expected = dict(zip(NAMES, (2 * one.probabilities + other.probabilities) / 3, strict=True))
    assert {each["action"]: each["probability"] for each in short["top"]} == pytest.approx(expected, rel=1e-5)
    assert len(long["windows"]) == 2
    assert (workdirs[0] / "timelines_with_timesformer/c.json").exists()
    assert not (workdirs[0] / "timelines").exists()


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (["runs/b"], "_with_b"),
        (["runs/b", "other/run"], "_with_b_other_run"),
        (["runs/a/part"], "_with_a_part"),
        (["runs"], "_with_runs"),
        ([f"runs/{i}{'x' * 30}" for i in range(9)], "_with_9_others_"),
    ],
)
def test_files_are_named_by_the_other_members(others, expected):
    found = ensemble.suffix(["runs/a", *others])
    assert found.startswith(expected)
    assert len(found) <= max(len(expected), 24)
    assert found != ensemble.suffix(["runs/a", *others[:-1], f"{others[-1]}y"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "weights is 1; give 2 numbers, one for each workdir, of at least 0 and not all 0"),
        ([2, 1, 1], "weights is 2,1,1; give 2 numbers"),
        ([2, -1], "weights is 2,-1; give 2 numbers"),
        ([0, 0], "weights is 0,0; give 2 numbers"),
        ([1, float("nan")], "weights is 1,nan; give 2 numbers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(workdirs, weights, message):
    for load in (manet_jax.load_ensemble, manet_jax.evaluate_ensemble):
        assert outcome(lambda load=load: load(workdirs, weights=weights))[1].startswith(message)


def test_workdirs_that_do_not_fit_are_refused(workdirs, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(workdirs[0])
    for load in (manet_jax.load_ensemble, manet_jax.evaluate_ensemble):
        message = f"workdir {link} is given twice: give it once, with a larger weight (--weights)"
        assert outcome(lambda load=load: load([workdirs[0], link]))[1] == message
        message = f"{tmp_path}/none/checkpoints/best holds no checkpoint: give the workdir of a training run"
        assert outcome(lambda load=load: load([workdirs[0], tmp_path / "none"]))[1].startswith(message)
        message = "an ensemble has two models or more, but there is one workdir: give the others, or no weights"
        assert outcome(lambda load=load: load(workdirs[:1]))[1] == message


def test_models_of_other_outputs_are_refused(data, workdirs, tmp_path):
    config, labels = make_config(data, "manet"), LabelSet(NAMES, NAMES, tuple(range(6)))
    other = save(tmp_path / "other", config, LABELS)
    message = f"the models in {workdirs[0]} and {other} have other classes: give models that were trained for the same"
    assert outcome(lambda: manet_jax.load_ensemble([workdirs[0], other]))[1].startswith(message)
    several = save(tmp_path / "several", config, labels, multilabel=True)
    message = f"the models in {workdirs[0]} and {several} predict one action a clip and several: give models of the"
    assert outcome(lambda: manet_jax.evaluate_ensemble([workdirs[0], several]))[1].startswith(message)
    moods = [
        save(tmp_path / "_".join(names), pro_config(data, "appearance"), labels, names)
        for names in (("joy", "fear"), ("joy", "anger"))
    ]
    message = f"the models in {moods[0]} and {moods[1]} have other emotions: give models that were trained for the same"
    assert outcome(lambda: manet_jax.evaluate_ensemble([workdirs[0], *moods]))[1].startswith(message)


def test_data_of_other_clips_are_refused(data, workdirs, evaluation, tmp_path):
    """Before a model is evaluated; other labels of the same clips afterwards."""
    other = write_folder(tmp_path / "data", per_split=(("train", 6), ("val", 5)), names=NAMES)
    elsewhere = save(tmp_path / "elsewhere", make_config(other, "manet"), evaluation.metadata.labels)
    error = outcome(lambda: manet_jax.evaluate_ensemble([workdirs[0], elsewhere]))[1]
    message = (
        "have other clips or labels: evaluate all models on the same data with --config FILE, --config.data.manual_dir"
    )
    assert error.startswith(f"split 'val' of {evaluation.dataset.location} and split 'val' of {other}")
    assert message in error
    assert not list(elsewhere.glob("evaluation_*"))
    first, second = evaluation.members
    predictions = dataclasses.replace(second.predictions, targets={"label": (np.arange(7) + 1) % 6})
    error = outcome(lambda: ensemble.average([first, dataclasses.replace(second, predictions=predictions)]))[1]
    assert message in error


def test_predict_command_refuses_weights_in_one_sentence(workdirs, videos, capsys):
    flags = ["--workdir", str(workdirs[0]), "--workdir", str(workdirs[1]), str(videos[0])]
    assert predict.main([*flags, "--weights", "2,x"]) == 2
    assert capsys.readouterr().err == "manet_jax: weights is 2,x; give numbers with commas between, such as 2,1\n"
    assert predict.main([*flags[:2], str(videos[0]), "--weights", "1"]) == 2
    assert "manet_jax: an ensemble has two models or more, but there is one workdir" in capsys.readouterr().err
