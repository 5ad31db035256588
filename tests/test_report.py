import base64
import csv
import dataclasses
import html.parser
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest
from helpers import shrink, write_folder
from saved_models import save, softmax
from sklearn.metrics import f1_score
from test_emotion import pro_config, pro_folder  # noqa: F401

import manet_jax
from configs import ma52
from manet_jax import configuration, evaluate
from manet_jax.label_vectors import digest, load_label_vectors
from manet_jax.report import examples, page
from manet_jax.report.results import TaskResult, task_results
from manet_jax.tasks import Emotion, MultiLabel, SingleLabel
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet

THREE = LabelSet(("nodding", "waving", "bowing"), ("head", "hand"), (0, 1, 0))


class Page(html.parser.HTMLParser):
    """The content of a page: images by name, text, tables, and all that it would fetch from elsewhere."""

    def __init__(self, path):
        super().__init__()
        self.images, self.texts, self.fetched, self.tables = {}, [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img" and attrs["src"].startswith("data:image/png;base64,"):
            self.images[attrs["alt"]] = base64.b64decode(attrs["src"].partition(",")[2])
        elif tag in ("script", "link", "iframe", "object", "a") or "src" in attrs:
            self.fetched.append((tag, attrs))
        if tag == "tr":
            self.tables.append([])

    def handle_data(self, data):
        self.texts.append(data)
        if self.lasttag in ("td", "th") and data.strip():
            self.tables[-1].append(data)


def make_result(target, predicted, probabilities=None, exclusive=True):
    target, predicted = (np.array(each, bool) for each in (target, predicted))
    probabilities = predicted * 0.9 if probabilities is None else np.array(probabilities)
    task = SingleLabel(THREE) if exclusive else MultiLabel(THREE, threshold=0.5)
    return TaskResult(task, np.arange(len(target)), probabilities, target, predicted, np.array([5, 2, 1]))


def one_hot(*labels):
    return np.eye(3, dtype=bool)[list(labels)]


def test_confusion_and_f1_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    target, predicted = one_hot(*rng.integers(3, size=50)), one_hot(*rng.integers(3, size=50))
    result = make_result(target, predicted)
    expected = f1_score(target.argmax(1), predicted.argmax(1), average=None)
    np.testing.assert_allclose(result.f1(), expected, rtol=1e-12)
    assert result.confusion()[1, 2] == (target[:, 1] & predicted[:, 2]).sum()


def test_confused_pairs_are_missed_and_wrongly_predicted():
    single = make_result(one_hot(0, 0, 0, 1, 2, 2), one_hot(1, 1, 0, 1, 0, 2))
    assert single.confused_pairs(5) == [(0, 1, 2), (2, 0, 1)]
    # Of the first clip, 0 and 1, 1 and 2 are predicted: 0 was predicted as 2. For the second nothing is predicted.
    several = make_result([[1, 1, 0], [1, 0, 0]], [[0, 1, 1], [0, 0, 0]], exclusive=False)
    assert several.confused_pairs(5) == [(0, 2, 1)]


def test_best_examples_are_confident_and_of_different_classes():
    scores = [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4]]
    result = make_result(one_hot(0, 0, 1, 0), one_hot(0, 0, 1, 2), scores)
    assert result.best_examples(result.predicted & result.target, 3) == [(0, 0), (2, 1)]
    assert result.best_examples(result.predicted & ~result.target, 3) == [(3, 2)]


def test_confidence_is_that_of_the_decisions():
    scores = [[0.9, 0.1, 0.0], [0.3, 0.3, 0.4]]
    confidence, correct = make_result(one_hot(0, 0), one_hot(0, 2), scores).confidence()
    assert (confidence.tolist(), correct.tolist()) == ([0.9, 0.4], [True, False])
    confidence, correct = make_result(one_hot(0, 0), one_hot(0, 2), scores, exclusive=False).confidence()
    assert confidence.tolist() == [0.9, 0.1, 0.0, 0.3, 0.3, 0.4]
    assert correct.tolist() == [True, False, False] * 2


