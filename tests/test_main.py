import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile

import jax
import numpy as np
import pytest
from helpers import ROOT, write_clip, write_folder

import manet_jax
from configs import ma52
from manet_jax import metrics
from manet_jax.models.variables import split_variables
from tfds_ma52.labels import MA52_NAMES

SMALL = {
    "clip.short_side": 40,
    "clip.crop_size": 32,
    "clip.num_frames": 4,
    "model.depth": 14,
    "model.width": 8,
    "batch_size": 8,
    "eval.batch_size": 8,
    "log_every_steps": 1,
}


def command(workdir, manual_dir, *flags, config="configs/ma52.py", **fields):
    options = SMALL | {"data.manual_dir": manual_dir} | fields
    overrides = [f"--config.{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "manet_jax.main", "--config", config, "--workdir", str(workdir), *overrides, *flags]


def environment(num_devices):
    return os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}"}


def run(arguments, num_devices=1):
    return subprocess.run(
        arguments, cwd=ROOT, env=environment(num_devices), capture_output=True, text=True, check=False
    )


def log(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(workdir):
    return [line["loss"] for line in log(workdir) if "loss" in line]


def evaluations(workdir):
    return [line for line in log(workdir) if "loss" not in line]


def variables(workdir):
    return jax.device_get(jax.tree.leaves(split_variables(manet_jax.load_model(workdir, "latest").network)[1]))


def test_the_papers_config_trains_on_a_folder_of_40_clips(tmp_path):
    root = write_folder(tmp_path / "data", per_split=(("train", 32), ("val", 8)), names=MA52_NAMES[:6])
    result = run(command(tmp_path / "run", root, num_epochs=1.0), num_devices=8)
    assert result.returncode == 0, result.stderr
    assert len(losses(tmp_path / "run")) == 4
    assert "Traceback" not in result.stderr
    assert "clips/s, loss" in result.stderr

    table = result.stdout.splitlines()[-9:]
    assert re.fullmatch(r" +best \(step 4\) +last \(step 4\)", table[0])
    assert [line.split()[0] for line in table[1:]] == list(metrics.NAMES)
    flags = ["--mode=evaluate", "--workdir", str(tmp_path / "run"), "--submission", str(tmp_path / "val.zip")]
    again = run([*command(tmp_path / "run", root)[:3], *flags])
    assert again.returncode == 0, again.stderr
    assert f"{tmp_path}/val.zip: 8 clips of split val" in again.stderr
    assert zipfile.is_zipfile(tmp_path / "val.zip")
    report = tmp_path / "run" / "report_val_best" / "report.html"
    assert f"report: {report}" in again.stderr
    assert report.exists()
    assert [line.split()[1] for line in again.stdout.splitlines()[-8:]] == [line.split()[1] for line in table[1:]]
    assert (tmp_path / "run" / "evaluation_val_best.json").exists()


def start(arguments, num_devices=1, messages=pathlib.Path(os.devnull)):
    with messages.open("w") as file:
        return subprocess.Popen(
            arguments, cwd=ROOT, env=environment(num_devices), stdout=subprocess.DEVNULL, stderr=file
        )


def start_two(arguments, folder):
    """Two processes of one run, with one device each; their messages go to two files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--coordinator={address}", "--num_processes=2"]
    return [start([*arguments, *flags, f"--process_id={i}"], messages=folder / f"messages.{i}") for i in range(2)]


def wait_until(condition, *processes, seconds=120):
    """Waits for a condition while some processes run."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), "it ended too early"
        time.sleep(0.005)


def has_checkpoint(workdir):
    return any(path.name.isdecimal() for path in (workdir / "checkpoints" / "latest").glob("*"))


def test_a_run_that_is_killed_and_stopped_ends_as_if_it_had_not_been(tmp_path):
    """One process, killed; two processes, asked to stop; one process: together the same as one that was left alone."""
    root = write_folder(tmp_path / "data", per_split=(("train", 12), ("val", 4)))
    # 60 steps of 8 clips: passes end inside batches; a checkpoint after every second step.
    fields = {"num_epochs": 40.0, "eval.every_epochs": 10.0, "checkpoint_every_steps": 2}
    whole = run(command(tmp_path / "whole", root, **fields), num_devices=2)
    assert whole.returncode == 0, whole.stderr

    workdir = tmp_path / "stopped"
    process = start(command(workdir, root, **fields), num_devices=2)
    wait_until(lambda: has_checkpoint(workdir), process)
    # Any moment from the first checkpoint on: in the middle of a step, an evaluation, or another checkpoint.
    delay = random.uniform(0, 0.3)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"

    done = len(losses(workdir))
    two = start_two(command(workdir, root, **fields), tmp_path)
    wait_until(lambda: len(losses(workdir)) > done + 2, *two)
    two[1].send_signal(signal.SIGTERM)  # one hears of it, both stop after the same step
    assert [process.wait(120) for process in two] == [0, 0], delay
    first, second = ((tmp_path / f"messages.{i}").read_text() for i in range(2))
    step = int(re.search(r"manet_jax: stopped as asked, with step (\d+) of 60 done and saved; the same", first)[1])
    assert "resuming from step" in first
    assert "manet_jax" not in second  # one set of messages
    assert losses(workdir) == losses(tmp_path / "whole")[:step]

    resumed = run(command(workdir, root, **fields), num_devices=2)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming from step {step} in" in resumed.stderr
    assert losses(workdir) == losses(tmp_path / "whole")
    for left, right in zip(variables(workdir), variables(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(left, right)
    assert resumed.stdout.splitlines()[-9:] == whole.stdout.splitlines()[-9:]
    assert evaluations(workdir) == evaluations(tmp_path / "whole")


def test_a_hand_written_annotation_file_trains(tmp_path):
    words = ("nodding;touching nose", "waving", "9", "shaking legs; nodding", "tiptoe")
    rows = ["video,labels,emotion,split"]
    for i in range(9):
        write_clip(tmp_path / "data" / f"my clip {i}.mp4", seed=i, height=50 + 2 * i, width=80 - 2 * i)
        rows.append(f"my clip {i}.mp4,{words[i % 5]},{('joy', 'fear')[i % 2]},{'val' if i > 6 else 'train'}")
    (tmp_path / "data" / "annotations.csv").write_text("\n".join(rows))
    fields = {"num_epochs": 2.0, "batch_size": 7, "emotion.clip.short_side": 40, "emotion.clip.crop_size": 32}
    fields |= {"emotion.model.depth": 14, "emotion.model.width": 8}
    result = run(command(tmp_path / "run", tmp_path / "data", config="configs/ma52_pro.py:fused", **fields))
    assert result.returncode == 0, result.stderr
    assert {"map", "threshold", "emotion_accuracy", "f1_head"} <= {
        row.split()[0] for row in result.stdout.splitlines()[1:]
    }
    assert manet_jax.load_model(tmp_path / "run").emotions == ("fear", "joy")

    (tmp_path / "data" / "annotations.csv").write_text("\n".join([*rows, "gone.mp4,noding,,train", rows[1]]))
    again = [*command(tmp_path / "other", tmp_path / "data", config="configs/ma52_pro.py", **fields)]
    result = run([*again, f"--config.data.data_dir={tmp_path / 'other'}"])
    assert result.returncode == 2
    assert "unknown label 'noding'; did you mean 'nodding'?" in result.stderr
    assert "my clip 0.mp4 is listed more than once" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_data_one_paragraph_says_how_to_get_them(tmp_path):
    arguments = [sys.executable, "-m", "manet_jax.main", "--config", "configs/ma52.py", "--workdir", str(tmp_path)]
    default = ma52.get_config().data.manual_dir
    result = run(arguments if not (ROOT / default).exists() else [*arguments, f"--config.data.manual_dir={default}_"])
    assert result.returncode == 2
    (paragraph,) = result.stderr.splitlines()
    for part in (
        f"There is no folder {default}",
        "https://github.com/VUT-HFUT/Micro-Action",
        "--config.data.manual_dir",
        "{train,val,test}_list_videos.txt",
        "--config configs/ma52_synthetic.py",
    ):
        assert part in paragraph
    assert not result.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.dept=50"], "--config has no field dept; did you mean depth?"),
        (["--config.modle.depth=50"], "--config has no field modle; did you mean model?"),
        (["--config.batch_size=many"], "--config.batch_size=many: invalid literal for int() with base 10: 'many'"),
        (["--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
        (["--mode=test"], "flag --mode=test: value should be one of <train|evaluate>"),
        (["train"], "unexpected argument 'train'; flags start with --"),
        (["--config", "configs/none.py"], "--config: there is no file configs/none.py; those of the project"),
        (
            ["--config", "configs/none.py", "--config.seed=1"],
            "--config: there is no file configs/none.py; those of the project",
        ),
        (["--config=configs/no such.py"], "--config: there is no file configs/no such.py; those of the project"),
        (["--config=configs/ablation.py:x"], "configs/ablation.py has no arm 'x'; name one of single_frame, tsn, tsm,"),
        (["--config.seed=-1"], "config.seed is -1; it must be at least 0"),
        (["--workdir="], "--workdir is missing: give a folder for logs and checkpoints"),
        (["--submission=x.zip"], "--submission is written by --mode=evaluate, from the workdir of a training run"),
        (
            ["--submission=/none/x.zip", "--mode=evaluate"],
            "--submission: /none/x.zip cannot be written; give a file in",
        ),
        (["--submission_format=2025"], "flag --submission_format=2025: value should be one of <current|2024>"),
    ],
)
def test_wrong_flags_are_one_sentence(tmp_path, flags, message):
    arguments = [sys.executable, "-m", "manet_jax.main", "--config", "configs/ma52.py", "--workdir", str(tmp_path)]
    result = run([*arguments, *flags])
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_a_config_that_cannot_be_loaded_is_named(tmp_path):
    path = tmp_path / "my config.py"
    path.write_text("def get_config(:\n")
    result = run([sys.executable, "-m", "manet_jax.main", "--config", str(path), "--workdir", str(tmp_path)])
    assert result.returncode == 2
    assert f"--config {path} cannot be loaded" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_first_run_in_small(tmp_path):
    fields = {"data.synthetic.size": 1e-6, "data.synthetic.short_side": 48}
    fields |= {"num_epochs": 1.0, "batch_size": 26, "eval.batch_size": 26, "data.builder_config": "original"}
    config = "configs/ma52_synthetic.py"
    result = run(command(tmp_path / "run", tmp_path / "data", config=config, **fields))
    assert result.returncode == 0, result.stderr
    assert len(losses(tmp_path / "run")) == 2
    assert len(list((tmp_path / "data" / "train").glob("*.mp4"))) == 52
    assert "f1_mean" in result.stdout
    assert "nodding" in manet_jax.load_model(tmp_path / "run").labels.names


def test_without_config_the_one_that_needs_no_data_is_named(tmp_path):
    result = run([sys.executable, "-m", "manet_jax.main", "--workdir", str(tmp_path)])
    assert result.returncode == 2
    assert "--config is missing: try --config configs/ma52_synthetic.py" in result.stderr


def test_importing_the_package_starts_no_jax():
    code = "import sys, manet_jax; assert 'jax' not in sys.modules; manet_jax.load_model; assert 'jax' in sys.modules"
    assert run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        manet_jax.nothing  # noqa: B018
