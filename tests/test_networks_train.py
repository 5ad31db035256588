"""Every network over one clip trains: by the command, with a falling loss, on any number of devices, and resumes."""

import contextlib
import shutil
import sys

import numpy as np
import pytest
from checkpoints import read_checkpoint
from helpers import set_network, shrink, slow_but

import manet_jax
from configs import ma52
from manet_jax import checkpoint, evaluate, train
from manet_jax.checkpoint import Checkpoints, read_model
from manet_jax.studies.small_runs import losses
from tfds_ma52.encoding import encode_h264


@pytest.fixture(scope="session")
def coloured(shared):
    """A data set of 8 training and 3 validation clips of 3 classes, each class of a colour of its own."""

    def write(folder):
        for split, count in (("train", 8), ("val", 3)):
            (folder / split).mkdir(parents=True)
            for i in range(count):
                (folder / split / f"{i}.mp4").write_bytes(draw_clip(i, i % 3))
            lines = "".join(f"{i}.mp4 {i % 3}\n" for i in range(count))
            (folder / f"{split}_list_videos.txt").write_text(lines)
        (folder / "label_name.txt").write_text("0\tred\n1\tgreen\n2\tblue\n")

    return shared("coloured", write)


def draw_clip(seed, colour):
    """The mp4 file of a clip of noise whose channel of a number is bright."""
    frames = np.random.default_rng(seed).integers(0, 60, (12, 48, 64, 3)).astype(np.uint8)
    frames[..., colour] += 150
    return encode_h264(frames, preset="ultrafast")[0]


def make_config(name, folder):
    """A run of 12 steps of a small network, with all that is random in it."""
    config = set_network(shrink(ma52.get_config(), folder), name)
    config.model.update({rate: 0.1 for rate in ("dropout", "drop_path") if rate in config.model})
    config.num_epochs, config.eval.every_epochs, config.checkpoint_every_steps = 12.0, 6.0, 5  # an epoch is a step
    config.schedule.decay_epochs, config.sync_batch_norm = (), True
    config.optimizer.learning_rate = 0.01 if name == "c3d" else 0.02  # C3D has no BatchNorm
    return config


@pytest.fixture
def train_twice(tmp_path, monkeypatch):
    """Trains, and resumes a copy of what the run would have left, killed during its first evaluation, at step 5."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    real_metrics, real_save = evaluate.compute_metrics, Checkpoints.save

    def copy_once(*arguments):
        if not stopped.exists():
            shutil.copytree(whole, stopped)
        return real_metrics(*arguments)

    def save_at_once(checkpoints, name, *arguments):
        real_save(checkpoints, name, *arguments)
        checkpoints._managers[name].wait_until_finished()  # else the copy may come before it

    def run(config):
        monkeypatch.setattr(evaluate, "compute_metrics", copy_once)
        monkeypatch.setattr(Checkpoints, "save", save_at_once)
        train.train_and_evaluate(config, whole)
        assert read_checkpoint(stopped, "latest")[1].step == 5
        train.train_and_evaluate(config, stopped)
        return whole, stopped

    return run


def assert_same_run(ours, theirs):
    """Asserts that two workdirs have the same losses and weights, bit for bit."""
    assert losses(ours) == losses(theirs)
    for name in ("best", "latest"):
        (one, _), (other, _) = (read_checkpoint(workdir, name) for workdir in (ours, theirs))
        assert one.keys() == other.keys()
        for path, value in other.items():
            np.testing.assert_array_equal(one[path], value)


@slow_but("videomae")
def test_network_trains_resumes_and_knows_no_devices(name, coloured, tmp_path, run_command, train_twice):
    # One test a network: what takes long is to compile.
    config = make_config(name, coloured)
    whole, stopped = train_twice(config)
    loss = losses(whole)
    assert len(loss) == 12
    assert np.mean(loss[-4:]) < 0.7 * np.mean(loss[:4]), loss
    assert_same_run(stopped, whole)

    (tmp_path / "config.py").write_text(
        "import json\nimport ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    flags = [f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/one", "--noreport"]
    result = run_command([sys.executable, "-m", "manet_jax.main", *flags], num_devices=1)  # above they are 8
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "one")[:4] == pytest.approx(loss[:4], rel=2e-3)
    assert losses(tmp_path / "one")[-1] == pytest.approx(loss[-1], abs=0.1)


@pytest.mark.slow
def test_a_run_with_mixtures_and_mean_weights_resumes_and_keeps_the_mean(coloured, train_twice):
    config = make_config("timesformer", coloured)
    config.mixing.update(mixup=0.8, cutmix=1.0)
    config.augmentation.update(operations=2, erasing=0.25, repeats=2)
    config.num_epochs, config.eval.every_epochs, config.ema_decay = 4.0, 3.0, 0.9  # an epoch is two steps
    whole, stopped = train_twice(config)
    assert len(losses(whole)) == 8
    assert_same_run(stopped, whole)
    with contextlib.closing(checkpoint.open_to_read(whole, "latest")) as checkpoints:
        saved = read_model(whole, "latest")
        params = checkpoints.restore("latest", {"params": saved.variables["params"]})["params"]
    trained, mean = (each["heads"]["classifier"]["linear"]["kernel"] for each in (params, saved.variables["params"]))
    assert (trained != mean).all()  # what is evaluated is the mean, not what the run goes on with
    again = manet_jax.evaluate_checkpoint(whole).metrics
    assert again["cross_entropy"] == pytest.approx(saved.metadata.best["cross_entropy"], rel=1e-5)
