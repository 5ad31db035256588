"""Training: the loop over steps, with evaluation, logs and checkpoints."""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import tqdm
from jaxtyping import Array, PyTree

from manet_jax import checkpoint as checkpoint_lib
from manet_jax import configuration, evaluate, hosts, input_pipeline, losses, nets, optimizers, parallel
from manet_jax.label_embeddings import load_label_vectors
from manet_jax.metric_writer import MetricWriter
from manet_jax.train_state import TrainState, create_train_state, train_step
from tfds_ma52.errors import UserError

_log = logging.getLogger(__name__)

_RUN_FILE = "run.json"  # what a checkpoint says of itself, to be read without Orbax


class NonFiniteLossError(Exception):
    """The training has diverged; the text names the step and the last good checkpoint."""


class StoppedError(Exception):
    """The training was asked to stop, and has saved its state; the text names the step."""


@dataclasses.dataclass(frozen=True)
class Durations:
    """The lengths of a training in steps; the config gives them in epochs."""

    total: int
    evaluate: tuple[int, ...]
    warmup: int
    decay: tuple[int, ...]


def durations(config: ml_collections.ConfigDict, num_clips: int) -> Durations:
    """Turns epochs into steps; an epoch is num_clips / batch_size steps, which need not be a whole number."""

    def steps(epochs: float) -> int:
        return round(epochs * num_clips / config.batch_size)

    total = max(1, steps(config.num_epochs))
    num_evaluations = math.ceil(config.num_epochs / config.eval.every_epochs)
    evaluations = {min(total, max(1, steps(i * config.eval.every_epochs))) for i in range(1, num_evaluations + 1)}
    return Durations(
        total=total,
        evaluate=tuple(sorted(evaluations | {total})),
        warmup=steps(config.schedule.warmup_epochs),
        decay=tuple(steps(epoch) for epoch in config.schedule.decay_epochs),
    )


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> dict[str, dict[str, float | int]]:
    """Trains as `config` says, or goes on from the latest checkpoint in `workdir`.

    Writes run.json, metrics.jsonl, tensorboard/ and checkpoints/ in `workdir`.

    Returns:
      The metrics of the best and of the last evaluation.

    Raises:
      UserError: config, data or workdir do not allow the run.
      NonFiniteLossError: the training has diverged.
      StoppedError: SIGTERM came; the step at work was finished, and its state saved.
      checkpoint.CheckpointError: a checkpoint could not be written.
    """
    configuration.check(config)
    workdir = pathlib.Path(workdir).expanduser()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock(workdir))
        checkpoints = stack.enter_context(contextlib.closing(checkpoint_lib.Checkpoints(workdir)))
        _check_start(checkpoints, config, workdir)
        run, state = _prepare(config)
        _check_processes(run.metadata, workdir)
        if checkpoints.step("latest") is not None:
            state = _restore(checkpoints, state, run.metadata, workdir)
        else:
            state = _initialize(state, run, config)
        start, total = int(state.step), run.lengths.total
        size = nets.count_parameters(state.params)
        _log.info("%d parameters, %d of %d steps done, %d devices", size, start, total, run.mesh.size)
        if hosts.is_first():
            (workdir / _RUN_FILE).write_text(json.dumps(run.metadata, indent=2) + "\n")
        batches = stack.enter_context(contextlib.closing(iter(_train_batches(config, run, start))))
        writer = stack.enter_context(contextlib.closing(MetricWriter(workdir, start)))
        bar = stack.enter_context(
            tqdm.tqdm(
                total=total,
                initial=start,
                desc="training",
                unit="step",
                dynamic_ncols=True,
                disable=not hosts.is_first(),
            )
        )
        should_stop = stack.enter_context(hosts.stop_on_request())
        _train(config, run, state, batches, checkpoints, writer, bar, should_stop)
    return {"best": run.metadata["best"], "last": run.metadata["last"]}


