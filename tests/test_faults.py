"""Failing machines, disks and files; `test_main` kills whole runs, `manet_jax.studies.faults` does so many times."""

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import resource
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from helpers import ROOT, outcome, shrink

import manet_jax
from configs import ma52
from manet_jax import checkpoint, configuration, distributed, train
from manet_jax.data import clips
from manet_jax.models import ModelSpec
from manet_jax.models.manet import MANetOptions
from manet_jax.models.variables import split_variables
from manet_jax.run_metadata import FORMAT, RunMetadata
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52

METADATA = RunMetadata(model=ModelSpec("manet", MANetOptions.tiny()), labels=MA52)


def variables(workdir):
    return jax.tree.leaves(split_variables(manet_jax.load_model(workdir, "latest").network)[1])


def test_workdir_records_its_origin(trained, folder):
    workdir, _ = trained
    found = json.loads((workdir / "run.json").read_text())
    assert found["config"]["data"]["manual_dir"] == str(folder)
    assert found["versions"].keys() >= {"manet_jax", "jax", "flax", "python"}
    assert found["data"]["training clips"] == 12
    assert len(found["data"]["lists"]) >= 16
    (path,) = (workdir / "checkpoints" / "best").glob("*/metadata/metadata")
    in_checkpoint = json.loads(path.read_text())
    assert {name: in_checkpoint[name] for name in ("format", "commit", "data", "versions")} == {
        name: found[name] for name in ("format", "commit", "data", "versions")
    }
    assert found["format"] == FORMAT
    metadata = manet_jax.load_model(workdir).metadata
    assert {name: getattr(metadata, name) for name in ("commit", "data", "versions")} == {
        name: found[name] for name in ("commit", "data", "versions")
    }


def test_checkpoints_survive_a_full_disk(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    values = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32)
    checkpoints.save("latest", 1, {"model": {"x": jax.numpy.asarray(values)}}, METADATA)
    checkpoints.close()
    checkpoints = checkpoint.Checkpoints(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        checkpoints.save("latest", 2, {"model": {"x": jax.numpy.asarray(values + 1)}}, METADATA)
        with pytest.raises(checkpoint.CheckpointError, match=r"cannot be written to .*checkpoints \(File too large\)"):
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.step("latest") == 1
        like = {"model": {"x": jax.numpy.zeros((300, 400))}}
        np.testing.assert_array_equal(checkpoints.restore("latest", like)["model"]["x"], values)
        checkpoints.save("latest", 2, {"model": {"x": jax.numpy.asarray(values + 1)}}, METADATA)
    assert checkpoint.Checkpoints(tmp_path).step("latest") == 2


def files_of_the_model():
    """Names of the parts of a checkpoint, without the random names of its data files."""
    return ["metadata/metadata", "model/_METADATA", "model/manifest.ocdbt", "model/d/*", "model/ocdbt.process_0/d/*"]


# The reads of Orbax that are left when one of its files has failed ends in a loop that is closed by then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("part", files_of_the_model())
def test_load_model_reports_damage_or_reads_the_same(trained, tmp_path, part):
    workdir, _ = trained
    expected, reported = variables(workdir), 0
    (folder,) = (workdir / "checkpoints" / "latest").glob("[0-9]*")
    files = sorted(folder.glob(part))
    assert files
    for file in files:
        damaged = tmp_path / file.name
        shutil.copytree(workdir, damaged)
        target = damaged / file.relative_to(workdir)
        target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
        found, error = outcome(lambda damaged=damaged: variables(damaged))
        if error:
            assert "checkpoints/latest/3 cannot be read (" in error
            reported += 1
        else:  # a part that only the optimiser's state or nothing needs
            for left, right in zip(found, expected, strict=True):
                np.testing.assert_array_equal(left, right)
    assert reported


def test_load_model_waits_for_reads_beside_a_failed_one(trained, tmp_path):
    """Otherwise each would print a stack trace beside the sentence that reports the fault."""
    shutil.copytree(trained[0], tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/*/model/**/d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for _ in range(3):
        with pytest.raises(UserError, match="cannot be read"):
            variables(tmp_path / "run")
        assert not [each for each in gc.get_objects() if issubclass(type(each), asyncio.Task) and not each.done()]


def rewrite_metadata(workdir, tmp_path, **values):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    for path in copy.glob("checkpoints/*/*/metadata/metadata"):
        found = json.loads(path.read_text()) | values
        path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))
    return copy


def test_load_model_needs_no_commit_and_refuses_later_formats(trained, tmp_path):
    without_commit = rewrite_metadata(trained[0], tmp_path / "before", commit=None)
    for left, right in zip(variables(without_commit), variables(trained[0]), strict=True):
        np.testing.assert_array_equal(left, right)
    later = rewrite_metadata(trained[0], tmp_path / "later", format=FORMAT + 1)
    with pytest.raises(UserError, match=r"was written by a later version of manet_jax \(format 3, this one reads up"):
        manet_jax.load_model(later)