def test_bootstrap_gives_intervals_of_the_binomial_distribution():
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=400)
    predicted = np.where(rng.random(400) < 0.7, label, (label + 1) % 3)
    predictions = evaluate.Predictions({"logits": np.eye(3, dtype=np.float32)[predicted]}, {"label": label})
    low, high = evaluate.bootstrap(predictions, [SingleLabel(THREE)])["action_top1"]
    share = (predicted == label).mean()
    margin = 1.96 * np.sqrt(share * (1 - share) / 400)
    np.testing.assert_allclose((low, high), (share - margin, share + margin), atol=0.006)
    perfect = evaluate.Predictions({"logits": np.eye(3, dtype=np.float32)[label]}, {"label": label})
    assert evaluate.bootstrap(perfect, [SingleLabel(THREE)], num_samples=20)["f1_mean"] == (1, 1)


def test_bootstrap_without_known_clips_is_nan():
    predictions = evaluate.Predictions({"emotion": np.eye(3, dtype=np.float32)}, {"emotion": np.array([-1, -1, -1])})
    assert np.isnan(evaluate.bootstrap(predictions, [Emotion(THREE)], num_samples=5)["emotion_accuracy"]).all()


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Of a drawn model of three classes in two groups, with its workdir."""
    root = write_folder(tmp_path_factory.mktemp("data"), per_split=(("train", 12), ("val", 9)), names=THREE.names)
    # Of a group's name no font has the last character.
    (root / "label_name.txt").write_text("0\tnodding\thead\n1\twaving\thand\U00050000\n2\tbowing\thead\n")
    config = shrink(ma52.get_config(), root)
    config.data.builder_config = "original"
    labels = configuration.parse(config).data.open().labels
    workdir = save(
        tmp_path_factory.mktemp("runs") / "<run> & co", config, labels, vectors=load_label_vectors("", labels.names)
    )
    return evaluate.evaluate_checkpoint(workdir)


@pytest.fixture(scope="module")
def report(evaluation):
    return page.write(evaluation)


def test_report_is_one_file_that_holds_everything(evaluation, report):
    assert report == evaluation.workdir / "report_val_best" / "report.html"
    html_page = Page(report)
    assert not html_page.fetched
    assert not re.search(r"https?://|url\(", re.sub(r"base64,[^\"]*", "", report.read_text()))
    pictures = {file.stem: file.read_bytes() for file in report.parent.glob("*.png")}
    assert html_page.images == pictures
    pairs = {name for name in pictures if name.startswith("confused_actions_")}
    assert pairs
    others = {"confusion_groups", "confusion_actions", "f1_actions", "calibration_actions", "embedding", "activation"}
    assert set(pictures) - pairs == others
    text = " ".join(html_page.texts)
    assert "Evaluation of <run> & co" in text
    assert "The best checkpoint (step 1)" in text
    assert "The maps have 4 x 4 locations a frame" in text
    assert "so the pictures show ids: group 1 is hand\U00050000." in text
    assert '"learning_rate": 0.00125' in text
    assert f"python -m manet_jax.predict --workdir {shlex.quote(str(evaluation.workdir))} --html pages VIDEO" in text
    table = {row[0]: row[1:] for row in html_page.tables if len(row) == 3}
    intervals = evaluate.bootstrap(evaluation.predictions, evaluation.tasks)
    for name in ("action_top1", "body_f1_macro", "f1_mean"):
        low, high = (f"{100 * bound:.2f}" for bound in intervals[name])
        assert table[name.replace("_", " ")] == [f"{100 * evaluation.metrics[name]:.2f}", f"{low} – {high}"]  # noqa: RUF001
    versions = {row[0]: row[1] for row in html_page.tables if len(row) == 2}
    assert versions["jax (this report)"] == jax.__version__


def test_in_videos_names_the_latest_checkpoint():
    text = page.in_videos([pathlib.Path("runs/first")], "latest")
    assert "predict --workdir runs/first --checkpoint latest --html pages VIDEO" in text


def test_predictions_csv_holds_all_probabilities(evaluation, report):
    with (report.parent / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    probabilities = softmax(evaluation.predictions.outputs["logits"])
    assert [row["video_id"] for row in rows] == evaluation.video_ids
    names = evaluation.metadata.labels.names
    source = evaluation.dataset.source("val")
    for i, row in enumerate(rows):
        assert row["actions"] == names[source[i]["label"]]
        assert row["predicted_actions"] == names[probabilities[i].argmax()]
        np.testing.assert_allclose([float(row[f"p({name})"]) for name in names], probabilities[i], rtol=1e-5)


def test_class_maps_average_to_logits(evaluation):
    model = manet_jax.load_model(evaluation.workdir)
    video = np.stack([examples.read_clip(evaluation, model, row)["video"] for row in range(3)])
    maps = model.class_maps({"video": video})
    assert maps.shape == (3, 4, 4, 4, 3)
    np.testing.assert_allclose(maps.mean((1, 2, 3)), evaluation.predictions.outputs["logits"][:3], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["micro_actions", "appearance", "fused"])
def test_report_of_several_labels_and_emotions(form, pro_folder, tmp_path):  # noqa: F811
    config = pro_config(pro_folder, form)
    dataset = configuration.parse(config).data.open()
    emotions = dataset.emotions if form != "micro_actions" else ()
    workdir = save(tmp_path / "run", config, dataset.labels, emotions, multilabel=True)
    evaluation = evaluate.evaluate_checkpoint(workdir)
    path = page.write(evaluation)
    html_page = Page(path)
    pictures = set(html_page.images)
    assert ("f1_actions" in pictures) == (form != "appearance")
    assert ("confusion_emotions" in pictures) == (form != "micro_actions")
    assert {"calibration_emotions" if emotions else "calibration_actions", "activation"} <= pictures
    assert "confusion_actions" not in pictures
    assert ("map" in {row[0] for row in html_page.tables}) == (form != "appearance")
    with (path.parent / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if form != "appearance":
        assert rows[0]["actions"] == "nodding"
        assert rows[3]["actions"] == "nodding;waving"
    if emotions:
        assert [row["emotions"] for row in rows] == ["joy", "fear", ""] * 2
        probabilities = softmax(evaluation.predictions.outputs["emotion"])
        np.testing.assert_allclose([float(row["p(joy)"]) for row in rows], probabilities[:, 1], rtol=1e-5)
        (result,) = (each for each in task_results(evaluation) if each.task.name == "emotions")
        assert result.rows.tolist() == [0, 1, 3, 4]
    model = manet_jax.load_model(workdir)
    clip = examples.read_clip(evaluation, model, 1)
    maps = model.class_maps({name: frames[None] for name, frames in clip.items()})
    logits = evaluation.predictions.outputs["emotion" if form == "appearance" else "logits"][1]
    np.testing.assert_allclose(maps.mean((0, 1, 2, 3)), logits, rtol=1e-4, atol=1e-6)


def test_read_label_vectors_reports_a_missing_file(evaluation):
    config = dict(evaluation.metadata.config, label_vectors="gone.npy")
    gone = dataclasses.replace(evaluation, metadata=dataclasses.replace(evaluation.metadata, config=config))
    vectors, remark = page.read_label_vectors(gone, 50)
    assert vectors is None
    assert remark.startswith(" The labels' vectors are missing: label_vectors: there is no file gone.npy")


def test_read_label_vectors_refuses_others_than_those_of_the_run(evaluation):
    vectors, remark = page.read_label_vectors(evaluation, 50)
    assert vectors is not None
    assert remark == ""
    for recorded, is_same in (("0123", False), (digest(vectors), True), (None, True)):
        metadata = dataclasses.replace(evaluation.metadata, data={"label vectors": recorded})
        found, remark = page.read_label_vectors(dataclasses.replace(evaluation, metadata=metadata), 50)
        assert (found is not None) == is_same
        assert remark == ("" if is_same else " The labels' vectors are missing: the model was trained with others.")


def test_report_folder_that_cannot_be_written_is_one_sentence(evaluation):
    (evaluation.workdir / "report_test_best").write_text("")
    with pytest.raises(UserError, match=r"the report cannot be written to .*report_test_best \(File exists\)"):
        page.write(dataclasses.replace(evaluation, split="test"))