@contextlib.contextmanager
def _lock(workdir: pathlib.Path) -> Iterator[None]:
    """Makes a workdir, and keeps other runs out of it."""
    refused = ""
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            try:
                workdir.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((workdir / ".lock").open("w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused = "is in use by another run: wait until that has ended, or name another folder"
            except OSError as error:
                refused = f"cannot be made or written ({error.strerror}); name another folder"
        if hosts.from_first(bool(refused)):
            raise UserError(f"--workdir: {workdir} {refused or 'is refused by the first process'}")
        yield


def _check_processes(metadata: dict[str, Any], workdir: pathlib.Path) -> None:
    """Checks that all processes of a run are about the same thing."""
    facts = {name: json.dumps(metadata[name]) for name in ("config", "data", "versions")}
    hosts.check_agreement(**facts, workdir=str((workdir / ".lock").exists()))


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a training consists of, beside its state.

    Attributes:
      mesh: the devices.
      source: random access to the training clips.
      lengths: in steps.
      schedule: the learning rate.
      step: `train_step` over all devices.
      evaluate: from `evaluate.create_evaluation`.
      metadata: what a checkpoint says of the run; `best` and `last` hold evaluations.
    """

    mesh: jax.sharding.Mesh
    source: input_pipeline.Source
    lengths: Durations
    schedule: optax.Schedule
    step: Callable
    evaluate: Callable
    metadata: dict[str, Any]


def _prepare(config: ml_collections.ConfigDict) -> tuple[_Run, TrainState]:
    """Opens the data and makes all that a run needs; the state is fresh, on all devices."""
    mesh = parallel.make_mesh()
    parallel.check_batch_size("batch_size", config.batch_size, mesh)
    parallel.check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
    dataset = input_pipeline.open_dataset(**configuration.data_arguments(config))
    source = dataset.source("train")
    lengths = durations(config, len(source))
    configuration.check_emotions(config, dataset.emotions, str(dataset.builder.data_dir))
    needs_vectors = config.model.embedding and config.emotion.form != "appearance"
    vectors = load_label_vectors(config.label_vectors, dataset.labels.names) if needs_vectors else None
    model_options = configuration.model_options(config, dataset.labels, vectors, len(dataset.emotions))
    evaluate.check_labels(dataset, config.eval.split, model_options)
    optimizer, schedule = _create_optimizer(config, lengths)
    graphdef, state = create_train_state(model_options, optimizer, config.seed)
    objective = functools.partial(
        losses.objective,
        label_vectors=vectors,
        embedding_weight=config.embedding_weight,
        multilabel_loss=config.multilabel.loss,
        positive_weights=dataset.positive_weights() if dataset.multilabel else None,
        emotion_weight=config.emotion.weight,
    )
    step = functools.partial(
        train_step,
        graphdef=graphdef,
        optimizer=optimizer,
        objective=objective,
        seed=config.seed,
        sync_batch_norm=config.sync_batch_norm,
        frozen=configuration.frozen_part(config),
    )
    metadata = {
        "format": checkpoint_lib.FORMAT,
        "config": config.to_dict(),
        "model": model_options,
        "labels": dataclasses.asdict(dataset.labels),
        "multilabel": dataset.multilabel,
        "emotions": list(dataset.emotions),
        # What the numbers of a run hang on beside its config.
        "data": {
            "lists": dataset.fingerprint,
            "training clips": len(source),
            "label vectors": None if vectors is None else hashlib.sha256(vectors.tobytes()).hexdigest()[:16],
        },
        "versions": checkpoint_lib.versions(),
        "commit": checkpoint_lib.commit(),
        "initialized_from": None,
        "best": None,
        "last": None,
    }
    run = _Run(
        mesh=mesh,
        source=source,
        lengths=lengths,
        schedule=schedule,
        step=parallel.map_step(step, mesh, config.parallel, donate_state=True),
        evaluate=evaluate.create_evaluation(
            graphdef, dataset, mesh, **configuration.evaluation_arguments(config, config)
        ),
        metadata=metadata,
    )
    return run, parallel.replicate(state, mesh)


def _train_batches(config: ml_collections.ConfigDict, run: _Run, start: int) -> grain.IterDataset:
    batches = input_pipeline.train_batches(
        run.source,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start,
        crop_scales=tuple(config.data.crop_scales),
        crop_middle=config.data.crop_middle,
        **configuration.view_arguments(config),
        **configuration.reading_arguments(config),
    )
    return input_pipeline.to_devices(batches, run.mesh, config.data.prefetch_batches)


def _train(
    config: ml_collections.ConfigDict,
    run: _Run,
    state: TrainState,
    batches: Iterator[dict[str, Array]],
    checkpoints: checkpoint_lib.Checkpoints,
    writer: MetricWriter,
    bar: tqdm.tqdm,
    should_stop: Callable[[int], bool],
) -> None:
    """The loop from the state's step to the last."""
    meter = _Meter(config.batch_size)
    for step in range(int(state.step) + 1, run.lengths.total + 1):
        state, metrics = run.step(state, meter.wait_for(batches))
        meter.add(metrics)
        bar.update()
        evaluating, stopping = step in run.lengths.evaluate, should_stop(step)
        saving = evaluating or stopping or step % config.checkpoint_every_steps == 0
        if saving or step % config.log_every_steps == 0:
            values = meter.read(step, checkpoints.step("latest"))
            writer.write(step, {"learning_rate": float(run.schedule(step - 1)), **values})
            bar.set_postfix_str(f"{values['clips_per_second']:.0f} clips/s, loss {values['loss']:.3f}")
        if evaluating:
            predictions = run.evaluate({"params": state.params, "batch_stats": state.batch_stats})
            scores = evaluate.score(predictions, checkpoint_lib.labels_of(run.metadata))
            _record(scores, step, run.metadata, writer, bar)
            if run.metadata["best"]["step"] == step:
                checkpoints.save("best", step, _trees(state, "model"), run.metadata)
        if saving:
            checkpoints.save("latest", step, _trees(state, "model", "optimizer"), run.metadata)
            meter.restart()  # neither evaluating nor saving is training time
        if stopping and step < run.lengths.total:
            raise StoppedError(f"stopped as asked, with step {step} of {run.lengths.total} done and saved")


def _create_optimizer(
    config: ml_collections.ConfigDict, lengths: Durations
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    schedule = optimizers.create_schedule(
        config.schedule.name,
        learning_rate=config.optimizer.learning_rate,
        total_steps=lengths.total,
        warmup_steps=lengths.warmup,
        decay_steps=lengths.decay,
        decay_factor=config.schedule.decay_factor,
    )
    options = {name: value for name, value in config.optimizer.items() if name != "learning_rate"}
    return optimizers.create_optimizer(schedule, **options, frozen=configuration.frozen_part(config)), schedule


def _trees(state: TrainState, *names: str) -> dict[str, PyTree]:
    trees = {"model": {"params": state.params, "batch_stats": state.batch_stats}, "optimizer": state.opt_state}
    return {name: trees[name] for name in names}


def _check_start(checkpoints: checkpoint_lib.Checkpoints, config: ml_collections.ConfigDict, workdir: pathlib.Path):
    """Checks what a run starts from, before the data take their time."""
    if checkpoints.step("latest") is not None:
        return
    if checkpoints.step("best") is not None and "source" in checkpoints.metadata("best"):
        raise UserError(
            f"--workdir: {workdir} holds weights that manet_jax.pretrained converted; train in another folder, from "
            f"them with --config.init_from={workdir}"
        )
    for field, source in (("init_from", config.init_from), ("emotion.appearance_from", config.emotion.appearance_from)):
        if source:
            checkpoint_lib.check_source(field, source)


def _initialize(state: TrainState, run: _Run, config: ml_collections.ConfigDict) -> TrainState:
    """Returns a fresh state with other checkpoints' weights; the run notes where they come from."""
    form, sources = config.emotion.form, {}
    if config.init_from:
        sources[{"": "", "appearance": "appearance"}.get(form, "micro_actions")] = config.init_from
    if config.emotion.appearance_from:
        sources["appearance"] = config.emotion.appearance_from
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    labels, sharding = checkpoint_lib.labels_of(run.metadata), parallel.replicated(run.mesh)
    for part, source in sources.items():
        variables, origin = checkpoint_lib.initialize(variables, source, labels, sharding, part=part)
        run.metadata["initialized_from"] = (run.metadata["initialized_from"] or []) + [origin]
    return dataclasses.replace(state, **variables)


def _restore(
    checkpoints: checkpoint_lib.Checkpoints, state: TrainState, metadata: dict[str, Any], workdir: pathlib.Path
) -> TrainState:
    """Returns the latest checkpoint's state, with the placement of `state`; updates what the run knows of itself."""
    step, earlier = checkpoints.step("latest"), checkpoints.metadata("latest")
    changed = configuration.changes(*({"data of the run": of["data"], **of["config"]} for of in (earlier, metadata)))
    if changed:
        raise UserError(
            f"{workdir} holds a run that this one cannot go on from; these differ: {'; '.join(changed)}. Use the "
            "config and data of that run, or another --workdir."
        )
    metadata.update({name: earlier[name] for name in ("best", "last", "initialized_from")})
    checkpoints.delete_other("best", earlier["best"] and earlier["best"]["step"])  # saved after the latest one
    restored = checkpoints.restore("latest", _trees(state, "model", "optimizer"))
    _log.info("going on from step %d in %s", step, workdir)
    step_array = jax.device_put(jnp.full_like(state.step, step), state.step.sharding)
    return TrainState(step=step_array, **restored["model"], opt_state=restored["optimizer"])


def _record(
    scores: dict[str, float], step: int, metadata: dict[str, Any], writer: MetricWriter, bar: tqdm.tqdm
) -> None:
    """Logs an evaluation and keeps it if it is the best so far."""
    writer.write(step, {f"eval_{name}": value for name, value in scores.items()})
    metadata["last"] = {"step": step, **scores}
    name = evaluate.main_figure(scores)
    # A figure that is not a number, for want of clips, is no reason to keep a checkpoint.
    if metadata["best"] is None or not scores[name] <= metadata["best"][name]:
        metadata["best"] = metadata["last"]
    if hosts.is_first():
        bar.write(f"step {step}: {evaluate.format_summary(scores)}", file=sys.stderr)


class _Meter:
    """Collects what the steps since the last reading returned, and how long they and their data took."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Starts a new interval now."""
        self._pending, self._waited, self._start = [], 0.0, time.perf_counter()

    def wait_for(self, batches: Iterator[dict[str, Array]]) -> dict[str, Array]:
        """Returns the next batch."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def add(self, metrics: dict[str, Array]) -> None:
        """Keeps a step's metrics on the devices, so that the step need not be waited for."""
        self._pending.append(metrics)
        # Two steps ahead keep the devices busy; more would only hold the memory of their batches.
        jax.block_until_ready(self._pending[:-2][-1:])

    def read(self, step: int, last_good: int | None) -> dict[str, float]:
        """Returns means over the steps since the last reading, which ends at `step`, and starts a new interval.

        Raises:
          NonFiniteLossError: a loss was not a finite number.
        """
        pending = jax.device_get(self._pending)
        for number, metrics in enumerate(pending, step - len(pending) + 1):
            if not np.isfinite([metrics["loss"], metrics["grad_norm"], metrics["param_norm"]]).all():
                kept = f"the last good checkpoint is of step {last_good}" if last_good else "there is no checkpoint yet"
                raise NonFiniteLossError(
                    f"the training has diverged: at step {number} the loss is {metrics['loss']}, the gradient's norm "
                    f"{metrics['grad_norm']}, the parameters' norm {metrics['param_norm']}; {kept}. Lower "
                    "--config.optimizer.learning_rate or add --config.schedule.warmup_epochs, with another --workdir."
                )
        seconds = time.perf_counter() - self._start
        means = {name: float(np.mean([metrics[name] for metrics in pending])) for name in pending[0]}
        timing = {
            "clips_per_second": len(pending) * self._batch_size / seconds,
            "data_wait_share": self._waited / seconds,
        }
        self.restart()
        return means | timing
