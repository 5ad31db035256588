import functools
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import shrink, write_clip

import manet_jax
from configs import ma52_pro
from manet_jax import (
    checkpoint,
    evaluate,
    losses,
    metrics,
    nets,
    optimizers,
    parallel,
    pretrained,
    train,
    train_state,
)
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52

MICRO_ACTIONS = {"num_classes": 4, "embedding_dim": 5, "depth": 14, "width": 8, "num_segments": 2, "dropout": 0.5}
APPEARANCE = {"num_classes": 3, "depth": 14, "width": 8, "num_segments": 3, "shift": False, "se": False, "dropout": 0.5}
NAMES = ("nodding", "waving", "tiptoe")


def options(form, frozen=False):
    return {
        "form": form,
        "num_emotions": 3,
        "micro_actions": None if form == "appearance" else MICRO_ACTIONS,
        "appearance": None if form == "micro_action" else APPEARANCE,
        "frozen": frozen,
    }


def make_batch(seed=0, size=8):
    rng = np.random.default_rng(seed)
    return {
        "video": rng.integers(0, 256, (size, 2, 32, 32, 3), np.uint8),
        "appearance": rng.integers(0, 256, (size, 3, 32, 32, 3), np.uint8),
        "labels": (rng.random((size, 4)) < 0.4).astype(np.float32),
        "emotion": rng.integers(-1, 3, size).astype(np.int32),
    }


@functools.cache
def create(form):
    """A model's step of evaluation and its variables, far enough from their small start to say something."""
    graphdef, _ = nets.abstract_variables(options(form))
    variables = nets.create_variables(options(form), seed=0)
    variables["params"] = jax.tree.map(lambda x: 3 * x + 0.01, variables["params"])
    step = functools.partial(evaluate.eval_step, graphdef=graphdef)
    return parallel.map_step(step, parallel.make_mesh(1), "shard_map"), variables


def forward(form, batch):
    step, variables = create(form)
    return jax.device_get(step(variables, batch | {"index": np.arange(8)}))["outputs"]


def test_the_appearance_knows_no_order_and_no_video():
    batch = make_batch()
    said = forward("appearance", batch)
    assert set(said) == {"emotion"}
    assert said["emotion"].shape == (8, 3)
    shuffled = batch | {"appearance": batch["appearance"][:, [2, 0, 1]], "video": batch["video"] * 0}
    np.testing.assert_allclose(forward("appearance", shuffled)["emotion"], said["emotion"], rtol=1e-4, atol=1e-5)
    other = batch | {"appearance": batch["appearance"][::-1]}
    assert np.abs(forward("appearance", other)["emotion"] - said["emotion"]).max() > 1e-3


def test_micro_actions_see_no_appearance():
    batch = make_batch()
    said = forward("micro_action", batch)
    blind = {name: value for name, value in batch.items() if name != "appearance"}
    assert {name: value.shape for name, value in said.items()} == {
        "logits": (8, 4),
        "embedding": (8, 5),
        "emotion": (8, 3),
    }
    np.testing.assert_array_equal(forward("micro_action", blind)["emotion"], said["emotion"])


def test_fused_adds_what_both_say():
    batch = make_batch()
    fused = forward("fused", batch)
    _, variables = create("fused")
    parts = {
        form: {kind: {name: tree[name] for name in names if name in tree} for kind, tree in variables.items()}
        for form, names in (("appearance", ("appearance",)), ("micro_action", ("micro_actions", "emotion")))
    }
    said = {
        form: jax.device_get(create(form)[0](part, batch | {"index": np.arange(8)}))["outputs"]
        for form, part in parts.items()
    }
    together = said["appearance"]["emotion"] + said["micro_action"]["emotion"]
    np.testing.assert_allclose(fused["emotion"], together, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fused["logits"], said["micro_action"]["logits"], rtol=1e-5, atol=1e-6)


def test_micro_actions_tell_emotions_by_features_and_scores():
    @jax.jit
    def both(video):
        model = nets.create_model(options("micro_action"), nets.nnx.Rngs(0))
        logits, _ = model.micro_actions(video)
        seen = jnp.concatenate([model.micro_actions.features(video).mean((1, 2, 3)), 1 / (1 + jnp.exp(-logits))], 1)
        return model(video, None).emotion, seen @ model.emotion.kernel[...] + model.emotion.bias[...]

    said, expected = both(make_batch()["video"])
    np.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-6)


