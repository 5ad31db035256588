import dataclasses
import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import shrink, write_folder

import manet_jax
from configs import ma52
from manet_jax import checkpoint, configuration, evaluate, metrics, optimizers, parallel, step_meter, tasks, train
from manet_jax import train_step as train_step_lib
from manet_jax.data import input_pipeline
from manet_jax.data.dataset import open_dataset
from manet_jax.models import ClipSpec, ModelSpec, Outputs
from manet_jax.models.manet import MANetOptions
from manet_jax.models.variables import abstract_variables, create_variables
from tfds_ma52 import labels
from tfds_ma52.errors import UserError

CLIP = ClipSpec(num_frames=2, short_side=40, crop_size=32)
LABELS = labels.LabelSet(("a", "b", "c"), ("a", "b", "c"), (0, 1, 2))


def model(**options):
    return ModelSpec("manet", MANetOptions.tiny(clip=CLIP, **options))


def make_batch(seed, size=8):
    """Random clips, each of a brightness of its own."""
    rng = np.random.default_rng(seed)
    brightness = np.linspace(256, 64, size).reshape(-1, 1, 1, 1, 1)
    return {
        "video": (brightness * rng.random((size, 2, 32, 32, 3))).astype(np.uint8),
        "label": rng.integers(0, 3, size).astype(np.int32),
    }


@functools.cache
def run_steps(num_devices, mapping, sync, num_steps=3, **options):
    """Losses, gradient norms and final variables of some steps from the same start."""
    schedule = optax.constant_schedule(0.01)
    optimizer = optimizers.create_optimizer(
        schedule, momentum=0.9, weight_decay=1e-4, clip_norm=20.0, head_lr_multiplier=5.0, head="last"
    )
    spec = model(**options)
    graphdef, _ = abstract_variables(spec)
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    joint_embedding = tasks.JointEmbedding(vectors, 50.0) if spec.options.embedding_dim else None
    mesh = parallel.make_mesh(num_devices)
    step = train_step_lib.create_step(
        graphdef,
        optimizer,
        [tasks.SingleLabel(LABELS, joint_embedding)],
        mesh,
        seed=0,
        mapping=mapping,
        sync_batch_norm=sync,
        donate_state=False,
    )
    state, history = train_step_lib.create_train_state(spec, optimizer, 0, mesh), []
    for i in range(num_steps):
        state, values = step(state, parallel.shard_batch(make_batch(i), mesh))
        history.append({name: float(value) for name, value in values.items()})
    return history, jax.device_get(state.params), jax.device_get(state.batch_stats)


def distance(left, right):
    return max(
        float(np.max(np.abs(a - b)) / (np.max(np.abs(b)) + 1e-6))
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


def test_train_step_gives_the_same_by_shard_map_and_pmap():
    shard_map, pmap = (run_steps(8, mapping, False) for mapping in parallel.MAPPINGS)
    for left, right in zip(shard_map, pmap, strict=True):
        assert distance(left, right) < 1e-6


@pytest.mark.parametrize("mapping", ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)])
def test_train_step_with_sync_on_8_devices_equals_one(mapping):
    (many, _, many_statistics), (one, _, one_statistics) = run_steps(8, mapping, True), run_steps(1, "shard_map", False)
    assert [values["loss"] for values in many] == pytest.approx([values["loss"] for values in one], rel=1e-5)
    assert [values["grad_norm"] for values in many] == pytest.approx([v["grad_norm"] for v in one], rel=1e-4)
    assert distance(many_statistics, one_statistics) < 1e-4


def test_train_step_without_sync_on_8_devices_differs():
    (many, *_), (one, *_) = run_steps(8, "shard_map", False), run_steps(1, "shard_map", False)
    assert abs(many[0]["loss"] / one[0]["loss"] - 1) > 1e-5


def test_train_step_returns_the_loss_and_its_parts():
    for values in run_steps(1, "shard_map", False)[0]:
        assert values["loss"] == pytest.approx(values["cross_entropy"] + 50 * values["joint_embedding"], rel=1e-6)
        assert values["grad_norm"] > 0


