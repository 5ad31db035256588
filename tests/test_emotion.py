import functools
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoints import random_variables, read_checkpoint
from helpers import shrink, write_clip

import manet_jax
from configs import ma52_pro
from manet_jax import checkpoint, evaluate, metrics, optimizers, parallel, train
from manet_jax.models import MODELS, ClipSpec, ModelSpec
from manet_jax.models.variables import abstract_variables, flatten, merge
from manet_jax.pretrained.convert import to_pytorch
from manet_jax.tasks import Emotion, JointEmbedding, create_tasks
from manet_jax.train_step import TrainState, create_step
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet

NAMES = ("nodding", "waving", "tiptoe")
EMOTIONS = ("joy", "fear", "anger")
PARTS = {"appearance": ("appearance",), "micro_action": ("micro_action", "emotion")}


def make_spec(form, frozen=False):
    """A network of 4 micro-actions and 3 emotions in one of its forms."""
    options, clip = MODELS["manet"].Options, {"short_side": 40, "crop_size": 32}
    micro_action = options.tiny(num_classes=4, clip=ClipSpec(num_frames=2, **clip))
    still = {"embedding_dim": 0, "shift": False, "se": False}
    appearance = options.tiny(num_classes=3, clip=ClipSpec(num_frames=3, **clip), **still)
    emotion = MODELS["emotion"].Options(
        num_emotions=3,
        micro_action=None if form == "appearance" else ModelSpec("manet", micro_action),
        appearance=None if form == "micro_action" else ModelSpec("manet", appearance),
        frozen=frozen,
    )
    return ModelSpec("emotion", emotion)


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
    """The evaluation of a form, and its part of the variables of the fused one."""
    variables = random_variables(make_spec("fused"))
    names = PARTS.get(form, ("appearance", "micro_action", "emotion"))
    variables = {part: {name: tree[name] for name in names if name in tree} for part, tree in variables.items()}
    spec = make_spec(form)
    step = functools.partial(evaluate.eval_step, graphdef=abstract_variables(spec)[0], outputs=spec.options.outputs)
    return parallel.map_step(step, parallel.make_mesh(1), "shard_map"), variables


def forward(form, batch):
    step, variables = create(form)
    return jax.device_get(step(variables, batch | {"index": np.arange(8)}))["outputs"]


def test_appearance_knows_no_order_and_no_video():
    batch = make_batch()
    outputs = forward("appearance", batch)
    assert set(outputs) == {"emotion"}
    assert outputs["emotion"].shape == (8, 3)
    shuffled = batch | {"appearance": batch["appearance"][:, [2, 0, 1]], "video": batch["video"] * 0}
    np.testing.assert_allclose(forward("appearance", shuffled)["emotion"], outputs["emotion"], rtol=1e-4, atol=1e-5)
    other = batch | {"appearance": batch["appearance"][::-1]}
    assert np.abs(forward("appearance", other)["emotion"] - outputs["emotion"]).max() > 1e-3


def test_micro_action_sees_no_appearance():
    batch = make_batch()
    outputs = forward("micro_action", batch)
    blind = {name: value for name, value in batch.items() if name != "appearance"}
    assert {name: value.shape for name, value in outputs.items()} == {
        "logits": (8, 4),
        "embedding": (8, 5),
        "emotion": (8, 3),
    }
    np.testing.assert_array_equal(forward("micro_action", blind)["emotion"], outputs["emotion"])


def test_fused_adds_both():
    fused, appearance, micro_action = (forward(form, make_batch()) for form in ("fused", *PARTS))
    together = appearance["emotion"] + micro_action["emotion"]
    np.testing.assert_allclose(fused["emotion"], together, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fused["logits"], micro_action["logits"], rtol=1e-5, atol=1e-6)


