"""Training: the loop over steps, with evaluation, logs and checkpoints."""

import contextlib
import dataclasses
import fcntl
import functools
import json
import logging
import math
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
import optax
import tqdm
from jaxtyping import Array, Int, PyTree

from manet_jax import configuration, distributed, evaluate, memory, optimizers, parallel, progress, warm_start
from manet_jax import tasks as tasks_lib
from manet_jax.checkpoint import Checkpoints
from manet_jax.configuration import Configuration
from manet_jax.data import input_pipeline
from manet_jax.data.class_sampling import ClassSampling
from manet_jax.data.dataset import Dataset, JoinedSource
from manet_jax.label_vectors import digest, load_label_vectors
from manet_jax.long_tail import LongTail
from manet_jax.metric_writer import MetricWriter
from manet_jax.models import ModelSpec
from manet_jax.models.variables import Variables, abstract_variables, count_parameters
from manet_jax.run_metadata import FORMAT, RunMetadata
from manet_jax.step_meter import StepMeter
from manet_jax.train_step import TrainState, abstract_trees, create_step, create_train_state
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically
from tfds_ma52.labels import LabelSet

_log = logging.getLogger(__name__)

_RUN_FILE = "run.json"  # the metadata of the run's checkpoints, to be read without Orbax


class StoppedError(Exception):
    """The training run was asked to stop, and has saved its state; the text gives the step."""


@dataclasses.dataclass(frozen=True)
class StepCounts:
    """The durations of a training run in steps; the config gives them in epochs."""

    total: int
    evaluate: tuple[int, ...]
    warmup: int
    decay: tuple[int, ...]


def count_steps(config: Configuration, num_clips: int) -> StepCounts:
    """Turns epochs into steps; an epoch is num_clips / batch_size steps, which need not be a whole number."""

    def steps(epochs: float) -> int:
        return round(epochs * num_clips / config.batch_size)

    total = max(1, steps(config.num_epochs))
    num_evaluations = math.ceil(config.num_epochs / config.eval.every_epochs)
    evaluations = {min(total, max(1, steps(i * config.eval.every_epochs))) for i in range(1, num_evaluations + 1)}
    return StepCounts(
        total=total,
        evaluate=tuple(sorted(evaluations | {total})),
        warmup=steps(config.schedule.warmup_epochs),
        decay=tuple(steps(epoch) for epoch in config.schedule.decay_epochs),
    )


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> dict[str, dict[str, float | int]]:
    """Trains with `config`, or resumes from the latest checkpoint in `workdir`.

    Writes run.json, metrics.jsonl, tensorboard/ and checkpoints/ in `workdir`.

    Returns:
      The metrics of the `best` and of the `last` evaluation.

    Raises:
      UserError: config, data or workdir do not allow the run.
      step_meter.NonFiniteLossError: the training run has diverged.
      StoppedError: SIGTERM came; the step in progress was finished, and its state saved.
      checkpoint.CheckpointError: a checkpoint could not be written.
    """
    parsed = configuration.parse(config)
    workdir = pathlib.Path(workdir).expanduser()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock(workdir))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir)))
        _check_start(checkpoints, parsed, workdir)
        run, metadata = _prepare(parsed)
        _check_processes(metadata, workdir)
        latest, total = checkpoints.step("latest"), run.steps.total
        start = latest or 0
        if latest is None:
            state, metadata = _start(run, metadata)
        else:
            state, metadata = _restore(checkpoints, run, metadata, workdir)
        size = count_parameters(state.params)
        _log.info("%d parameters, %d of %d steps done, %d devices", size, start, total, run.mesh.size)
        if distributed.is_primary():
            write_atomically(workdir / _RUN_FILE, json.dumps(metadata.to_json(), indent=2) + "\n")
        stack.enter_context(_batch_must_fit(run, metadata))
        batches = stack.enter_context(contextlib.closing(iter(_train_batches(run, metadata, start))))
        writer = stack.enter_context(contextlib.closing(MetricWriter(workdir, start)))
        bar = stack.enter_context(progress.bar(total=total, initial=start, desc="training", unit="step"))
        should_stop = stack.enter_context(distributed.stop_on_request())
        metadata = _train(run, state, metadata, batches, checkpoints, writer, bar, should_stop)
    return {"best": metadata.evaluated("best"), "last": metadata.evaluated("latest")}


