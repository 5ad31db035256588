"""Applies the faults of real machines to runs, builds and files, many times, and counts how often the promise held.

python -m manet_jax.studies.faults --times 6

Runs are small (60 steps of 8 clips of 32 x 32 pixels) and real commands on the CPU; a fault comes at a random moment.
After each, the same command must end with the losses, metrics and weights of a run that was left alone, bit for bit.
Start it in the project's folder. Needs Linux.
"""

import argparse
import collections
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Container
from typing import Any

import numpy as np
import tqdm

from manet_jax.studies.small_runs import (
    command,
    draw_clip,
    evaluations,
    has_checkpoint,
    losses,
    run,
    start,
    start_two,
    variables,
    wait_until,
    write_data,
)
from tfds_ma52.command import run_command

FIELDS = {"num_epochs": 40.0, "eval.every_epochs": 10.0, "checkpoint_every_steps": 2}
_TABLE = 9  # lines at the end of a run's output


class Scene:
    """The common part of all trials: the data, and a run that was left alone. Every trial gets a folder of its own."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.data = write_data(root / "data", {"train": 12, "val": 4})
        self.whole = root / "whole"
        self.output = self.run(self.whole).stdout.splitlines()[-_TABLE:]

    def command(self, workdir: pathlib.Path) -> list[str]:
        """The command of a run."""
        return command(workdir, self.data, **FIELDS)

    def run(self, workdir: pathlib.Path) -> subprocess.CompletedProcess:
        """Starts a run and waits for its end."""
        result = run(self.command(workdir), num_devices=2)
        assert result.returncode == 0, result.stderr
        return result

    def start(self, folder: pathlib.Path) -> subprocess.Popen:
        """Starts a run and waits for its first checkpoint."""
        process = start(self.command(folder / "run"), num_devices=2, messages=folder / "messages")
        wait_until(lambda: has_checkpoint(folder / "run"), process)
        return process

    @functools.cached_property
    def clips(self) -> pathlib.Path:
        """The data of a build."""
        return write_data(self.root / "clips", {"train": 30, "val": 10})

    @functools.cached_property
    def built(self) -> dict[str, list[dict[str, Any]]]:
        """The records of a build of `clips` that was left alone."""
        result = run([*_build(self.clips), "--data_dir", self.root / "built"])
        assert result.returncode == 0, result.stderr
        return _records(self.root / "built")

    def check_that_it_resumes(self, workdir: pathlib.Path) -> None:
        """Starts a run again, which must end as the one that was left alone."""
        result = self.run(workdir)
        assert "resuming from step" in result.stderr
        assert result.stdout.splitlines()[-_TABLE:] == self.output
        assert losses(workdir) == losses(self.whole)
        assert evaluations(workdir) == evaluations(self.whole)
        for left, right in zip(variables(workdir), variables(self.whole), strict=True):
            np.testing.assert_array_equal(left, right)


def _build(data: pathlib.Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "tfds_ma52", "--manual_dir", str(data), *flags]


def _records(data_dir: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(data_dir / "ma52/h264_256/1.1.0")
    return {split: [dict(example) for example in builder.as_data_source(split)] for split in ("train", "val")}


def _kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"


def killed_while_it_trains(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """SIGKILL after the first checkpoint."""
    process = scene.start(folder)
    time.sleep(rng.uniform(0, 0.8))
    _kill(process)
    done = len(losses(folder / "run"))
    scene.check_that_it_resumes(folder / "run")
    return f"in step {done}"


def killed_while_it_saves(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """SIGKILL at a moment at which a checkpoint is half written."""
    unfinished = functools.partial((folder / "run" / "checkpoints").glob, "*/*tmp*")
    process = scene.start(folder)
    until = len(losses(folder / "run")) + rng.randrange(1, 20)
    wait_until(lambda: len(losses(folder / "run")) >= until and any(unfinished()), process)
    time.sleep(rng.uniform(0, 0.01))
    _kill(process)
    half = any(unfinished())
    scene.check_that_it_resumes(folder / "run")
    return "a half-written checkpoint was there" if half else "the checkpoint was whole by then"


def asked_to_stop(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """SIGTERM."""
    process = scene.start(folder)
    time.sleep(rng.uniform(0, 0.8))
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert "stopped as asked" in (folder / "messages").read_text()
    done = len(losses(folder / "run"))
    assert losses(folder / "run") == losses(scene.whole)[:done]
    scene.check_that_it_resumes(folder / "run")
    return f"after step {done}"


def one_of_two_processes_killed(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """SIGKILL of one process of a run of two; the other must end too."""
    two = start_two(scene.command(folder / "run"), folder)
    wait_until(lambda: has_checkpoint(folder / "run"), *two)
    time.sleep(rng.uniform(0, 0.8))
    number = rng.randrange(2)
    two[number].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    assert two[1 - number].wait(300) != 0, "a process continued alone"
    seconds = time.monotonic() - begin
    two[number].wait()
    scene.check_that_it_resumes(folder / "run")
    return f"the other ended within {10 * (1 + seconds // 10):.0f} s"


def two_runs_in_one_workdir(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """The later one must be refused."""
    processes = []
    for i in range(2):
        processes.append(start(scene.command(folder / "run"), num_devices=2, messages=folder / f"messages.{i}"))
        time.sleep(rng.uniform(0, 2))
    statuses = [process.wait(300) for process in processes]
    assert sorted(statuses) == [0, 2], statuses
    assert "is in use by another run" in (folder / f"messages.{statuses.index(2)}").read_text()
    assert losses(folder / "run") == losses(scene.whole)
    return f"the {('first', 'second')[statuses.index(2)]} was refused"


def disk_full(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """The workdir lies on a small disk of its own, which another program fills."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk], check=True)
    try:
        process = start(scene.command(disk / "run"), num_devices=2, messages=folder / "messages")
        wait_until(lambda: has_checkpoint(disk / "run"), process)
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(bytes(max(0, free - rng.randrange(400_000))))
        status = process.wait(120)
        message = (folder / "messages").read_text().splitlines()[-1]
        assert status == 1, message
        assert "No space left on device" in message
        (disk / "filler").unlink()
        scene.check_that_it_resumes(disk / "run")
    finally:
        subprocess.run(["umount", disk], check=True)
    return "status 1, " + ("a checkpoint" if "checkpoint" in message else "a log") + " could not be written"