def test_micro_action_goes_by_features_and_probabilities():
    graphdef, _ = abstract_variables(make_spec("micro_action"))
    _, variables = create("micro_action")

    @jax.jit
    def run(variables, video):
        model = merge(graphdef, variables)
        return model({"video": video}), model.micro_action.features(video).mean((1, 2, 3))

    outputs, features = jax.device_get(run(variables, make_batch()["video"]))
    evidence = np.concatenate([features, 1 / (1 + np.exp(-outputs.logits))], axis=1)
    linear = jax.device_get(variables["params"]["emotion"])
    expected = evidence @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(outputs.emotion, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outputs.emotion, forward("micro_action", make_batch())["emotion"], rtol=1e-4, atol=1e-5)


def test_class_maps_are_of_the_actions_or_else_of_the_emotions():
    for form, size in (("fused", 4), ("micro_action", 4), ("appearance", 3)):
        graphdef, abstract = abstract_variables(make_spec(form))
        inputs = {name: make_batch()[name] for name in make_spec(form).options.inputs}
        maps = jax.eval_shape(
            lambda variables, inputs, graphdef=graphdef: merge(graphdef, variables).class_maps(inputs), abstract, inputs
        )
        assert maps.shape == (8, 3 if form == "appearance" else 2, 4, 4, size)


@functools.cache
def run_steps(num_devices, frozen=False):
    """Two training steps of the fused form: their metrics, and the variables before and after."""
    frozen_module = "micro_action" if frozen else ""
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(0.05),
        momentum=0.9,
        weight_decay=1e-2,
        clip_norm=20.0,
        head_lr_multiplier=5.0,
        head="last",
        frozen_module=frozen_module,
    )
    spec, mesh = make_spec("fused", frozen), parallel.make_mesh(num_devices)
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    tasks = create_tasks(
        spec,
        LabelSet(("a", "b", "c", "d"), ("all",), (0, 0, 0, 0)),
        EMOTIONS,
        multilabel=True,
        loss_name="asymmetric",
        joint_embedding=JointEmbedding(vectors, weight=2.0),
    )
    graphdef, _ = abstract_variables(spec)
    variables = random_variables(spec)
    state = TrainState(step=jnp.int32(0), **variables, opt_state=optimizer.init(variables["params"]))
    step = create_step(graphdef, optimizer, tasks, mesh, seed=0, sync_batch_norm=True, frozen_module=frozen_module)
    before = jax.device_get(state.variables)
    state, history = parallel.replicate(state, mesh), []
    for i in range(2):
        state, values = step(state, parallel.shard_batch(make_batch(i), mesh))
        history.append({name: float(value) for name, value in values.items()})
    return history, flatten(before), flatten(jax.device_get(state.variables))


@pytest.mark.slow
def test_training_is_the_same_on_1_and_8_devices():
    (one, *_), (many, *_) = run_steps(1), run_steps(8)
    for left, right in zip(one, many, strict=True):
        assert left == pytest.approx(right, rel=1e-3)
    assert set(one[0]) >= {"loss", "multilabel", "joint_embedding", "emotion_cross_entropy", "emotion_accuracy"}


def test_frozen_micro_action_stays_bit_for_bit():
    _, before, after = run_steps(1, frozen=True)
    assert before.keys() == after.keys()
    frozen = [path for path in before if ".micro_action." in path]
    assert {path.split(".")[0] for path in frozen} == {"params", "batch_stats"}
    assert all((before[path] == after[path]).all() for path in frozen)
    for name in ("emotion", "appearance"):
        assert any((before[path] != after[path]).any() for path in before if path.startswith(f"params.{name}."))
    _, before, after = run_steps(1)
    stem = "params.micro_action.stem.conv.kernel"
    assert (before[stem] != after[stem]).any()