@contextlib.contextmanager
def _lock(workdir: pathlib.Path) -> Iterator[None]:
    """Makes a workdir, and keeps other runs out of it."""
    refused = ""
    with contextlib.ExitStack() as stack:
        if distributed.is_primary():
            try:
                workdir.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((workdir / ".lock").open("w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused = "is in use by another run: wait until that has ended, or give another folder"
            except OSError as error:
                refused = f"cannot be made or written ({error.strerror}); give another folder"
        if distributed.broadcast_from_primary(bool(refused)):
            raise UserError(f"--workdir: {workdir} {refused or 'is refused by the primary process'}")
        yield


def _check_start(checkpoints: Checkpoints, config: Configuration, workdir: pathlib.Path) -> None:
    """Checks the checkpoints that a run starts from, before the data take their time."""
    if checkpoints.step("latest") is not None:
        if checkpoints.format("latest") < FORMAT:
            raise UserError(
                f"--workdir: {workdir} holds a run of an earlier version of manet_jax, which this one cannot resume; "
                f"train in another folder, from its weights with --config.init_from={workdir}"
            )
        return
    if checkpoints.step("best") is not None and checkpoints.metadata("best").source:
        raise UserError(
            f"--workdir: {workdir} holds weights that manet_jax.pretrained converted; train in another folder, from "
            f"them with --config.init_from={workdir}"
        )
    for source in config.sources:
        source.check()


def _check_processes(metadata: RunMetadata, workdir: pathlib.Path) -> None:
    """Checks that all processes of a run have the same config, data, versions and workdir."""
    facts = {name: json.dumps(getattr(metadata, name)) for name in ("config", "data", "versions")}
    distributed.assert_same_on_all(**facts, workdir=str((workdir / ".lock").exists()))


@dataclasses.dataclass(frozen=True)
class _Run:
    """The parts of a training run, beside its state and its metadata.

    Attributes:
      config: of the run.
      mesh: the devices.
      source: random access to the training clips.
      steps: how many there are, and when what happens.
      schedule: the learning rate.
      optimizer: which follows it.
      step: from `train_step.create_step`.
      evaluate: from `evaluate.create_evaluation`.
    """

    config: Configuration
    mesh: jax.sharding.Mesh
    source: JoinedSource
    steps: StepCounts
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    step: Callable
    evaluate: Callable[[Variables], evaluate.Predictions]


def _prepare(config: Configuration) -> tuple[_Run, RunMetadata]:
    """Opens the data and makes all that a run needs but its state."""
    mesh = parallel.make_mesh()
    parallel.check_batch_size("batch_size", config.batch_size, mesh, config.accumulate)
    parallel.check_batch_size("eval.batch_size", config.eval.batch_size, mesh)

    @functools.cache
    def load_vectors(labels: LabelSet) -> np.ndarray | None:
        return load_label_vectors(config.label_vectors, labels.names) if config.needs_label_vectors else None

    dataset = config.data.open(check_labels=load_vectors)  # what they lack is found before the build, which takes hours
    source = config.data.training_source(dataset)
    config.check_emotions(dataset.emotions, dataset.location)
    config.check_labels(dataset.labels, dataset.multilabel, dataset.location)
    vectors = load_vectors(dataset.labels)
    embedding_dim = 0 if vectors is None else vectors.shape[1]
    model = config.model_spec(dataset.labels, embedding_dim, len(dataset.emotions))
    config.check_batch_norm(model.options.min_clips, mesh.size)
    counts = config.data.training_counts(dataset, source)
    tasks = _create_tasks(config, model, dataset, vectors, counts)
    evaluate.check_targets(dataset, config.eval.split, tasks)
    steps = count_steps(config, len(source) * config.augmentation.repeats)
    optimizer, schedule = _create_optimizer(config, steps, model)
    graphdef, _ = abstract_variables(model)
    metadata = RunMetadata(
        model=model,
        labels=dataset.labels,
        multilabel=dataset.multilabel,
        emotions=dataset.emotions,
        config=config.raw,
        data={
            "lists": dataset.fingerprint,
            "training clips": len(source),
            "label vectors": None if vectors is None else digest(vectors),
            **config.data.recorded_list(counts),
        },
    )
    step = create_step(
        graphdef,
        optimizer,
        tasks,
        mesh,
        seed=config.seed,
        mapping=config.parallel,
        sync_batch_norm=config.sync_batch_norm,
        frozen_module=config.frozen_module,
        mixing=config.mixing,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
    )
    evaluation = evaluate.create_evaluation(graphdef, dataset, mesh, metadata, config)
    return _Run(config, mesh, source, steps, schedule, optimizer, step, evaluation), metadata


def _create_tasks(
    config: Configuration,
    model: ModelSpec,
    dataset: Dataset,
    vectors: np.ndarray | None,
    counts: Int[np.ndarray, " n"],
) -> tuple[tasks_lib.Task, ...]:
    return tasks_lib.create_tasks(
        model,
        dataset.labels,
        dataset.emotions,
        multilabel=dataset.multilabel,
        loss_name=config.multilabel.loss,
        positive_weights=dataset.positive_weights(config.data.train_splits) if dataset.multilabel else None,
        joint_embedding=None if vectors is None else tasks_lib.JointEmbedding(vectors, config.embedding_weight),
        emotion_weight=config.emotion.weight if config.emotion else 1.0,
        label_smoothing=config.label_smoothing,
        long_tail=LongTail(config.class_balance, config.body_groups, counts),
    )


def _create_optimizer(
    config: Configuration, steps: StepCounts, model: ModelSpec
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    schedule = optimizers.create_schedule(
        config.schedule.name,
        learning_rate=config.optimizer.learning_rate,
        total_steps=steps.total,
        warmup_steps=steps.warmup,
        decay_steps=steps.decay,
        decay_factor=config.schedule.decay_factor,
    )
    settings: dict[str, Any] = dataclasses.asdict(config.optimizer)
    del settings["learning_rate"]  # the schedule has it
    layers = model.options.layers if config.optimizer.layer_decay != 1 else ()
    optimizer = optimizers.create_optimizer(schedule, **settings, layers=layers, frozen_module=config.frozen_module)
    return optimizer, jax.jit(schedule)  # for the log; operation by operation it compiles 15 programs


def _train_batches(run: _Run, metadata: RunMetadata, start: int) -> grain.IterDataset:
    exponent = run.config.class_balance.sampling
    sampling = None if exponent == 1 else ClassSampling(run.source.labels(), exponent)
    batches = input_pipeline.train_batches(
        run.source,
        metadata.model.options.inputs,
        batch_size=run.config.batch_size,
        seed=run.config.seed,
        start_step=start,
        reading=run.config.data.reading,
        augmentation=run.config.augmentation,
        sampling=sampling,
    )
    return input_pipeline.to_devices(batches, run.mesh, run.config.data.prefetch_batches)


def _batch_must_fit(run: _Run, metadata: RunMetadata) -> contextlib.AbstractContextManager[None]:
    remedy = (
        "--config.model.remat=True, with which a run resumes, as it does not with another batch size; "
        "python -m benchmarks.memory --models NAME prints a network's largest batches at full size"
    )
    inputs = metadata.model.options.inputs
    return memory.batch_must_fit("--config.batch_size", run.config.batch_size, inputs, remedy=remedy)


def _train(
    run: _Run,
    state: TrainState,
    metadata: RunMetadata,
    batches: Iterator[dict[str, Array]],
    checkpoints: Checkpoints,
    writer: MetricWriter,
    bar: tqdm.tqdm,
    should_stop: Callable[[int], bool],
) -> RunMetadata:
    """Runs the loop from the state's step to the last; returns the metadata with the last evaluation."""
    meter = StepMeter(run.config.batch_size)
    for step in range(int(state.step) + 1, run.steps.total + 1):
        state, metrics = run.step(state, meter.wait_for(batches))
        meter.add(metrics)
        bar.update()
        evaluating, stopping = step in run.steps.evaluate, should_stop(step)
        saving = evaluating or stopping or step % run.config.checkpoint_every_steps == 0
        if saving or step % run.config.log_every_steps == 0:
            values = meter.read(step, checkpoints.step("latest"))
            writer.write(step, {"learning_rate": float(np.asarray(run.schedule(step - 1))), **values})
            bar.set_postfix_str(f"{values['clips_per_second']:.0f} clips/s, loss {values['loss']:.3f}", refresh=False)
        if evaluating:
            metadata = _record(run.evaluate(state.variables), step, metadata, writer, bar)
            if metadata.evaluated("best")["step"] == step:
                checkpoints.save("best", step, {"model": state.variables}, metadata)
        if saving:
            checkpoints.save("latest", step, _trees(state), metadata)
            meter.restart()  # neither evaluating nor saving is training time
        if stopping and step < run.steps.total:
            raise StoppedError(f"stopped as asked, with step {step} of {run.steps.total} done and saved")
    return metadata


def _trees(state: TrainState) -> dict[str, PyTree]:
    """What a run resumes from; `params` are those in training, where the model's are their mean."""
    trees = {"model": state.variables, "optimizer": state.opt_state}
    return trees if state.mean_params is None else trees | {"params": state.params}


def _start(run: _Run, metadata: RunMetadata) -> tuple[TrainState, RunMetadata]:
    """Returns a fresh state, with other checkpoints' weights if there are any, and the metadata with their origins."""
    state = create_train_state(metadata.model, run.optimizer, run.config.seed, run.mesh)
    variables, origins = state.variables, []
    for source in run.config.sources:
        variables, origin = warm_start.warm_start(
            variables, source, metadata.labels, parallel.replicated(run.mesh), metadata.model
        )
        origins.append(dataclasses.asdict(origin))
    if run.config.ema_decay:
        state = dataclasses.replace(state, mean_params=parallel.replicate(variables["params"], run.mesh))
    return dataclasses.replace(state, **variables), dataclasses.replace(metadata, initialized_from=tuple(origins))


def _restore(
    checkpoints: Checkpoints, run: _Run, metadata: RunMetadata, workdir: pathlib.Path
) -> tuple[TrainState, RunMetadata]:
    """Returns the latest checkpoint's state, on all devices, and the metadata with its evaluations."""
    earlier = checkpoints.metadata("latest")
    changed = configuration.changes(*({"data of the run": of.data, **of.config} for of in (earlier, metadata)))
    if changed:
        raise UserError(
            f"{workdir} holds a run that this one cannot resume; these differ: {'; '.join(changed)}. Use the config "
            "and data of that run, or another --workdir."
        )
    kept = {name: getattr(earlier, name) for name in ("best", "last", "initialized_from")}
    metadata = dataclasses.replace(metadata, **kept)
    # A best checkpoint that was saved after the latest one is unknown to this run.
    checkpoints.delete_other("best", metadata.evaluated("best").get("step"))
    variables, opt_state = abstract_trees(metadata.model, run.optimizer, run.mesh)
    trees = {"model": variables, "optimizer": opt_state}
    if run.config.ema_decay:
        trees["params"] = variables["params"]
    restored = checkpoints.restore("latest", trees)
    _log.info("resuming from step %d in %s", earlier.step, workdir)
    step = parallel.replicate(np.int32(earlier.step or 0), run.mesh)
    state = TrainState(step=step, **restored["model"], opt_state=restored["optimizer"])
    if run.config.ema_decay:
        state = dataclasses.replace(state, params=restored["params"], mean_params=state.params)
    return state, metadata


def _record(
    predictions: evaluate.Predictions, step: int, metadata: RunMetadata, writer: MetricWriter, bar: tqdm.tqdm
) -> RunMetadata:
    """Logs an evaluation; returns the metadata with it, as the best one too if it is."""
    tasks = metadata.tasks()
    values = evaluate.compute_metrics(predictions, tasks)
    writer.write(step, {f"eval_{name}": value for name, value in values.items()})
    if distributed.is_primary():
        bar.write(f"step {step}: {tasks_lib.format_summary(tasks, values)}", file=sys.stderr)
    last, name = {"step": step, **values}, tasks_lib.primary_metric(tasks)
    # A metric that is not a number, for want of clips, is no reason to keep a checkpoint.
    is_best = metadata.best is None or not values[name] <= metadata.best[name]
    return dataclasses.replace(metadata, last=last, best=last if is_best else metadata.best)