def data_cut_after_the_build(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """A file of the built set loses its end; a run must report it."""
    data = pathlib.Path(shutil.copytree(scene.data, folder / "data"))
    (path,) = (data / "tfds").rglob("*-train.array_record*")
    content = path.read_bytes()
    used = len(content.rstrip(b"\0"))
    path.write_bytes(content[: rng.randrange(used)])
    result = run(command(folder / "run", data, **FIELDS), num_devices=2)
    assert result.returncode == 2, result.stderr
    assert "its files are damaged; build the set again" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    return "reported"


def build_killed(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """SIGKILL of a build and its processes, after the first clip."""
    data = pathlib.Path(shutil.copytree(scene.clips, folder / "data"))
    process = subprocess.Popen(
        _build(data), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: any((data / "tfds").rglob("*.json")), process)
    time.sleep(rng.uniform(0, 3))
    os.killpg(process.pid, signal.SIGKILL)  # with its workers
    process.wait()
    whole = (data / "tfds/ma52/h264_256/1.1.0/dataset_info.json").exists()
    result = run(_build(data))
    assert result.returncode == 0, result.stderr
    assert _records(data / "tfds") == scene.built
    return "the set was whole by then" if whole else "resumed"


def flipped_videos(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """A hundred damaged videos each, through both builds and the prediction."""
    data = write_data(folder / "data", {"train": 105, "val": 2})
    damaged = [data / "train" / f"{i}.mp4" for i in range(100)]
    for i, path in enumerate(damaged):
        content = bytearray(draw_clip(i % 5))
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    for config in ("original", "h264_256"):
        result = run(_build(data, "--config", config, "--allow_damaged=100"))
        assert result.returncode == 0, result.stderr[-2000:]
    result = run(
        [sys.executable, "-m", "manet_jax.predict", "--workdir", scene.whole, "--json", *damaged, damaged[0].parent]
    )
    assert result.returncode in (0, 1), result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    predicted = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(predicted) == 105
    assert all(("error" in each) != bool({"top", "windows"} & each.keys()) for each in predicted)
    return "read or reported" if result.returncode else "read"


FAULTS: tuple[Callable[[Scene, pathlib.Path, random.Random], str], ...] = (
    killed_while_it_trains,
    killed_while_it_saves,
    asked_to_stop,
    one_of_two_processes_killed,
    two_runs_in_one_workdir,
    disk_full,
    data_cut_after_the_build,
    build_killed,
    flipped_videos,
)


def study(times: int, seed: int, only: Container[str]) -> int:
    """Tries each fault some times and prints a table of the results.

    Args:
      times: trials of each fault.
      seed: draws the moments.
      only: the names of those to try.

    Returns:
      The number of trials in which the promise did not hold.
    """
    rows, failures = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        # Each run compiles the same programs. Nothing of a cache that a killed run leaves half written is used.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(scratch, "compiled")))
        scene = Scene(pathlib.Path(scratch))
        for fault in FAULTS:
            name = fault.__name__.replace("_", " ")
            if fault.__name__ not in only:
                continue
            if fault is disk_full and os.geteuid():
                rows.append((name, "0", "not tried: it needs root, to mount a small disk"))
                continue
            held, notes = 0, collections.Counter()
            for i in tqdm.trange(times, desc=name):
                rng = random.Random(f"{seed} {fault.__name__} {i}")
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        notes[fault(scene, pathlib.Path(folder), rng)] += 1
                        held += 1
                    except Exception:
                        traceback.print_exc()
            failures += times - held
            text = "; ".join(f"{note}: {count}" for note, count in sorted(notes.items()))
            rows.append((name, f"{held} of {times}", text))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print("| fault | held | result |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return failures


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    names = [fault.__name__ for fault in FAULTS]
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.studies.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=20, help="trials of each fault (20)")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments (0)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="faults to try (all)")
    arguments = parser.parse_args(argv)
    if arguments.times < 1:
        parser.error(f"--times is {arguments.times}; give 1 or more")
    return run_command("manet_jax", lambda: min(1, study(arguments.times, arguments.seed, arguments.only)))


if __name__ == "__main__":
    sys.exit(main())
