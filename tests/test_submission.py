import csv
import dataclasses
import io
import zipfile

import numpy as np
import pytest
from helpers import shrink, write_folder
from saved_models import save

from configs import ma52
from manet_jax import configuration, evaluate
from manet_jax.report import submission
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52

NAMES = MA52.names


def read(path, header):
    """A submission as the challenge reads it: one table in a zip without folders, its rows by their first column."""
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["prediction.csv"]
        text = file.read("prediction.csv").decode("ascii")
    assert "\r" not in text
    first, *rows = csv.reader(io.StringIO(text))
    assert first == header.split(",")
    table = {row[0]: [int(cell) for cell in row[1:]] for row in rows}
    assert len(table) == len(rows)
    return table


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Of a drawn model of MA-52's classes, on a test split whose labels are hidden."""
    root = tmp_path_factory.mktemp("data")
    write_folder(root, per_split=(("train", 4), ("val", 4), ("test", 7)), names=NAMES)
    config = shrink(ma52.get_config(), root)
    config.data.builder_config = "original"
    config.eval.split = "test"
    labels = configuration.parse(config).data.open().labels
    assert labels == MA52
    workdir = save(tmp_path_factory.mktemp("run"), config, labels)
    return evaluate.evaluate_checkpoint(workdir, need_labels=False)


def listed(evaluation):
    lines = (evaluation.dataset.builder.data_path.parents[3] / "test_list_videos.txt").read_text().splitlines()
    return [line.split()[0] for line in lines]


def test_submission_ranks_five_actions_with_their_groups(evaluation, tmp_path):
    submission.write(evaluation, tmp_path / "out.zip")
    header = "vid,action_pred_1,action_pred_2,action_pred_3,action_pred_4,action_pred_5,body_pred_1,body_pred_2,"
    table = read(tmp_path / "out.zip", header + "body_pred_3,body_pred_4,body_pred_5")
    assert list(table) == listed(evaluation)
    assert len(table) == 7
    for name, logits in zip(evaluation.video_ids, evaluation.predictions.outputs["logits"], strict=True):
        actions, groups = table[name][:5], table[name][5:]
        assert len(set(actions)) == 5
        assert [logits[i] for i in actions] == sorted(logits, reverse=True)[:5]
        assert groups == [MA52.groups[i] for i in actions]
    assert [path.name for path in tmp_path.iterdir()] == ["out.zip"]


def test_submission_in_the_form_of_2024(evaluation, tmp_path):
    submission.write(evaluation, tmp_path / "out.zip", "2024")
    table = read(tmp_path / "out.zip", "id,pred_label_1,pred_label_2")
    assert list(table) == listed(evaluation)
    for name, logits in zip(evaluation.video_ids, evaluation.predictions.outputs["logits"], strict=True):
        assert table[name] == [MA52.groups[logits.argmax()], logits.argmax()]


def test_hidden_labels_give_no_metrics(evaluation):
    assert evaluation.metrics == {"step": 1}
    assert evaluation.hidden
    assert not list(evaluation.workdir.glob("evaluation_*"))
    with pytest.raises(UserError, match=r"hidden, so it cannot be evaluated: .* or --mode=evaluate --submission=FILE"):
        evaluate.evaluate_checkpoint(evaluation.workdir)


def test_check_reports_what_does_not_fit_the_list():
    actions = np.array([[0, 1], [2, 2], [0, 1], [3, 4]])
    with pytest.raises(UserError) as caught:
        submission.check(["a.mp4", "b.mp4", "a.mp4", "x.mp4"], actions, ["a.mp4", "b.mp4", "c.mp4"])
    assert str(caught.value).splitlines() == [
        "the submission is not written: 4 problems",
        "  c.mp4 is in the list, but has no prediction",
        "  x.mp4 has a prediction, but is not in the list",
        "  a.mp4 has 2 predictions",
        "  b.mp4 has an action twice among [2, 2]",
    ]
    submission.check(["a.mp4", "b.mp4"], actions[[0, 3]], ["b.mp4", "a.mp4"])


def test_submission_misses_a_clip_left_out_of_the_data(tmp_path):
    root = write_folder(tmp_path / "data", per_split=(("train", 4), ("val", 4)), names=NAMES)
    damaged = sorted((root / "videos_val").iterdir())[1]
    damaged.write_bytes(b"no video")
    config = shrink(ma52.get_config(), root)
    config.data.builder_config, config.data.allow_damaged = "original", 1
    workdir = save(tmp_path / "run", config, MA52)
    evaluation = evaluate.evaluate_checkpoint(workdir)
    (tmp_path / "out.zip").write_text("earlier")
    with pytest.raises(UserError, match=rf"not written: 1 problem\n  {damaged.name} is in the list, but has no"):
        submission.write(evaluation, tmp_path / "out.zip")
    assert (tmp_path / "out.zip").read_text() == "earlier"


def test_write_reports_what_cannot_be_submitted(evaluation, tmp_path):
    with pytest.raises(UserError, match=r"--submission: .*/none/out.zip cannot be written \(No such file"):
        submission.write(evaluation, tmp_path / "none" / "out.zip")
    few = evaluate.Predictions({"logits": evaluation.predictions.outputs["logits"][:, :4]}, {})
    with pytest.raises(UserError, match="--submission ranks 5 actions, but the data have 4"):
        submission.write(dataclasses.replace(evaluation, predictions=few), tmp_path / "out.zip")
    none = evaluate.Predictions({"emotion": np.zeros((7, 3))}, {})
    with pytest.raises(UserError, match=r"--submission is for one action a clip; the model in .* is for others"):
        submission.write(dataclasses.replace(evaluation, predictions=none), tmp_path / "out.zip")
    assert not list(tmp_path.iterdir())
