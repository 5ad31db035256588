"""The real commands; `manet_jax.studies.faults` kills them many times."""

import contextlib
import random
import re
import shutil
import signal
import sys
import time
import zipfile

import numpy as np
import pytest
from helpers import ROOT, write_clip, write_folder

import manet_jax
from configs import ma52
from manet_jax import metrics
from manet_jax.data.dataset import open_dataset
from manet_jax.studies.small_runs import (
    command,
    evaluations,
    has_checkpoint,
    losses,
    run,
    start,
    start_two,
    variables,
    wait_until,
)
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_NAMES

MAIN = (sys.executable, "-m", "manet_jax.main")


@pytest.fixture(scope="module", autouse=True)
def project_folder():
    with contextlib.chdir(ROOT):
        yield


@pytest.fixture(scope="module")
def run_main(run_command):
    """Runs the command with some flags."""
    return lambda *flags: run_command([*MAIN, *flags])


# 60 steps of 8 clips: passes end inside batches; a checkpoint after every second step. They take some seconds, for JAX
# looks for SIGTERM once a second.
FIELDS = {"num_epochs": 40.0, "eval.every_epochs": 10.0, "checkpoint_every_steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return write_folder(root, per_split=(("train", 12), ("val", 4)), names=MA52_NAMES[:6])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory, run_command):
    """A run that was left alone: its workdir and its result."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run_command(command(workdir, data, **FIELDS), num_devices=2)


def test_main_trains_and_evaluates_the_papers_config(whole, run_main, tmp_path):
    workdir, result = whole
    assert result.returncode == 0, result.stderr
    assert len(losses(workdir)) == 60
    assert "Traceback" not in result.stderr
    assert "clips/s, loss" in result.stderr

    table = result.stdout.splitlines()[-10:]
    assert re.fullmatch(r" +best \(step (15|30|45|60)\) +last \(step 60\)", table[0])
    assert [line.split()[0] for line in table[1:]] == list(metrics.RECOGNITION_NAMES)
    flags = ["--mode=evaluate", "--workdir", str(workdir), "--submission", str(tmp_path / "val.zip")]
    again = run_main(*flags)
    assert again.returncode == 0, again.stderr
    assert f"{tmp_path}/val.zip: 4 clips of split val" in again.stderr
    assert zipfile.is_zipfile(tmp_path / "val.zip")
    report = workdir / "report_val_best" / "report.html"
    assert f"report: {report}" in again.stderr
    assert report.exists()
    assert [line.split()[1] for line in again.stdout.splitlines()[-9:]] == [line.split()[1] for line in table[1:]]
    assert (workdir / "evaluation_val_best.json").exists()


def test_main_resumes_bit_identically_after_a_kill_and_a_stop(whole, data, tmp_path):
    """One process, killed; two processes, asked to stop; one process: together the same as one that was left alone."""
    workdir, (expected, result) = tmp_path / "stopped", whole
    process = start(command(workdir, data, **FIELDS), num_devices=2)
    wait_until(lambda: has_checkpoint(workdir), process)
    # Any moment from the first checkpoint on: in the middle of a step, an evaluation, or another checkpoint.
    delay = random.uniform(0, 0.3)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"

    done = len(losses(workdir))
    two = start_two(command(workdir, data, **FIELDS), tmp_path)
    wait_until(lambda: len(losses(workdir)) > done + 2, *two)
    two[1].send_signal(signal.SIGTERM)  # one hears of it, both stop after the same step
    assert [process.wait(120) for process in two] == [0, 0], delay
    first, second = ((tmp_path / f"messages.{i}").read_text() for i in range(2))
    step = int(re.search(r"manet_jax: stopped as asked, with step (\d+) of 60 done and saved; the same", first)[1])
    assert "resuming from step" in first
    assert "manet_jax" not in second  # one set of messages
    assert losses(workdir) == losses(expected)[:step]

    resumed = run(command(workdir, data, **FIELDS), num_devices=2)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming from step {step} in" in resumed.stderr
    assert losses(workdir) == losses(expected)
    for left, right in zip(variables(workdir), variables(expected), strict=True):
        np.testing.assert_array_equal(left, right)
    assert resumed.stdout.splitlines()[-9:] == result.stdout.splitlines()[-9:]
    assert evaluations(workdir) == evaluations(expected)


def test_main_trains_on_a_hand_written_annotation_file(run_command, run_main, tmp_path):
    words = ("nodding;touching nose", "waving", "9", "shaking legs; nodding", "tiptoe")
    rows = ["video,labels,emotion,split"]
    for i in range(9):
        write_clip(tmp_path / "data" / f"my clip {i}.mp4", seed=i, height=50 + 2 * i, width=80 - 2 * i)
        rows.append(f"my clip {i}.mp4,{words[i % 5]},{('joy', 'fear')[i % 2]},{'val' if i > 6 else 'train'}")
    (tmp_path / "data" / "annotations.csv").write_text("\n".join(rows))
    fields = {"num_epochs": 2.0, "batch_size": 7}
    result = run_command(
        command(tmp_path / "run", tmp_path / "data", config="configs/ma52_pro.py:micro_action", **fields)
    )
    assert result.returncode == 0, result.stderr
    assert {"map", "threshold", "emotion_accuracy", "f1_head"} <= {
        row.split()[0] for row in result.stdout.splitlines()[1:]
    }
    assert manet_jax.load_model(tmp_path / "run").emotions == ("fear", "joy")

    (tmp_path / "data" / "annotations.csv").write_text("\n".join([*rows, "gone.mp4,noding,,train", rows[1]]))
    again = command(tmp_path / "other", tmp_path / "data", config="configs/ma52_pro.py", **fields)
    result = run_main(*again[len(MAIN) :], f"--config.data.data_dir={tmp_path / 'other'}")
    assert result.returncode == 2
    assert "unknown label 'noding'; did you mean 'nodding'?" in result.stderr
    assert "my clip 0.mp4 is listed more than once" in result.stderr
    assert "Traceback" not in result.stderr


def test_main_without_data_explains_how_to_get_them(run_main, tmp_path):
    arguments = ["--config", "configs/ma52.py", "--workdir", tmp_path]
    default = ma52.get_config().data.manual_dir
    missing = [] if not (ROOT / default).exists() else [f"--config.data.manual_dir={default}_"]
    result = run_main(*arguments, *missing)
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
        (["--config.data.short_side=3"], "--config has no field short_side\n"),
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
        (
            ["--config=configs/ablation.py:x"],
            "configs/ablation.py has no arm 'x'; name one of single_frame, tsn, tsn_se, tsn_embedding,",
        ),
        (["--config=configs/ma52_synthetic.py:x"], "has no optimiser 'x'; name one of muon, sgd after a colon"),
        (["--config.seed=-1"], "config.seed is -1; it must be at least 0"),
        (["--workdir="], "--workdir is missing: give a folder for logs and checkpoints"),
        (["--submission=x.zip"], "--submission is written by --mode=evaluate, from the workdir of a training run"),
        (
            ["--submission=/none/x.zip", "--mode=evaluate"],
            "--submission: /none/x.zip cannot be written; give a file in",
        ),
        (["--workdir=x"], "an ensemble is for --mode=evaluate: train each model by itself, with one --workdir"),
        (["--weights=1"], "an ensemble is for --mode=evaluate: train each model by itself, with one --workdir"),
        (["--weights=1", "--mode=evaluate"], "an ensemble has two models or more, but there is one workdir: give the"),
        (["--workdir=x", "--weights=2;1", "--mode=evaluate"], "weights is 2;1; give numbers with commas between"),
        (["--splits=val"], "--splits is for --mode=evaluate of one model, without --submission"),
        (["--splits=val", "--mode=evaluate", "--workdir=x"], "--splits is for --mode=evaluate of one model, without"),
        (["--config=configs/annotated.py:x"], "has no network 'x'; name one of full, small after a colon"),
        (["--config=configs/mma82.py:x"], "configs/mma82.py has no arm 'x'; name one of manet, gc_tsm after a colon"),
        (["--submission_format=2025"], "flag --submission_format=2025: value should be one of <current|2024>"),
    ],
)
def test_main_refuses_wrong_flags_in_one_sentence(run_main, tmp_path, flags, message):
    result = run_main("--config", "configs/ma52.py", "--workdir", tmp_path, *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_main_reports_a_config_that_cannot_be_loaded(run_main, tmp_path):
    path = tmp_path / "my config.py"
    path.write_text("def get_config(:\n")
    result = run_main("--config", path, "--workdir", tmp_path)
    assert result.returncode == 2
    assert f"--config {path} cannot be loaded" in result.stderr
    assert "Traceback" not in result.stderr


def test_main_without_config_suggests_the_one_without_data(run_main, tmp_path):
    result = run_main("--workdir", tmp_path)
    assert result.returncode == 2
    assert "--config is missing: try --config configs/ma52_synthetic.py" in result.stderr


def test_main_draws_builds_and_trains_without_data(run_command, drawn, tmp_path):
    # Drawing the set was stopped: 8 of its clips are left to draw.
    shutil.copytree(drawn, tmp_path / "data")
    lost = sorted((tmp_path / "data" / "train").iterdir())[:8]
    for path in (tmp_path / "data" / "label_name.txt", *lost):
        path.unlink()
    fields = {"data.synthetic.size": 1e-6, "data.synthetic.short_side": 40, "data.synthetic.subjects": "disjoint"}
    fields |= {"num_epochs": 1.0, "batch_size": 26, "eval.batch_size": 26, "data.builder_config": "original"}
    fields |= {"data.synthetic.frame_rate": 30}
    config = "configs/ma52_synthetic.py"
    result = run_command(command(tmp_path / "run", tmp_path / "data", "--report", config=config, **fields))
    assert result.returncode == 0, result.stderr
    assert len(losses(tmp_path / "run")) == 2
    assert all(path.read_bytes() == (drawn / "train" / path.name).read_bytes() for path in lost)
    assert len(list((tmp_path / "data" / "train").glob("*.mp4"))) == 52
    assert "f1_mean" in result.stdout
    report = tmp_path / "run" / "report_val_best" / "report.html"
    assert report.exists()
    assert result.stderr.splitlines()[-3:] == [
        f"report: {report}",
        f"try: python -m manet_jax.predict --workdir {tmp_path}/run VIDEO",
        f"     python -m manet_jax.main --mode=evaluate --workdir {tmp_path}/run --submission val.zip",
    ]
    assert "nodding" in manet_jax.load_model(tmp_path / "run").labels.names

    # What the command has drawn is not drawn again.
    build = {"manual_dir": str(tmp_path / "data"), "config": "original"}
    settings = {"size": 1e-6, "pro": False, "subjects": "disjoint", "short_side": 40, "frame_rate": 30, "seed": 0}
    dataset = open_dataset(build, settings)
    assert dataset.labels.names[9] == "nodding"
    assert dataset.labels.group_names[dataset.labels.groups[9]] == "head"
    assert len(dataset.source("train")) == len(dataset.source("val")) == 52
    with pytest.raises(UserError, match=r"has no split 'test'; it has train, val"):
        dataset.source("test")
    assert open_dataset(build, settings).fingerprint == dataset.fingerprint


def test_importing_the_package_starts_no_jax():
    code = "import sys, manet_jax; assert 'jax' not in sys.modules; manet_jax.load_model; assert 'jax' in sys.modules"
    assert run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        manet_jax.nothing  # noqa: B018