@functools.cache
def run_steps(num_devices, frozen=False):
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(0.05),
        momentum=0.9,
        weight_decay=1e-2,
        clip_norm=20.0,
        boosted_layer="last",
        frozen="micro_actions" if frozen else "",
    )
    graphdef, state = train_state.create_train_state(options("fused", frozen), optimizer, seed=0)
    objective = functools.partial(
        losses.objective,
        label_vectors=np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32),
        embedding_weight=2.0,
        multilabel_loss="asymmetric",
        emotion_weight=1.0,
    )
    step = functools.partial(
        train_state.train_step,
        graphdef=graphdef,
        optimizer=optimizer,
        objective=objective,
        seed=0,
        sync_batch_norm=True,
        frozen="micro_actions" if frozen else "",
    )
    mesh = parallel.make_mesh(num_devices)
    step = parallel.map_step(step, mesh, "shard_map")
    before = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
    state, history = parallel.replicate(state, mesh), []
    for i in range(2):
        state, values = step(state, parallel.shard_batch(make_batch(i), mesh))
        history.append({name: float(value) for name, value in values.items()})
    return history, before, jax.device_get({"params": state.params, "batch_stats": state.batch_stats})


def test_training_is_the_same_on_1_and_8_devices():
    (one, *_), (many, *_) = run_steps(1), run_steps(8)
    for left, right in zip(one, many, strict=True):
        assert left == pytest.approx(right, rel=1e-3)
    assert set(one[0]) >= {"loss", "multilabel", "joint_embedding", "emotion_cross_entropy", "emotion_accuracy"}


def test_afterwards_the_network_of_micro_actions_stays_bit_for_bit():
    _, before, after = run_steps(1, frozen=True)
    for kind in ("params", "batch_stats"):
        left, right = (jax.tree.leaves(each[kind]["micro_actions"]) for each in (before, after))
        assert all((a == b).all() for a, b in zip(left, right, strict=True))
    for name in ("emotion", "appearance"):
        moved = checkpoint.flatten(before["params"][name]).items()
        assert any((value != checkpoint.flatten(after["params"][name])[path]).any() for path, value in moved)
    _, before, after = run_steps(1)
    stem = ("micro_actions", "stem", "conv", "kernel")
    left, right = (functools.reduce(lambda tree, name: tree[name], stem, each["params"]) for each in (before, after))
    assert (left != right).any()