def test_train_step_without_embedding_has_the_cross_entropy_only(unchecked):
    spec, optimizer, task = model(embedding_dim=0), optax.sgd(0.01), tasks.SingleLabel(LABELS)
    graphdef, variables = abstract_variables(spec)
    opt_state = jax.eval_shape(optimizer.init, variables["params"])
    state = train_step_lib.TrainState(jax.ShapeDtypeStruct((), jnp.int32), **variables, opt_state=opt_state)
    step = train_step_lib.create_step(graphdef, optimizer, [task], parallel.make_mesh(1), seed=0)
    _, values = jax.eval_shape(step, state, make_batch(0))
    assert "cross_entropy" in values
    assert "joint_embedding" not in values
    logits = jnp.array([[1.0, 2.0, 0.5], [0.3, -1.0, 4.0]])
    loss, parts = tasks.total_loss([task], Outputs(logits=logits), {"label": jnp.array([0, 2])})
    assert loss == parts["loss"] == parts["cross_entropy"]
    assert "joint_embedding" not in parts


def test_count_steps_by_hand():
    config = ma52.get_config()
    config.batch_size, config.num_epochs, config.eval.every_epochs = 10, 3.0, 2.0
    config.schedule.decay_epochs, config.schedule.warmup_epochs = (1.0, 2.5), 0.5
    # 25 clips: 2.5 steps an epoch, rounded to even: 7.5 -> 8.
    assert train.count_steps(configuration.parse(config), 25) == train.StepCounts(
        total=8, evaluate=(5, 8), warmup=1, decay=(2, 6)
    )
    config.num_epochs = 0.01
    assert train.count_steps(configuration.parse(config), 25) == train.StepCounts(
        total=1, evaluate=(1,), warmup=1, decay=(2, 6)
    )


def reference_metrics(workdir, folder, checkpoint):
    """Metrics of a checkpoint by another way: the notebook's model, one clip at a time."""
    model = manet_jax.load_model(workdir, checkpoint)
    source = open_dataset({"manual_dir": folder}).source("val")
    confusion, top5 = np.zeros((3, 3)), 0
    for batch in input_pipeline.eval_batches(source, model.inputs, batch_size=1):
        outputs = model({"video": batch["video"]})
        assert outputs.embedding.shape == (1, 50)
        confusion[batch["label"][0], int(outputs.logits.argmax())] += 1
        top5 += 1  # there are fewer than five classes
    return metrics.recognition_metrics(confusion, top5, np.arange(3))


def test_train_logs_metrics_and_keeps_the_best(trained):
    workdir, results = trained
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line for line in lines if "loss" in line}
    evaluations = {line["step"]: line for line in lines if "eval_f1_mean" in line}
    # 12 clips in batches of 8, two epochs: three steps, evaluations after 1.5 (rounded to even) and 3.
    assert list(losses) == [1, 2, 3]
    assert list(evaluations) == [2, 3]
    expected = {"learning_rate", "loss", "cross_entropy", "joint_embedding", "grad_norm", "param_norm", "action_top1"}
    assert expected | {"clips_per_second", "data_wait_share"} <= losses[1].keys()
    assert losses[2]["learning_rate"] == pytest.approx(0.00125)
    assert losses[3]["learning_rate"] == pytest.approx(0.000125)  # after the first epoch
    assert evaluations[3]["eval_f1_mean"] == results["last"]["f1_mean"]
    assert results["best"]["f1_mean"] == max(line["eval_f1_mean"] for line in evaluations.values())
    assert list((workdir / "tensorboard").iterdir())


def test_evaluate_checkpoint_gives_the_metrics_of_training(trained, folder, tmp_path):
    """Whatever batches and mapping, and by the notebook's way."""
    workdir, results = shutil.copytree(trained[0], tmp_path / "run"), trained[1]
    assert evaluate.evaluate_checkpoint(workdir, "latest").metrics == results["last"]
    other = shrink(ma52.get_config(), folder)
    other.eval.batch_size, other.parallel = 16, "pmap"
    again = evaluate.evaluate_checkpoint(workdir, "best", config=other).metrics
    assert again.pop("cross_entropy") == pytest.approx(results["best"]["cross_entropy"], rel=1e-5)
    assert again == {name: value for name, value in results["best"].items() if name != "cross_entropy"}
    saved = json.loads((workdir / "evaluation_val_best.json").read_text())
    assert saved["f1_mean"] == again["f1_mean"]
    assert np.sum(saved["confusion"]) == 5
    assert reference_metrics(workdir, folder, "latest") == {name: results["last"][name] for name in metrics.NAMES}