@pytest.fixture
def built(trained, folder, tmp_path):
    """A copy of the built set, and the file of its training clips."""
    shutil.copytree(folder, tmp_path / "data")
    (path,) = (tmp_path / "data" / "tfds" / "ma52" / "h264_256").rglob("*-train.array_record*")
    config = shrink(ma52.get_config(), tmp_path / "data")
    return configuration.parse(config).data.open(), path


def read_all(dataset):
    source = dataset.source("train")
    return [dict(source[i]) for i in range(12)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95, None])
def test_source_reports_a_cut_file(built, share):
    dataset, path = built
    content = path.read_bytes()
    path.unlink()
    if share is not None:
        path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"split 'train' of .* cannot be read \(.*\): its files are damaged; build the"):
        read_all(dataset)


def test_source_reports_flipped_bytes_or_reads_the_same(built):
    dataset, path = built
    whole, rng, reported = bytearray(path.read_bytes()), np.random.default_rng(0), 0
    expected = read_all(dataset)
    used = len(bytes(whole).rstrip(b"\0"))
    for offset in rng.integers(used, size=40):
        damaged = whole.copy()
        damaged[offset] ^= 0x10
        path.write_bytes(damaged)
        found, error = outcome(lambda: read_all(dataset))
        if error:
            assert "its files are damaged" in error
            reported += 1
        else:
            assert [example["video"] for example in found] == [example["video"] for example in expected]
            assert [example["label"] for example in found] == [example["label"] for example in expected]
    assert reported


def test_train_ends_when_a_reading_thread_dies(config, tmp_path, monkeypatch):
    calls = []

    def fail(*arguments, **options):
        calls.append(1)
        if len(calls) > 20:
            for _ in range(600):  # a checkpoint is written beside the training
                if checkpoint.Checkpoints(tmp_path).step("latest"):
                    break
                time.sleep(0.1)
            raise OSError("no more of it")
        return real(*arguments, **options)

    real = clips.train_clip
    monkeypatch.setattr(clips, "train_clip", fail)
    config.num_epochs = 8.0
    with pytest.raises(OSError, match="no more of it"):
        train.train_and_evaluate(config, tmp_path)
    assert checkpoint.Checkpoints(tmp_path).step("latest") >= 1


def test_train_refuses_a_workdir_in_use(config, tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=f"--workdir: {tmp_path} is in use by another run: wait until that"):
            train.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_train_stops_on_request_and_resumes_bit_identically(number, trained, config, tmp_path, monkeypatch):
    workdir, expected = trained
    config.checkpoint_every_steps = 100
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    write = train.MetricWriter.write

    def ask(self, step, values):
        write(self, step, values)
        if step == 1:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(train.MetricWriter, "write", ask)
        with pytest.raises(train.StoppedError, match="stopped as asked, with step 2 of 3 done and saved"):
            train.train_and_evaluate(config, tmp_path / "run")
    assert checkpoint.Checkpoints(tmp_path / "run").step("latest") == 2
    assert train.train_and_evaluate(config, tmp_path / "run") == expected
    for left, right in zip(variables(tmp_path / "run"), variables(workdir), strict=True):
        np.testing.assert_array_equal(left, right)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert before[0] == signal.SIG_DFL


def test_second_interrupt_ends_at_once():
    before = signal.getsignal(signal.SIGINT)
    with distributed.stop_on_request() as should_stop:
        assert not should_stop(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert should_stop(2)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(
    "arguments", [{"coordinator": "127.0.0.1:1"}, {"num_processes": 2}, {"coordinator": "a:1", "process_id": 0}]
)
def test_join_needs_all_flags_of_several_processes(arguments):
    with pytest.raises(UserError, match="--coordinator, --num_processes and --process_id go together"):
        distributed.join(**arguments)


def test_assert_same_on_all_reports_differences(monkeypatch):
    def gather(mine):
        return np.stack([mine, mine + np.array([0, 1], np.uint32)])

    distributed.assert_same_on_all(config="a", data="b")
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", gather)
    with pytest.raises(UserError, match="the processes of this run differ in their data: give all of them the same"):
        distributed.assert_same_on_all(config="a", data="b")


def test_join_notices_a_launcher(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: asked.append(arguments))
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    distributed.join()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    distributed.join()
    assert asked == []
    monkeypatch.setenv("SLURM_NTASKS", "4")
    distributed.join()
    distributed.join("host:1", 2, 1)
    assert asked == [(None, None, None), ("host:1", 2, 1)]


def test_sources_load_no_pickle():
    sources = [path for folder in ("manet_jax", "tfds_ma52") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 40
    for path in sources:
        text = path.read_text()
        assert "import pickle" not in text
        assert "allow_pickle=True" not in text
        assert "torch.load(" not in text or "weights_only=True" in text