@pytest.fixture(scope="module")
def pro_folder(tmp_path_factory):
    """Clips with several labels and emotions: 12 to train, 6 to validate, 4 to test."""
    root = tmp_path_factory.mktemp("pro")
    for split, count in (("train", 12), ("val", 6), ("test", 4)):
        lines = ["video,labels,emotion"]
        for i in range(count):
            write_clip(root / split / f"{i}.mp4", seed=i, num_frames=10)
            lines.append(f"{i}.mp4,{';'.join(NAMES[j] for j in {i % 3, i // 3 % 3})},{('joy', 'fear', '')[i % 3]}")
        (root / f"{split}.csv").write_text("\n".join(lines))
    (root / "label_name.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(NAMES)))
    return root


def pro_config(folder, form="micro_actions"):
    config = shrink(ma52_pro.get_config(form), folder)
    config.data.builder_config = "pro_original"
    config.emotion.short_side, config.emotion.crop_size = 40, 32
    config.emotion.depth, config.emotion.width = 14, 8
    return config


@pytest.fixture(scope="module")
def micro_actions(pro_folder, tmp_path_factory):
    """The workdir of a multi-label training."""
    workdir = tmp_path_factory.mktemp("runs") / "micro_actions"
    train.train_and_evaluate(pro_config(pro_folder), workdir)
    return workdir


def test_several_labels_train_evaluate_and_load(pro_folder, micro_actions):
    lines = [json.loads(line) for line in (micro_actions / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "multilabel" in line] == [1, 2, 3]
    recorded = [line for line in lines if "eval_map" in line][-1]
    values = evaluate.evaluate_checkpoint(None, micro_actions, "latest").scores
    for name in (*metrics.MULTILABEL_NAMES, "cross_entropy"):
        assert values[name] == pytest.approx(recorded[f"eval_{name}"], rel=1e-5), name
    model = manet_jax.load_model(micro_actions, "latest")
    assert model.labels.names == NAMES
    logits, embedding = model(np.zeros((2, 4, 32, 32, 3), np.uint8))
    assert (logits.shape, embedding.shape) == ((2, 3), (2, 50))
    written = json.loads((micro_actions / "evaluation_val_latest.json").read_text())
    assert written["map"] == values["map"]
    table = evaluate.format_table({"latest": values})
    assert f"threshold         {values['threshold']:>12.2f}" in table.splitlines()
    assert any(line.startswith("map_tiptoe") for line in table.splitlines())


def test_the_threshold_of_another_split_is_that_of_training(pro_folder, micro_actions):
    config = pro_config(pro_folder)
    config.eval.split = "test"
    trained = manet_jax.load_model(micro_actions).metadata["best"]["threshold"]
    assert evaluate.evaluate_checkpoint(config, micro_actions, "best").scores["threshold"] == trained


@pytest.fixture(scope="module")
def runs(pro_folder, tmp_path_factory):
    """A function that trains a form of emotion recognition, once, and returns the workdir and the results."""

    @functools.cache
    def run(form):
        workdir = tmp_path_factory.mktemp("runs") / form
        return workdir, train.train_and_evaluate(pro_config(pro_folder, form), workdir)

    return run


@pytest.mark.parametrize("form", ["appearance", "fused"])
def test_emotions_train_evaluate_and_load(form, runs):
    workdir, whole = runs(form)
    values = evaluate.evaluate_checkpoint(None, workdir, "latest").scores
    assert {name: values[name] for name in metrics.EMOTION_NAMES} == pytest.approx(
        {name: whole["last"][name] for name in metrics.EMOTION_NAMES}
    )
    assert ("map" in values) == (form != "appearance")
    confusion = np.array(json.loads((workdir / "evaluation_val_latest.json").read_text())["emotion_confusion"])
    assert confusion.shape == (2, 2)
    assert confusion.sum() == 4  # two of six have no emotion
    model = manet_jax.load_model(workdir)
    assert model.emotions == ("fear", "joy")
    video, appearance = (np.zeros((1, frames, 32, 32, 3), np.uint8) for frames in (4, 2))
    said = model(None if form == "appearance" else video, None if form == "micro_action" else appearance)
    assert said.emotion.shape == (1, 2)
    assert (said.logits is None) == (form == "appearance")


def test_a_stopped_run_of_emotions_goes_on(runs, pro_folder, tmp_path, monkeypatch):
    config = pro_config(pro_folder, "fused")

    class StopError(Exception):
        pass

    real, calls = evaluate.score, itertools.count()

    def stop_at_the_second(*arguments):
        if next(calls):
            raise StopError
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "score", stop_at_the_second)
        with pytest.raises(StopError):
            train.train_and_evaluate(config, tmp_path / "parts")
    assert checkpoint.Checkpoints(tmp_path / "parts").step("latest") == 2
    train.train_and_evaluate(config, tmp_path / "parts")
    workdirs = (runs("fused")[0], tmp_path / "parts")
    whole, parts = (jax.tree.leaves(checkpoint.read_model(workdir, "latest")[1]) for workdir in workdirs)
    for left, right in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(left, right)


def test_training_after_the_micro_actions_starts_from_them(runs, pro_folder, micro_actions, tmp_path):
    config = pro_config(pro_folder, "fused")
    config.emotion.training, config.init_from = "after", str(micro_actions)
    config.emotion.appearance_from = str(runs("appearance")[0])
    train.train_and_evaluate(config, tmp_path / "after")
    _, theirs, _ = checkpoint.read_model(micro_actions, "best")
    _, ours, metadata = checkpoint.read_model(tmp_path / "after", "latest")
    assert [origin["part"] for origin in metadata["initialized_from"]] == ["micro_actions", "appearance"]
    assert [origin["fresh"] for origin in metadata["initialized_from"]] == [[], []]
    for kind in ("params", "batch_stats"):
        ours_of_kind, theirs_of_kind = checkpoint.flatten(ours[kind]["micro_actions"]), checkpoint.flatten(theirs[kind])
        assert ours_of_kind.keys() == theirs_of_kind.keys()
        for path, value in theirs_of_kind.items():
            np.testing.assert_array_equal(ours_of_kind[path], value)
    with pytest.raises(UserError, match="after recognises emotions, which PyTorch's MANet does not"):
        pretrained.to_pytorch(tmp_path / "after", tmp_path / "m.safetensors")


def test_data_without_emotions_are_refused(folder, tmp_path):
    config = shrink(ma52_pro.get_config("fused"), folder)
    config.data.builder_config = "h264_256"
    config.emotion.short_side, config.emotion.crop_size = 40, 32
    with pytest.raises(UserError, match=r"emotion.form is 'fused', but .* has 0 emotions: set it to ''"):
        train.train_and_evaluate(config, tmp_path)


def test_without_any_emotion_figures_are_no_numbers():
    predictions = evaluate.Predictions({"emotion": np.zeros((2, 3), np.float32)}, {"emotion": np.array([-1, -1])})
    assert all(np.isnan(list(evaluate.score(predictions, MA52).values())))


def test_a_split_without_emotions_cannot_be_evaluated(pro_folder, tmp_path):
    root = shutil.copytree(pro_folder, tmp_path / "data", ignore=shutil.ignore_patterns("tfds"))
    lines = (root / "val.csv").read_text().splitlines()
    (root / "val.csv").write_text("\n".join([lines[0], *(line.rpartition(",")[0] + "," for line in lines[1:])]))
    with pytest.raises(UserError, match="no clip of split 'val' has an emotion: name another with --config"):
        train.train_and_evaluate(pro_config(root, "micro_action"), tmp_path / "run")


@pytest.mark.parametrize("form", ["emotion", ""])
def test_an_unknown_form_is_named(form):
    with pytest.raises(ValueError, match=r"has no form .*; name one of micro_actions, appearance, micro_action, fused"):
        ma52_pro.get_config(form)