@pytest.fixture(scope="module")
def pro_folder(shared):
    """Clips with several labels and emotions: 12 to train, 6 to validate, 4 to test."""

    def make(root):
        for split, count in (("train", 12), ("val", 6), ("test", 4)):
            lines = ["video,labels,emotion"]
            for i in range(count):
                write_clip(root / split / f"{i}.mp4", seed=i, num_frames=10)
                classes = ";".join(NAMES[j] for j in {i % 3, i // 3 % 3})
                lines.append(f"{i}.mp4,{classes},{('joy', 'fear', '')[i % 3]}")
            (root / f"{split}.csv").write_text("\n".join(lines))
        (root / "label_name.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(NAMES)))

    return shared("pro_folder", make)


def pro_config(folder, form="micro_actions"):
    config = shrink(ma52_pro.get_config(form), folder)
    config.data.builder_config = "pro_original"
    return config


@pytest.fixture(scope="module")
def micro_actions(pro_folder, shared):
    """The workdir of a training run of several labels."""
    return shared("micro_actions", lambda workdir: train.train_and_evaluate(pro_config(pro_folder), workdir))


def test_several_labels_train_evaluate_and_load(pro_folder, micro_actions):
    lines = [json.loads(line) for line in (micro_actions / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "multilabel" in line] == [1, 2, 3]
    recorded = [line for line in lines if "eval_map" in line][-1]
    values = evaluate.evaluate_checkpoint(micro_actions, "latest").metrics
    for name in (*metrics.MULTILABEL_NAMES, "cross_entropy"):
        assert values[name] == pytest.approx(recorded[f"eval_{name}"], rel=1e-5), name
    model = manet_jax.load_model(micro_actions, "latest")
    assert model.labels.names == NAMES
    outputs = model({"video": np.zeros((2, 4, 32, 32, 3), np.uint8)})
    assert (outputs.logits.shape, outputs.embedding.shape) == ((2, 3), (2, 50))
    assert outputs.emotion is None
    written = json.loads((micro_actions / "evaluation_val_latest.json").read_text())
    assert written["map"] == values["map"]
    table = evaluate.format_table({"latest": values})
    assert f"threshold         {values['threshold']:>12.2f}" in table.splitlines()
    assert any(line.startswith("map_tiptoe") for line in table.splitlines())


def test_threshold_of_another_split_is_that_of_training(pro_folder, micro_actions):
    config = pro_config(pro_folder)
    config.eval.split = "test"
    trained = manet_jax.load_model(micro_actions).metadata.best["threshold"]
    assert evaluate.evaluate_checkpoint(micro_actions, config=config).metrics["threshold"] == trained


@pytest.fixture(scope="module")
def runs(pro_folder, shared):
    """Trains a form of emotion recognition, once; returns the workdir and the last evaluation."""

    def run(form):
        workdir = shared(form, lambda workdir: train.train_and_evaluate(pro_config(pro_folder, form), workdir))
        return workdir, manet_jax.load_model(workdir, "latest").metadata.evaluated("latest")

    return run


@pytest.mark.parametrize("form", [pytest.param("appearance", marks=pytest.mark.slow), "fused"])
def test_emotions_train_evaluate_and_load(form, runs):
    workdir, last = runs(form)
    values = evaluate.evaluate_checkpoint(workdir, "latest").metrics
    assert {name: values[name] for name in metrics.EMOTION_NAMES} == pytest.approx(
        {name: last[name] for name in metrics.EMOTION_NAMES}
    )
    assert ("map" in values) == (form != "appearance")
    confusion = np.array(json.loads((workdir / "evaluation_val_latest.json").read_text())["emotion_confusion"])
    assert confusion.shape == (2, 2)
    assert confusion.sum() == 4  # two of six have no emotion
    model = manet_jax.load_model(workdir)
    assert model.emotions == ("fear", "joy")
    shapes = {"video": (1, 4, 32, 32, 3), "appearance": (1, 2, 32, 32, 3)}
    outputs = model({name: np.zeros(shapes[name], np.uint8) for name in model.inputs})
    assert outputs.emotion.shape == (1, 2)
    assert (outputs.logits is None) == (form == "appearance")


@pytest.mark.slow
def test_stopped_run_of_emotions_resumes(runs, pro_folder, tmp_path, monkeypatch):
    config = pro_config(pro_folder, "fused")

    class StopError(Exception):
        pass

    real, calls = evaluate.compute_metrics, itertools.count()

    def stop_at_the_second(*arguments):
        if next(calls):
            raise StopError
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "compute_metrics", stop_at_the_second)
        with pytest.raises(StopError):
            train.train_and_evaluate(config, tmp_path / "parts")
    assert checkpoint.Checkpoints(tmp_path / "parts").step("latest") == 2
    train.train_and_evaluate(config, tmp_path / "parts")
    whole, parts = (read_checkpoint(workdir, "latest")[0] for workdir in (runs("fused")[0], tmp_path / "parts"))
    assert whole.keys() == parts.keys()
    for path, value in whole.items():
        np.testing.assert_array_equal(value, parts[path])


@pytest.mark.slow
def test_training_after_the_micro_actions_starts_from_them(runs, pro_folder, micro_actions, tmp_path):
    config = pro_config(pro_folder, "fused")
    config.emotion.training, config.init_from = "after", str(micro_actions)
    config.emotion.appearance_from = str(runs("appearance")[0])
    train.train_and_evaluate(config, tmp_path / "after")
    theirs, _ = read_checkpoint(micro_actions, "best")
    ours, metadata = read_checkpoint(tmp_path / "after", "latest")
    assert [origin["part"] for origin in metadata.initialized_from] == ["micro_action", "appearance"]
    assert [origin["fresh"] for origin in metadata.initialized_from] == [[], []]
    taken = {path.replace(".micro_action.", ".", 1): x for path, x in ours.items() if ".micro_action." in path}
    assert taken.keys() == theirs.keys()
    for path, value in theirs.items():
        np.testing.assert_array_equal(taken[path], value)
    with pytest.raises(
        UserError, match=r"after holds a network 'emotion', for which there is no table of PyTorch's names$"
    ):
        to_pytorch(tmp_path / "after", tmp_path / "m.safetensors")


def test_data_without_emotions_are_refused(folder, tmp_path):
    config = pro_config(folder, "fused")
    config.data.builder_config = "h264_256"
    with pytest.raises(
        UserError,
        match=r"^config\.emotion\.form is 'fused', but .* has 0 emotions: set it to '', or add a column 'emotion' ",
    ):
        train.train_and_evaluate(config, tmp_path)


def test_label_smoothing_of_several_labels_is_refused(pro_folder, tmp_path):
    config = pro_config(pro_folder)
    config.label_smoothing = 0.1
    message = (
        r"^config\.label_smoothing is 0\.1, which is for one label a clip, but the clips of .* have several: set it"
    )
    with pytest.raises(UserError, match=message):
        train.train_and_evaluate(config, tmp_path)


def test_metrics_without_any_emotion_are_no_numbers():
    predictions = evaluate.Predictions({"emotion": np.zeros((2, 3), np.float32)}, {"emotion": np.array([-1, -1])})
    tasks = (Emotion(LabelSet(EMOTIONS, EMOTIONS, (0, 1, 2))),)
    values = evaluate.compute_metrics(predictions, tasks)
    assert values.keys() == {*metrics.EMOTION_NAMES, "emotion_cross_entropy"}
    assert all(np.isnan(list(values.values())))


def test_split_without_emotions_cannot_be_evaluated(pro_folder, tmp_path):
    root = shutil.copytree(pro_folder, tmp_path / "data", ignore=shutil.ignore_patterns("tfds"))
    lines = (root / "val.csv").read_text().splitlines()
    (root / "val.csv").write_text("\n".join([lines[0], *(line.rpartition(",")[0] + "," for line in lines[1:])]))
    with pytest.raises(
        UserError, match=r"no clip of split 'val' has an emotion: give another with --config\.eval\.split$"
    ):
        train.train_and_evaluate(pro_config(root, "micro_action"), tmp_path / "run")


@pytest.mark.parametrize("form", ["emotion", ""])
def test_config_refuses_an_unknown_form(form):
    with pytest.raises(
        ValueError, match=r"has no form .*; name one of micro_actions, appearance, micro_action, fused after a colon"
    ):
        ma52_pro.get_config(form)