def test_train_leaves_a_finished_run_and_refuses_another(trained, config, tmp_path, monkeypatch):
    workdir, results = shutil.copytree(trained[0], tmp_path / "run"), trained[1]
    monkeypatch.delattr(train, "create_train_state")  # no weights are drawn for a run that has some
    assert train.train_and_evaluate(config, workdir) == results
    config.optimizer.learning_rate = 0.1
    with pytest.raises(UserError, match=r"these differ: optimizer.learning_rate \(0.00125 before, 0.1 now\)"):
        train.train_and_evaluate(config, workdir)


def test_train_refuses_other_data_in_the_same_workdir(trained, config, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    config.data.manual_dir = str(write_folder(tmp_path / "other", per_split=(("train", 16), ("val", 5))))
    with pytest.raises(UserError, match=r"these differ: data of the run.lists "):
        train.train_and_evaluate(config, workdir)
    fewer = write_folder(tmp_path / "fewer", per_split=(("train", 4), ("val", 4)), names=("nodding", "waving"))
    config.data.manual_dir = str(fewer)
    with pytest.raises(UserError, match="has other classes or emotions than the model"):
        evaluate.evaluate_checkpoint(workdir, "latest", config=config)


def test_train_stops_when_it_diverges(config, tmp_path):
    config.optimizer.learning_rate = 1e30
    config.optimizer.clip_norm = 0.0
    config.num_epochs = 8.0
    config.eval.every_epochs = 8.0
    with pytest.raises(step_meter.NonFiniteLossError) as error:
        train.train_and_evaluate(config, tmp_path)
    assert "at step 1 the loss is" in str(error.value)  # the first update already overflows, its own loss does not
    assert "there is no checkpoint yet" in str(error.value)
    assert checkpoint.Checkpoints(tmp_path).step("latest") is None


def test_train_keeps_the_last_good_checkpoint(config, tmp_path, monkeypatch):
    config.num_epochs = 4.0
    real = train.create_step

    def create_step(*arguments, **options):
        step = real(*arguments, **options)

        def break_at_step_3(state, batch):
            state, values = step(state, batch)
            return state, values | {"loss": jnp.where(state.step == 3, jnp.nan, values["loss"])}

        return break_at_step_3

    monkeypatch.setattr(train, "create_step", create_step)
    with pytest.raises(step_meter.NonFiniteLossError, match=r"at step 3 the loss is nan(.|\n)*checkpoint is of step 2"):
        train.train_and_evaluate(config, tmp_path)
    assert checkpoint.Checkpoints(tmp_path).step("latest") == 2
    assert manet_jax.load_model(tmp_path, "latest").metadata.data["training clips"] == 12


def test_train_needs_the_labels_of_the_evaluated_split(config, tmp_path):
    config.eval.split = "test"
    with pytest.raises(UserError, match="has no split 'test'"):
        train.train_and_evaluate(config, tmp_path)
    root = write_folder(tmp_path / "data", per_split=(("train", 8), ("val", 1), ("test", 3)))
    config.data.manual_dir = str(root)
    config.num_epochs = 0.5
    with pytest.raises(UserError, match="the labels of split 'test' are hidden"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()  # before the run, not after its first epochs


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("点头", "挥手", "摸鼻子"), r"has no vector for any word of '点头', '挥手', '摸鼻子'\."),
        (("walk 1", "sit", "walk 2"), r"these labels get the same vector: 'walk 1' = 'walk 2'\."),
    ],
)
def test_train_checks_the_label_vectors_before_the_build(config, tmp_path, names, message):
    root = write_folder(tmp_path / "data", per_split=(("train", 8), ("val", 2)), names=names)
    config.data.manual_dir = str(root)
    with pytest.raises(UserError, match=f"label_vectors: .*{message} Set --config.label_vectors=random "):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (root / "tfds").exists()


