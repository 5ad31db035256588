import base64
import csv
import dataclasses
import html.parser
import re

import jax
import numpy as np
import pytest
from conftest import shrink, write_folder
from sklearn.metrics import f1_score
from test_emotion import pro_config, pro_folder  # noqa: F401
from test_predict import save, softmax

import manet_jax
from configs import ma52
from manet_jax import configuration, evaluate, input_pipeline, report
from manet_jax.inference import to_probabilities
from manet_jax.label_embeddings import load_label_vectors
from tfds_ma52.errors import UserError
from tfds_ma52.labels import Labels

THREE = Labels(("nodding", "waving", "bowing"), ("head", "hand"), (0, 1, 0))


class Page(html.parser.HTMLParser):
    """What a page shows: its images' content by name, its text, and all that it would fetch from elsewhere."""

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


def make_task(shown, predicted, probabilities=None, one_each=True):
    shown, predicted = (np.array(each, bool) for each in (shown, predicted))
    probabilities = predicted * 0.9 if probabilities is None else np.array(probabilities)
    rows, counts = np.arange(len(shown)), np.array([5, 2, 1])
    return report.Task("actions", THREE, rows, probabilities, shown, predicted, counts, one_each)


def one_hot(*labels):
    return np.eye(3, dtype=bool)[list(labels)]


def test_confusion_and_f1_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    shown, predicted = one_hot(*rng.integers(3, size=50)), one_hot(*rng.integers(3, size=50))
    task = make_task(shown, predicted)
    expected = f1_score(shown.argmax(1), predicted.argmax(1), average=None)
    np.testing.assert_allclose(task.f1(), expected, rtol=1e-12)
    assert task.confusion()[1, 2] == (shown[:, 1] & predicted[:, 2]).sum()


def test_pairs_are_of_what_was_missed_and_what_was_told_in_its_place():
    single = make_task(one_hot(0, 0, 0, 1, 2, 2), one_hot(1, 1, 0, 1, 0, 2))
    assert single.confused_pairs(5) == [(0, 1, 2), (2, 0, 1)]
    # The first clip shows 0 and 1 and is told 1 and 2: 0 was taken for 2. In the second nothing was told in its place.
    several = make_task([[1, 1, 0], [1, 0, 0]], [[0, 1, 1], [0, 0, 0]], one_each=False)
    assert several.confused_pairs(5) == [(0, 2, 1)]


def test_examples_are_the_surest_of_different_classes():
    scores = [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4]]
    task = make_task(one_hot(0, 0, 1, 0), one_hot(0, 0, 1, 2), scores)
    assert task.best_examples(task.predicted & task.shown, 3) == [(0, 0), (2, 1)]
    assert task.best_examples(task.predicted & ~task.shown, 3) == [(3, 2)]


def test_confidence_is_of_what_was_told():
    scores = [[0.9, 0.1, 0.0], [0.3, 0.3, 0.4]]
    confidence, right = make_task(one_hot(0, 0), one_hot(0, 2), scores).confidence()
    assert (confidence.tolist(), right.tolist()) == ([0.9, 0.4], [True, False])
    confidence, right = make_task(one_hot(0, 0), one_hot(0, 2), scores, one_each=False).confidence()
    assert confidence.tolist() == [0.9, 0.1, 0.0, 0.3, 0.3, 0.4]
    assert right.tolist() == [True, False, False] * 2


def test_intervals_are_those_of_the_binomial_distribution():
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=400)
    told = np.where(rng.random(400) < 0.7, label, (label + 1) % 3)
    predictions = evaluate.Predictions({"logits": np.eye(3, dtype=np.float32)[told]}, {"label": label})
    low, high = evaluate.bootstrap(predictions, THREE)["action_top1"]
    share = (told == label).mean()
    margin = 1.96 * np.sqrt(share * (1 - share) / 400)
    np.testing.assert_allclose((low, high), (share - margin, share + margin), atol=0.006)
    right = evaluate.Predictions({"logits": np.eye(3, dtype=np.float32)[label]}, {"label": label})
    assert evaluate.bootstrap(right, THREE, num_samples=20)["f1_mean"] == (1, 1)


