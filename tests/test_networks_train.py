"""Every network over one clip trains: by the command, with a falling loss, resumed, and on any number of devices."""

import dataclasses
import functools
import sys

import jax
import numpy as np
import optax
import pytest
from checkpoints import read_checkpoint
from helpers import shrink

from configs import ma52
from manet_jax import optimizers, parallel, tasks, train, train_step
from manet_jax.models import MODELS, ModelSpec, NetworkOptions
from manet_jax.studies.small_runs import losses
from tfds_ma52.encoding import encode_h264
from tfds_ma52.labels import LabelSet

backbones = pytest.mark.parametrize(
    "name", [name for name in MODELS if issubclass(MODELS[name].Options, NetworkOptions)]
)
LABELS = LabelSet(("a", "b", "c"), ("a", "b", "c"), (0, 1, 2))


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
    """A run of a small network of a name: an epoch is a step of 8 clips."""
    options = dataclasses.asdict(MODELS[name].Options.tiny())
    clip = options.pop("clip")
    decided = ("num_classes", "embedding_dim")  # by the data
    config = shrink(ma52.get_config(), folder)
    config.model = {"name": name, "embedding": False, **{k: v for k, v in options.items() if k not in decided}}
    config.clip.update({field: clip[field] for field in config.clip})
    config.schedule.decay_epochs = ()
    return config


@backbones
def test_network_trains_by_the_command_and_resumes_bit_identically(name, coloured, tmp_path, run_command, monkeypatch):
    config = make_config(name, coloured)
    config.num_epochs, config.eval.every_epochs, config.checkpoint_every_steps = 20.0, 10.0, 1000
    config.model.dropout, config.optimizer.learning_rate, config.sync_batch_norm = 0.1, 0.02, True
    (tmp_path / "config.py").write_text(
        "import json\nimport ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict(json.loads('''{config.to_json_best_effort()}'''))\n"
    )
    command = [
        sys.executable,
        "-m",
        "manet_jax.main",
        "--config",
        tmp_path / "config.py",
        "--workdir",
        tmp_path / "run",
    ]
    result = run_command(command, num_devices=8)
    assert result.returncode == 0, result.stderr
    loss = losses(tmp_path / "run")
    assert len(loss) == 20
    assert np.mean(loss[-5:]) < 0.5 * np.mean(loss[:5]), loss

    class StopError(Exception):
        pass

    def stop(*arguments):
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(train.evaluate, "compute_metrics", stop)
        with pytest.raises(StopError):
            train.train_and_evaluate(config, tmp_path / "parts")
    assert len(losses(tmp_path / "parts")) == 10
    train.train_and_evaluate(config, tmp_path / "parts")
    assert losses(tmp_path / "parts") == loss
    whole, parts = (read_checkpoint(tmp_path / each, "latest")[0] for each in ("run", "parts"))
    assert whole.keys() == parts.keys()
    for path, value in whole.items():
        np.testing.assert_array_equal(value, parts[path])


@functools.cache
def run_steps(name, num_devices):
    """Losses, gradient norms and final parameters of two steps of a small network, with all that is random."""
    options = MODELS[name].Options.tiny()
    random = {"drop_path": 0.5} if hasattr(options, "drop_path") else {}
    spec = ModelSpec(name, dataclasses.replace(options, embedding_dim=0, **random))
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(0.01),
        momentum=0.9,
        weight_decay=1e-4,
        clip_norm=20.0,
        head_lr_multiplier=5.0,
        head="last",
    )
    graphdef, state = train_step.create_train_state(spec, optimizer, seed=0)
    mesh, task = parallel.make_mesh(num_devices), tasks.SingleLabel(LABELS)
    step = train_step.create_step(graphdef, optimizer, [task], mesh, seed=0, sync_batch_norm=True)
    rng, clip, values = np.random.default_rng(0), spec.options.clip, []
    state = parallel.replicate(state, mesh)
    for _ in range(2):
        video = rng.integers(0, 256, (8, clip.num_frames, clip.crop_size, clip.crop_size, 3), np.uint8)
        batch = {"video": video, "label": np.arange(8, dtype=np.int32) % 3}
        state, metrics = step(state, parallel.shard_batch(batch, mesh))
        values += [float(metrics["loss"]), float(metrics["grad_norm"])]
    return values, jax.device_get(state.params)


@backbones
def test_network_trains_on_8_devices_as_on_one(name):
    (many, params), (one, params_of_one) = run_steps(name, 8), run_steps(name, 1)
    assert many == pytest.approx(one, rel=1e-3)
    for ours, reference in zip(*map(jax.tree.leaves, (params, params_of_one)), strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-4 * max(1, np.abs(reference).max()))