@pytest.mark.parametrize(
    ("names", "fields"),
    [
        (("walk", "catch", "sit"), {}),
        (("点头", "挥手", "摸鼻子"), {"label_vectors": "random"}),
    ],
    ids=["english", "random"],
)
def test_train_takes_own_class_names(config, tmp_path, names, fields):
    config.data.manual_dir = str(write_folder(tmp_path / "data", per_split=(("train", 8), ("val", 4)), names=names))
    config.num_epochs = 1.0
    config.update_from_flattened_dict(fields)
    train.train_and_evaluate(config, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["joint_embedding"] > 0
    assert manet_jax.load_model(tmp_path / "run").labels.names == names


@pytest.mark.parametrize("name", ["best", "latest"])
def test_load_model_reports_a_workdir_without_checkpoints(tmp_path, name):
    with pytest.raises(UserError, match=f"checkpoints/{name} holds no checkpoint: give the workdir of a"):
        manet_jax.load_model(tmp_path, name)
    with pytest.raises(UserError, match="there is no checkpoint 'newest'; choose one of best, latest"):
        manet_jax.load_model(tmp_path, "newest")


def test_eval_step_does_not_count_padding():
    graphdef, _ = abstract_variables(model())
    mesh = parallel.make_mesh(8)
    variables = create_variables(model(), 0, parallel.replicated(mesh))
    apply = functools.partial(evaluate.eval_step, graphdef=graphdef, outputs=("logits", "embedding"))
    step = parallel.map_step(apply, mesh, "shard_map")
    batch = make_batch(0, size=16) | {"index": np.arange(16)[::-1]}
    padded = {key: np.concatenate([value[:8], value[:8] * 0 + 1]) for key, value in batch.items()}
    padded["index"][8:] = -1
    first = {key: value[:8] for key, value in batch.items()}
    first, padded = (evaluate.collect([step(variables, parallel.shard_batch(b, mesh))]) for b in (first, padded))
    np.testing.assert_allclose(first.outputs["logits"], padded.outputs["logits"], rtol=1e-5, atol=1e-7)
    # In the order of the index, which here is the reverse.
    np.testing.assert_array_equal(first.targets["label"], batch["label"][:8][::-1])
    np.testing.assert_array_equal(padded.targets["label"], batch["label"][:8][::-1])


def test_train_deletes_an_unknown_best_checkpoint(config, tmp_path):
    config.num_epochs = 1.0
    config.data.builder_config = "original"  # which trains too
    first = train.train_and_evaluate(config, tmp_path)
    assert first["last"]["step"] == 2
    checkpoints = checkpoint.Checkpoints(tmp_path)
    # Killed between the two saves of a later evaluation: a best checkpoint that the latest one does not refer to.
    metadata = checkpoints.metadata("best")
    checkpoints.save("best", 99, {"model": {"params": jnp.zeros(1)}}, metadata)
    checkpoints.close()
    assert train.train_and_evaluate(config, tmp_path) == first
    assert checkpoint.Checkpoints(tmp_path).step("best") == first["best"]["step"]


def test_train_reports_a_workdir_that_cannot_be_made(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir: .*/file/run cannot be made or written \(Not a directory\)"):
        train.train_and_evaluate(config, tmp_path / "file" / "run")


def test_compute_metrics_counts_the_target_among_five():
    logits = np.tile(np.arange(7, dtype=np.float32), (4, 1))
    predictions = evaluate.Predictions({"logits": logits}, {"label": np.array([0, 1, 2, 6])})
    seven = [tasks.SingleLabel(labels.LabelSet(tuple("abcdefg"), ("all",), (0,) * 7))]
    values = evaluate.compute_metrics(predictions, seven)
    assert values["action_top5"] == 2 / 4  # the logits rise with the class: 2..6 are among the first five
    assert evaluate.compute_confusions(predictions, seven)["confusion"][:, 6].tolist() == [1, 1, 1, 0, 0, 0, 1]
    nats = [math.log(sum(math.exp(i) for i in range(7))) - label for label in (0, 1, 2, 6)]
    assert values["cross_entropy"] == pytest.approx(sum(nats) / 4, rel=1e-5)


def test_checkpoint_records_its_origin(trained):
    workdir, results = trained
    model = manet_jax.load_model(workdir)
    assert model.labels.names == ("nodding", "waving", "tiptoe")
    assert model.metadata.config["optimizer"]["learning_rate"] == 0.00125
    assert model.metadata.versions["jax"] == jax.__version__
    assert model.metadata.best["step"] == results["best"]["step"]
    assert model.metadata.step == results["best"]["step"]
    assert {field.name for field in dataclasses.fields(model)} == {"network", "metadata"}
