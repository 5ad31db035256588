"""A batch that does not fit into memory. The errors are JAX's own: it is asked for 2^50 bytes."""

import re
import shutil
import types

import jax
import jax.numpy as jnp
import pytest

from benchmarks import memory as memory_benchmark
from manet_jax import checkpoint, evaluate, memory, train
from manet_jax.data import clips
from manet_jax.models import ClipSpec
from manet_jax.studies.small_runs import command
from tfds_ma52.errors import UserError

EXHAUSTED = "a batch of 8 clips does not fit into memory (RESOURCE_EXHAUSTED: Out of memory allocating"
TRAINING = (
    "set a smaller --config.batch_size, or --config.model.remat=True, with which a run resumes, as it does not with "
    "another batch size; python -m benchmarks.memory --models NAME prints a network's largest batches at full size"
)


def exhaust(*_):
    return jnp.zeros(1 << 50, jnp.uint8)


def test_training_that_exhausts_memory_keeps_its_checkpoint_and_resumes(config, trained, tmp_path, monkeypatch):
    create_step = train.create_step

    def create_failing_step(*arguments, **options):
        step, batches = create_step(*arguments, **options), []

        def run(state, batch):
            batches.append(batch)
            return step(state, batch) if len(batches) < 3 else exhaust()

        return run

    with monkeypatch.context() as patch:
        patch.setattr(train, "create_step", create_failing_step)
        with pytest.raises(UserError) as raised:
            train.train_and_evaluate(config, tmp_path)
    assert str(raised.value).startswith(EXHAUSTED)
    assert str(raised.value).endswith(f" bytes): {TRAINING}")
    assert checkpoint.read_model(tmp_path, "latest").metadata.step == 2
    assert train.train_and_evaluate(config, tmp_path) == trained[1]


def test_evaluation_that_exhausts_memory_blames_its_own_batch(config, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "collect", exhaust)
    sentence = re.escape(EXHAUSTED) + r" \d+ bytes\): set a smaller --config\.eval\.batch_size$"
    with pytest.raises(UserError, match=sentence):
        evaluate.evaluate_checkpoint(trained[0])
    with pytest.raises(UserError, match=sentence):  # in training
        train.train_and_evaluate(config, tmp_path)


def test_a_clip_that_the_host_has_no_memory_for_is_the_same_error(config, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(clips, "train_clip", fail)
    with pytest.raises(
        UserError, match=r"a batch of 8 clips does not fit into memory \(no more is left\): set a small"
    ):
        train.train_and_evaluate(config, tmp_path)


def test_other_errors_stay_as_they_are():
    error = jax.errors.JaxRuntimeError("INTERNAL: a fault of the compiler")
    with pytest.raises(jax.errors.JaxRuntimeError) as raised, memory.batch_must_fit("--batch_size", 1, {}):
        raise error
    assert raised.value is error


def test_clips_as_large_as_the_memory_are_read_and_larger_ones_refused(monkeypatch):
    sizes = {"short_side": 40, "crop_size": 32}
    inputs = {"video": ClipSpec(num_frames=1, **sizes), "appearance": ClipSpec(num_frames=2, **sizes)}
    # A clip has 3 frames of 32 x 32 x 3 bytes, 9,216 bytes.
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PHYS_PAGES": 9_216, "SC_PAGE_SIZE": 1_000_000}.get)
    with memory.batch_must_fit("--batch_size", 1_000_000, inputs):
        pass
    with (
        pytest.raises(
            UserError, match=r"\(the frames take 18 GB of this machine's 9 GB\): set a smaller --batch_size$"
        ),
        memory.batch_must_fit("--batch_size", 2_000_000, inputs),
    ):
        pass


def test_an_absurd_batch_ends_the_command_with_one_sentence(folder, trained, run_command, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    done = run_command(command(tmp_path / "run", folder, "--mode=evaluate", **{"eval.batch_size": 8 * 10**9}))
    assert done.returncode == 2, done.stderr
    sentence = (
        "manet_jax: a batch of 8000000000 clips does not fit into memory (the frames take 98304 GB of this machine's"
    )
    assert done.stderr.splitlines()[-1].startswith(sentence)
    assert "Traceback" not in done.stderr


class Compiled:
    """A compiled step of 4 clips."""

    def cost_analysis(self):
        return {"bytes accessed": 819e9, "flops": 788e12}

    def memory_analysis(self):
        return types.SimpleNamespace(temp_size_in_bytes=8e9)


def test_traffic_is_that_of_a_clip_at_the_devices_rates():
    asked = []
    row = memory_benchmark.traffic(lambda num_clips: asked.append(num_clips) or Compiled(), 4, "TPU v5 lite")
    assert asked == [4]
    # A quarter of a second's bytes (819 GB), and a second's operations (197 TFLOP).
    times = {"ms for the bytes": 250.0, "ms for the operations": 1000.0}
    assert row == pytest.approx({"GB": 204.75, "GFLOP": 197_000.0, **times, "MB of temporaries": 2000.0})
    unknown = memory_benchmark.traffic(lambda _: Compiled(), 4, "cpu")
    assert unknown["GB"] == row["GB"]
    assert unknown["ms for the bytes"] is unknown["ms for the operations"] is None