def test_figures_of_clips_that_no_sample_has_are_no_numbers():
    predictions = evaluate.Predictions({"emotion": np.eye(3, dtype=np.float32)}, {"emotion": np.array([-1, -1, -1])})
    assert np.isnan(evaluate.bootstrap(predictions, THREE, num_samples=5)["emotion_accuracy"]).all()


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Of a drawn model of three classes in two groups, with its workdir."""
    root = write_folder(tmp_path_factory.mktemp("data"), per_split=(("train", 12), ("val", 9)), names=THREE.names)
    (root / "label_name.txt").write_text("0\tnodding\thead\n1\twaving\thand\n2\tbowing\thead\n")
    config = shrink(ma52.get_config(), root)
    config.data.builder_config = "original"
    labels = input_pipeline.open_dataset(**configuration.data_arguments(config)).labels
    workdir = save(
        tmp_path_factory.mktemp("runs") / "<run> & co", config, labels, vectors=load_label_vectors("", labels.names)
    )
    return evaluate.evaluate_checkpoint(None, workdir, "best")


def test_one_file_holds_everything(evaluation):
    path = report.write(evaluation)
    assert path == evaluation.workdir / "report_val_best" / "report.html"
    page = Page(path)
    assert not page.fetched
    assert not re.search(r"https?://|url\(", re.sub(r"base64,[^\"]*", "", path.read_text()))
    pictures = {file.stem: file.read_bytes() for file in path.parent.glob("*.png")}
    assert page.images == pictures
    pairs = {name for name in pictures if name.startswith("confused_actions_")}
    assert pairs
    named = {"confusion_groups", "confusion_actions", "f1_actions", "calibration_actions", "embedding", "activation"}
    assert set(pictures) - pairs == named
    text = " ".join(page.texts)
    assert "Evaluation of <run> & co" in text
    assert "The best checkpoint (step 1)" in text
    assert "The maps have 1 x 1 places a frame" in text
    assert '"learning_rate": 0.00125' in text
    table = {row[0]: row[1:] for row in page.tables if len(row) == 3}
    intervals = evaluate.bootstrap(evaluation.predictions, evaluation.labels)
    for name in ("action_top1", "body_f1_macro", "f1_mean"):
        low, high = (f"{100 * bound:.2f}" for bound in intervals[name])
        assert table[name.replace("_", " ")] == [f"{100 * evaluation.scores[name]:.2f}", f"{low} – {high}"]  # noqa: RUF001
    versions = {row[0]: row[1] for row in page.tables if len(row) == 2}
    assert versions["jax (this report)"] == jax.__version__


def test_the_table_of_predictions_holds_all_probabilities(evaluation):
    with (report.write(evaluation).parent / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    probabilities = softmax(evaluation.predictions.outputs["logits"])
    assert [row["video_id"] for row in rows] == evaluation.video_ids
    names = evaluation.labels.names
    source = evaluation.dataset.source("val")
    for i, row in enumerate(rows):
        assert row["actions"] == names[source[i]["label"]]
        assert row["predicted_actions"] == names[probabilities[i].argmax()]
        np.testing.assert_allclose([float(row[f"p({name})"]) for name in names], probabilities[i], rtol=1e-5)


def test_maps_average_to_logits(evaluation):
    model = manet_jax.load_model(evaluation.workdir)
    video = np.stack([report.clip_views(evaluation, model, row)["video"] for row in range(3)])
    maps = model.class_maps(video)
    assert maps.shape == (3, 4, 1, 1, 3)
    np.testing.assert_allclose(maps.mean((1, 2, 3)), evaluation.predictions.outputs["logits"][:3], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["micro_actions", "appearance", "fused"])
def test_several_labels_and_emotions(form, pro_folder, tmp_path):  # noqa: F811
    config = pro_config(pro_folder, form)
    dataset = input_pipeline.open_dataset(**configuration.data_arguments(config))
    emotions = dataset.emotions if form != "micro_actions" else ()
    workdir = save(tmp_path / "run", config, dataset.labels, emotions, multilabel=True)
    evaluation = evaluate.evaluate_checkpoint(None, workdir, "best")
    path = report.write(evaluation)
    page = Page(path)
    pictures = set(page.images)
    assert ("f1_actions" in pictures) == (form != "appearance")
    assert ("confusion_emotions" in pictures) == (form != "micro_actions")
    assert {"calibration_emotions" if emotions else "calibration_actions", "activation"} <= pictures
    assert "confusion_actions" not in pictures
    assert ("map" in {row[0] for row in page.tables}) == (form != "appearance")
    with (path.parent / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if form != "appearance":
        assert rows[0]["actions"] == "nodding"
        assert rows[3]["actions"] == "nodding;waving"
    if emotions:
        assert [row["emotions"] for row in rows] == ["joy", "fear", ""] * 2
        said = to_probabilities(evaluation.predictions.outputs["emotion"], multilabel=False)
        np.testing.assert_allclose([float(row["p(joy)"]) for row in rows], said[:, 1], rtol=1e-5)
        (task,) = (task for task in report.tasks(evaluation) if task.name == "emotions")
        assert task.rows.tolist() == [0, 1, 3, 4]
    model = manet_jax.load_model(workdir)
    views = report.clip_views(evaluation, model, 1)
    maps = model.class_maps(*(views[name][None] if name in views else None for name in ("video", "appearance")))
    said = evaluation.predictions.outputs["emotion" if form == "appearance" else "logits"][1]
    np.testing.assert_allclose(maps.mean((0, 1, 2, 3)), said, rtol=1e-4, atol=1e-6)


def test_label_vectors_that_are_gone_are_said_to_be(evaluation):
    config = dict(evaluation.metadata["config"], label_vectors="gone.npy")
    gone = dataclasses.replace(evaluation, metadata=dict(evaluation.metadata, config=config))
    vectors, remark = report._label_vectors(gone)
    assert vectors is None
    assert remark.startswith(" The labels' vectors are missing: label_vectors: there is no file gone.npy")


def test_a_folder_that_cannot_be_written_is_one_sentence(evaluation):
    (evaluation.workdir / "report_test_best").write_text("")
    with pytest.raises(UserError, match=r"the report cannot be written to .*report_test_best \(File exists\)"):
        report.write(dataclasses.replace(evaluation, split="test"))
