"""Losses for rare classes and body groups, from their values by hand to runs of the command."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import sklearn.metrics
from checkpoints import random_variables, read_checkpoint, save_checkpoint, tiny_manet
from flax import nnx
from helpers import ROOT, shrink, write_clip, write_folder

import manet_jax
from configs import ablation, ma52, ma52_pro, tricks
from manet_jax import configuration, evaluate, export, long_tail, losses, parallel, tasks, train
from manet_jax.long_tail import BodyGroups, ClassBalance, LongTail
from manet_jax.mixing import NO_MIXING, Mixing
from manet_jax.models import NetworkOptions
from manet_jax.models.layers import Heads
from manet_jax.models.variables import flatten
from manet_jax.pretrained.convert import convert, to_pytorch
from manet_jax.run_metadata import RunMetadata
from manet_jax.studies import small_runs
from manet_jax.studies.small_runs import command, variables
from manet_jax.studies.small_runs import losses as logged_losses
from manet_jax.train_step import TrainState, create_step
from manet_jax.warm_start import Source, warm_start
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52, LabelSet

LABELS = LabelSet(("a", "b", "c", "d"), ("one", "two"), (0, 1, 0, 0))
COUNTS = np.array([12, 4, 3, 1])
LOGITS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABEL = np.array([0, 1, 2, 3, 0, 2])


def test_weights_by_effective_number_by_hand():
    # (1 - 1/2) / (1 - 2^-N) is 1, 2/3 and 8/15 for 1, 2 and 4 clips, in all 11/5; no clips count as one.
    weights = long_tail.class_weights(np.array([1, 2, 4]), 0.5)
    np.testing.assert_allclose(weights, np.array([1, 2 / 3, 8 / 15]) * 3 / (11 / 5))
    np.testing.assert_allclose(long_tail.class_weights(np.array([0, 1]), 0.9), [1, 1])


def cross_entropy(balance=None, groups=None, smoothing=0.0):
    tail = LongTail(balance or ClassBalance(), groups or BodyGroups(), COUNTS)
    return tail.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABEL), smoothing, LABELS.groups)


@pytest.mark.parametrize(("tau", "exponent"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (1.0, 0.0)])
def test_logit_adjustment_multiplies_odds_by_the_shares_of_the_drawn_clips(tau, exponent):
    drawn = COUNTS**exponent / (COUNTS**exponent).sum()
    odds = np.exp(LOGITS.astype(np.float64)) * drawn**tau
    expected = -np.log(odds[np.arange(6), LABEL] / odds.sum(1))
    balance = ClassBalance(logit_adjustment=tau, sampling=exponent)
    np.testing.assert_allclose(cross_entropy(balance), expected, rtol=1e-5)


def test_focal_loss_by_hand():
    logits, target = jnp.log(jnp.array([[0.5, 0.25, 0.25]] * 2)), jnp.eye(3)[:2]
    np.testing.assert_allclose(losses.focal(logits, target, 2.0), [np.log(2) / 4, 9 / 16 * np.log(4)], rtol=1e-6)
    plain = losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABEL))
    np.testing.assert_allclose(losses.focal(jnp.asarray(LOGITS), jnp.eye(4)[LABEL]), plain, rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(ClassBalance(focal=1e-9)), plain, rtol=1e-6)
    certain = jax.grad(lambda x: losses.focal(x, jnp.eye(3)[:1], 0.5).sum())(jnp.array([[90.0, 0.0, 0.0]]))
    assert jnp.isfinite(certain).all()


def test_weights_and_smoothing_multiply_the_target():
    expected = -scipy.special.log_softmax(LOGITS.astype(np.float64), axis=1)
    own = expected[np.arange(6), LABEL]
    weights = long_tail.class_weights(COUNTS, 0.9)[LABEL]
    np.testing.assert_allclose(cross_entropy(ClassBalance(effective_number=0.9)), weights * own, rtol=1e-5)
    group = np.where(LABEL == 1, expected[:, 1], expected[:, [0, 2, 3]].mean(1))
    smoothed = 0.6 * own + 0.3 * group + 0.1 * expected.mean(1)
    groups = BodyGroups(label_smoothing=0.3)
    np.testing.assert_allclose(cross_entropy(groups=groups, smoothing=0.1), smoothed, rtol=1e-5)
    both = cross_entropy(ClassBalance(effective_number=0.9), groups, 0.1)
    np.testing.assert_allclose(both, weights * smoothed, rtol=1e-5)


def test_targets_smoothed_by_group_by_hand():
    targets = long_tail.smoothed_targets((0, 0, 1), over_all=0.3, over_group=0.2)
    np.testing.assert_allclose(targets, [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(long_tail.smoothed_targets(MA52.groups, 0.1, 0.2).sum(1), 1)


def test_soft_macro_f1_of_decisions_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    target, predicted = rng.integers(0, 5, 30), rng.integers(2, 7, 30)  # of 8 classes, of which some never occur
    hot = [jnp.eye(8)[each] for each in (predicted, target)]
    expected = sklearn.metrics.f1_score(target, predicted, average="macro")
    assert losses.soft_macro_f1(*hot) == pytest.approx(expected, rel=1e-6)
    several = [(rng.random((9, 4)) < 0.4).astype(np.float32) for _ in range(2)]
    expected = sklearn.metrics.f1_score(several[1], several[0], average="macro")
    assert losses.soft_macro_f1(*map(jnp.asarray, several)) == pytest.approx(expected, rel=1e-6)
    # Probabilities by hand: 2 * 0.5 / (0.75 + 1) and 2 * 0.75 / (1.25 + 1).
    soft = losses.soft_macro_f1(jnp.array([[0.5, 0.5], [0.25, 0.75]]), jnp.eye(2))
    assert soft == pytest.approx((4 / 7 + 2 / 3) / 2, rel=1e-6)


class Toy(nnx.Module):
    """The heads of a network over the mean colours of frames."""

    def __init__(self, *, rngs):
        self.heads = Heads(3, NetworkOptions(num_classes=4, num_groups=2, dropout=0.0), rngs=rngs)

    def __call__(self, inputs, keys=None):
        return self.heads(jnp.asarray(inputs["video"], jnp.float32).mean((2, 3)) / 256, keys)


def toy_batch():
    rng = np.random.default_rng(2)
    several = (rng.random((8, 4)) < 0.4).astype(np.float32)
    video = rng.integers(0, 256, (8, 2, 4, 4, 3)).astype(np.uint8)
    return {"video": video, "label": np.array([0, 1, 2, 3, 0, 2, 0, 1], np.int32), "labels": several}


def toy():
    model = Toy(rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), nnx.to_pure_dict(state))
    nnx.update(model, nnx.restore_int_paths(params))
    return model, graphdef, params


TAIL = LongTail(
    ClassBalance(sampling=0.5, effective_number=0.9, logit_adjustment=0.7, focal=2.0, soft_f1=0.3),
    BodyGroups(head=0.5, consistency=0.25, label_smoothing=0.2),
    COUNTS,
)
OF_SEVERAL = LongTail(ClassBalance(soft_f1=0.3), BodyGroups(head=0.5, consistency=0.25))
TASKS = {
    "one": tasks.SingleLabel(LABELS, label_smoothing=0.1, long_tail=TAIL),
    "several": tasks.MultiLabel(LABELS, long_tail=OF_SEVERAL),
}


@functools.cache
def run_toy(task, num_devices=1, mixing=NO_MIXING):
    """The metrics of two steps and the last weights."""
    _, graphdef, params = toy()
    optimizer, mesh = optax.sgd(0.5), parallel.make_mesh(num_devices)
    state = TrainState(jnp.int32(0), params, {}, optimizer.init(params))
    state = parallel.replicate(state, mesh)
    step = create_step(graphdef, optimizer, [TASKS[task]], mesh, seed=0, mixing=mixing)
    history = []
    for _ in range(2):
        state, values = step(state, parallel.shard_batch(toy_batch(), mesh))
        history.append({name: float(value) for name, value in values.items()})
    return history, jax.device_get(state.params)


@pytest.mark.parametrize(("task", "mixing"), [("one", Mixing(mixup=0.8)), ("several", NO_MIXING)], ids=TASKS)
def test_training_is_the_same_on_1_and_8_devices(task, mixing):
    (one, of_one), (many, of_many) = (run_toy(task, num_devices, mixing) for num_devices in (1, 8))
    for left, right in zip(one, many, strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), of_one, of_many)
    assert one[0]["loss"] != one[1]["loss"]


def f1_by_hand(probabilities, target):
    return (2 * (probabilities * target).sum(0) / (probabilities + target).sum(0)).mean()


def test_losses_of_one_label_by_hand():
    values = run_toy("one")[0][0]
    outputs, batch = toy()[0](toy_batch()), toy_batch()
    logits, label = np.asarray(outputs.logits, np.float64), batch["label"]
    p, hot, group = scipy.special.softmax(logits, 1), np.eye(4)[label], (label == 1).astype(int)
    soft_f1 = 1 - f1_by_hand(p, hot)
    consistency = -np.log(np.stack([p[:, [0, 2, 3]].sum(1), p[:, 1]], 1)[np.arange(8), group]).mean()
    head = -scipy.special.log_softmax(np.asarray(outputs.groups, np.float64), 1)[np.arange(8), group].mean()
    drawn = np.sqrt(COUNTS) / np.sqrt(COUNTS).sum()
    adjusted = scipy.special.softmax(logits + 0.7 * np.log(drawn), 1)
    of_group = np.where(hot[:, [1]] > 0, [0, 1, 0, 0], [1 / 3, 0, 1 / 3, 1 / 3])
    target = 0.7 * hot + 0.1 / 4 + 0.2 * of_group
    target *= long_tail.class_weights(COUNTS, 0.9)[label, None]
    focal = -(target * (1 - adjusted) ** 2 * np.log(adjusted)).sum(1).mean()
    assert values["cross_entropy"] == pytest.approx(focal, rel=1e-4)
    assert values["soft_f1_loss"] == pytest.approx(soft_f1, rel=1e-4)
    assert values["group_cross_entropy"] == pytest.approx(head, rel=1e-4)
    assert values["group_consistency"] == pytest.approx(consistency, rel=1e-4)
    assert values["loss"] == pytest.approx(focal + 0.3 * soft_f1 + 0.5 * head + 0.25 * consistency, rel=1e-4)


def test_losses_of_several_labels_by_hand():
    values = run_toy("several")[0][0]
    outputs, labels = toy()[0](toy_batch()), toy_batch()["labels"]
    logits = np.asarray(outputs.logits, np.float64)
    groups = np.stack([labels[:, [0, 2, 3]].max(1), labels[:, 1]], 1)
    assert 0 < groups.sum() < groups.size

    def binary(p, target):
        return -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum(1).mean()

    p = scipy.special.expit(logits)
    soft_f1 = 1 - f1_by_hand(p, labels)
    head = binary(scipy.special.expit(np.asarray(outputs.groups, np.float64)), groups)
    consistency = binary(np.stack([p[:, [0, 2, 3]].max(1), p[:, 1]], 1), groups)
    assert values["soft_f1_loss"] == pytest.approx(soft_f1, rel=1e-4)
    assert values["group_cross_entropy"] == pytest.approx(head, rel=1e-4)
    assert values["group_consistency"] == pytest.approx(consistency, rel=1e-4)
    total = binary(p, labels) + 0.3 * soft_f1 + 0.5 * head + 0.25 * consistency
    assert values["loss"] == pytest.approx(total, rel=1e-4)


def test_weights_start_the_head_of_body_groups_only_where_it_is_of_the_same_groups(tmp_path):
    theirs = flatten(save_checkpoint(tmp_path / "with", tiny_manet(num_groups=7)))
    save_checkpoint(tmp_path / "without", tiny_manet())
    ours = random_variables(tiny_manet(num_groups=7), seed=1)
    result, origin = warm_start(ours, Source("init_from", str(tmp_path / "with")), MA52)
    assert origin.fresh == origin.unused == []
    path = "params.heads.body_groups.linear.kernel"
    np.testing.assert_array_equal(flatten(result)[path], theirs[path])
    _, origin = warm_start(ours, Source("init_from", str(tmp_path / "without")), MA52)
    assert (origin.fresh, origin.unused) == (["heads.body_groups.linear"], [])
    others = dataclasses.replace(MA52, groups=MA52.groups[::-1])
    _, origin = warm_start(ours, Source("init_from", str(tmp_path / "with")), others)
    assert origin.fresh == origin.unused == ["heads.body_groups.linear"]
    _, origin = warm_start(random_variables(tiny_manet()), Source("init_from", str(tmp_path / "with")), MA52)
    assert (origin.fresh, origin.unused) == ([], ["heads.body_groups.linear"])


def test_pytorchs_files_leave_the_head_of_body_groups_out(tmp_path, caplog):
    variables = flatten(save_checkpoint(tmp_path / "run", tiny_manet(num_groups=7)))
    to_pytorch(tmp_path / "run", tmp_path / "m.safetensors")
    assert "the head of body groups is left out, for which PyTorch's files have no place" in caplog.text
    convert(tmp_path / "m.safetensors", tmp_path / "back")
    back, metadata = read_checkpoint(tmp_path / "back")
    assert variables.keys() - back.keys() == {f"params.heads.body_groups.linear.{name}" for name in ("kernel", "bias")}
    assert all((back[path] == variables[path]).all() for path in back)
    assert metadata.model == tiny_manet()


def grouped(root):
    """A data set of 12 training and 5 validation clips of three classes in two groups."""
    folder = write_folder(root)
    (folder / "label_name.txt").write_text("0\tnodding\thead\n1\twaving\thand\n2\ttiptoe\thand\n")
    return folder


@pytest.fixture(scope="module")
def data(shared):
    return shared("grouped", grouped)


FIELDS = {
    "class_balance.sampling": 0.5,
    "class_balance.effective_number": 0.9,
    "class_balance.logit_adjustment": 1.0,
    "class_balance.focal": 2.0,
    "class_balance.soft_f1": 1.0,
    "body_groups.head": 1.0,
    "body_groups.consistency": 1.0,
    "body_groups.label_smoothing": 0.1,
    "label_smoothing": 0.1,
    "data.train_splits": ("train", "val"),
    "num_epochs": 4.0,
    "eval.every_epochs": 2.0,
    "checkpoint_every_steps": 3,
}


@pytest.mark.slow
def test_run_with_all_of_them_resumes_bit_for_bit(data, tmp_path, run_command, monkeypatch):
    monkeypatch.chdir(ROOT)
    whole = run_command(command(tmp_path / "whole", data, **FIELDS), num_devices=8)
    assert whole.returncode == 0, whole.stderr
    config = ma52.get_config()
    config.update_from_flattened_dict(small_runs.FIELDS | FIELDS | {"data.manual_dir": str(data)})
    real, calls = evaluate.compute_metrics, itertools.count()

    def stop_at_the_second(*arguments):
        if next(calls):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(evaluate, "compute_metrics", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(config, tmp_path / "stopped")
    resumed = run_command(command(tmp_path / "stopped", data, **FIELDS), num_devices=8)
    assert "resuming from step 6" in resumed.stderr  # of 8, in the third pass of 17 clips
    for left, right in zip(variables(tmp_path / "stopped"), variables(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(left, right)
    assert logged_losses(tmp_path / "stopped") == logged_losses(tmp_path / "whole")
    assert len(logged_losses(tmp_path / "whole")) == 8
    assert "split 'val' is trained on (config.data.train_splits), so its metrics say nothing of other" in whole.stderr

    model = manet_jax.load_model(tmp_path / "whole")
    assert model.metadata.data["training clips"] == 17
    assert model({"video": np.zeros((2, 4, 32, 32, 3), np.uint8)}).groups.shape == (2, 2)
    assert export.export_model(tmp_path / "whole", tmp_path / "exported")["outputs"] == ["logits", "embedding"]
    (clip, *_) = sorted((data / "videos_val").iterdir())
    assert model.predict(clip)[0].top(1)


@pytest.fixture(scope="module")
def several(shared):
    """Clips with several labels, in two groups, and emotions."""

    def make(root):
        for split, count in (("train", 12), ("val", 6)):
            lines = ["video,labels,emotion"]
            for i in range(count):
                write_clip(root / split / f"{i}.mp4", seed=i, num_frames=10)
                classes = ";".join(("nodding", "waving", "tiptoe")[j] for j in {i % 3, i // 3 % 3})
                lines.append(f"{i}.mp4,{classes},{('joy', 'fear', '')[i % 3]}")
            (root / f"{split}.csv").write_text("\n".join(lines))
        (root / "label_name.txt").write_text("0\tnodding\thead\n1\twaving\thand\n2\ttiptoe\thand\n")

    return shared("several_grouped", make)


def config_of_several(folder, **fields):
    config = shrink(ma52_pro.get_config("micro_action"), folder)
    config.data.builder_config = "pro_original"
    config.num_epochs = 1.0
    config.update_from_flattened_dict(fields)
    return config


@pytest.mark.slow
def test_run_of_several_labels_and_emotions(several, tmp_path):
    fields = {"class_balance.soft_f1": 1.0, "body_groups.head": 1.0, "body_groups.consistency": 1.0}
    config = config_of_several(several, **fields)
    train.train_and_evaluate(config, tmp_path)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert {"soft_f1_loss", "group_cross_entropy", "group_consistency", "emotion_cross_entropy"} <= line.keys()
    terms = ("multilabel", "soft_f1_loss", "group_cross_entropy", "group_consistency", "emotion_cross_entropy")
    total = sum(line[name] for name in terms) + config.embedding_weight * line["joint_embedding"]
    assert line["loss"] == pytest.approx(total, rel=1e-5)
    assert "groups" not in manet_jax.evaluate_checkpoint(tmp_path, "latest").predictions.outputs


@pytest.mark.parametrize(
    ("field", "value", "off"),
    [
        ("class_balance.sampling", 0.5, 1),
        ("class_balance.effective_number", 0.9, 0),
        ("class_balance.logit_adjustment", 1.0, 0),
        ("class_balance.focal", 2.0, 0),
        ("body_groups.label_smoothing", 0.1, 0),
    ],
)
def test_what_is_for_one_label_is_refused_for_several(several, field, value, off):
    text = f"config.{field} is {value}, which is for one label a clip, but the clips of X have several: set it to {off}"
    config = configuration.parse(config_of_several(several, **{field: value}))
    with pytest.raises(UserError, match=f"^{text}$"):
        config.check_labels(LABELS, True, "X")
    config.check_labels(LABELS, False, "X")


def test_body_groups_of_one_class_each_are_refused(config, tmp_path):
    config.body_groups.consistency = 0.5
    message = r"^config.body_groups.consistency is 0.5, but each class of .* is a body group of its own: set it to 0"
    with pytest.raises(UserError, match=message):
        train.train_and_evaluate(config, tmp_path)


def test_run_refuses_splits_without_public_labels(config, tmp_path):
    config.data.train_splits = ("train", "test")
    with pytest.raises(UserError) as error:
        train.train_and_evaluate(config, tmp_path)
    assert "--config.data.train_splits: " in str(error.value)
    assert "has no split 'test' with public labels; name some of train, val" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_balance.sampling": 1.5}, "class_balance.sampling is 1.5; it must lie in 0..1"),
        (
            {"class_balance.effective_number": 1.0},
            "class_balance.effective_number is 1.0; it must lie in 0..1, below 1",
        ),
        ({"class_balance.logit_adjustment": -1.0}, "class_balance.logit_adjustment is -1.0; it must be at least 0"),
        ({"class_balance.focal": -1.0}, "class_balance.focal is -1.0; it must be at least 0"),
        ({"class_balance.soft_f1": -1.0}, "class_balance.soft_f1 is -1.0; it must be at least 0"),
        ({"body_groups.head": -1.0}, "body_groups.head is -1.0; it must be at least 0"),
        ({"body_groups.consistency": -1.0}, "body_groups.consistency is -1.0; it must be at least 0"),
        ({"body_groups.label_smoothing": 1.0}, "body_groups.label_smoothing is 1.0; it must lie in 0..1, below 1"),
        (
            {"body_groups.label_smoothing": 0.5, "label_smoothing": 0.5},
            "body_groups.label_smoothing is 0.5; with label_smoothing, 0.5, it must lie below 1",
        ),
        (
            {"class_balance.soft_f1": 1.0, "accumulate": 2},
            "class_balance.soft_f1 is 1.0; that is of a whole batch: set accumulate to 1",
        ),
        (
            {"body_groups.head": 1.0, "emotion.form": "appearance"},
            "body_groups is for actions, which emotion.form 'appearance' does not train: set its fields as configs",
        ),
        (
            {"class_balance.soft_f1": 1.0, "emotion.form": "fused", "emotion.training": "after", "init_from": "x"},
            "class_balance is for actions, which emotion.training 'after' does not train: set its fields as configs/",
        ),
        ({"data.train_splits": ()}, "data.train_splits is (); give the name of each split to train on once"),
        ({"data.train_splits": ("val", "val")}, "data.train_splits is ('val', 'val'); give the name of each split"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    config = ma52.get_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError) as error:
        configuration.parse(config)
    assert f"config.{message}" in str(error.value)


def test_runs_from_before_resume_with_none_of_it():
    now = ma52.get_config().to_dict()
    before = {name: value for name, value in now.items() if name not in ("class_balance", "body_groups")}
    before["data"] = {name: value for name, value in now["data"].items() if name != "train_splits"}
    saved = RunMetadata(model=tiny_manet(), labels=MA52, config=before).to_json()
    older = RunMetadata.from_json(json.loads(json.dumps(saved)))
    assert configuration.changes(older.config, now) == []
    assert older.train_splits == ("train",)


def test_arms_of_tricks_change_what_they_name():
    plain = dict(configuration.flatten(tricks.get_config("baseline").to_dict()))
    assert plain == dict(configuration.flatten(ablation.get_config("manet").to_dict()))
    assert tricks.get_config(tricks.BACKBONE) == ablation.get_config(ablation.BACKBONE)
    changed = {}
    for arm in tricks.ARMS:
        config = tricks.get_config(arm)
        configuration.parse(config)
        fields = dict(configuration.flatten(config.to_dict()))
        changed[arm] = {field: value for field, value in fields.items() if value != plain[field]}
    assert changed.pop("baseline") == {}
    together = changed.pop("all")
    assert all(len(fields) == 1 for fields in changed.values())
    assert together == {k: v for arm in tricks.TOGETHER for k, v in changed[arm].items()}
    assert {field for fields in changed.values() for field in fields} - together.keys() == {
        "class_balance.effective_number"
    }
    with pytest.raises(ValueError, match=r"has no arm 'x'; name one of baseline, .*, all, backbone after a colon"):
        tricks.get_config("x")
