"""Applies the faults of real machines to runs, builds and files, many times, and counts how often the promise held.

python tests/faults.py --times 20

Runs are small (60 steps of 8 clips of 32 x 32 pixels) and real commands; a fault comes at a random moment. After each,
the same command must end with the losses, metrics and weights of a run that was left alone, bit for bit.
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

import numpy as np
import tensorflow_datasets as tfds
import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs, as pytest does

from helpers import ROOT, write_clip, write_folder
from test_main import command, evaluations, has_checkpoint, losses, run, start, start_two, variables, wait_until

FIELDS = {"num_epochs": 40.0, "eval.every_epochs": 10.0, "checkpoint_every_steps": 2}


class Scene:
    """The common part of all trials: the data, and a run that was left alone. Every trial gets a folder of its own."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.data = write_folder(root / "data", per_split=(("train", 12), ("val", 4)))
        self.clips = write_folder(root / "clips", per_split=(("train", 30), ("val", 10)))
        self.whole = root / "whole"
        self.output = self.run(self.whole).stdout.splitlines()[-9:]

    def command(self, workdir: pathlib.Path, **fields) -> list[str]:
        return command(workdir, self.data, **FIELDS | fields)

    def run(self, workdir: pathlib.Path) -> subprocess.CompletedProcess:
        result = run(self.command(workdir), num_devices=2)
        assert result.returncode == 0, result.stderr
        return result

    def start(self, folder: pathlib.Path, **fields) -> subprocess.Popen:
        """Starts a run, and waits for its first checkpoint."""
        process = start(self.command(folder / "run", **fields), num_devices=2, messages=folder / "messages")
        wait_until(lambda: has_checkpoint(folder / "run"), process)
        return process

    def records(self, build: list[str], split: str) -> list[dict]:
        """The records of the same build, undisturbed."""
        target = self.root / "undisturbed"
        if not target.exists():
            subprocess.run([*build, "--data_dir", str(target)], cwd=ROOT, capture_output=True, check=True)
        return records(target, split)

    def check_that_it_resumes(self, workdir: pathlib.Path) -> None:
        result = self.run(workdir)
        assert "resuming from step" in result.stderr
        assert result.stdout.splitlines()[-9:] == self.output
        assert losses(workdir) == losses(self.whole)
        assert evaluations(workdir) == evaluations(self.whole)
        for left, right in zip(variables(workdir), variables(self.whole), strict=True):
            np.testing.assert_array_equal(left, right)


def records(data_dir: pathlib.Path, split: str) -> list[dict]:
    builder = tfds.builder_from_directory(data_dir / "ma52/h264_256/1.1.0")
    return [dict(example) for example in builder.as_data_source(split)]


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"


def killed_while_it_trains(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    process = scene.start(folder)
    time.sleep(rng.uniform(0, 0.8))
    kill(process)
    done = len(losses(folder / "run"))
    scene.check_that_it_resumes(folder / "run")
    return f"in step {done}"


def killed_while_it_saves(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """The moment is one at which a checkpoint is half written."""
    unfinished = functools.partial((folder / "run" / "checkpoints").glob, "*/*tmp*")
    process = scene.start(folder)
    until = len(losses(folder / "run")) + rng.randrange(1, 20)
    wait_until(lambda: len(losses(folder / "run")) >= until and any(unfinished()), process)
    time.sleep(rng.uniform(0, 0.01))
    kill(process)
    half = any(unfinished())
    scene.check_that_it_resumes(folder / "run")
    return "a half-written checkpoint lay there" if half else "the checkpoint was whole by then"


def asked_to_stop(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
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
    data = shutil.copytree(scene.data, folder / "data")
    (path,) = (data / "tfds").rglob("*-train.array_record*")
    content = path.read_bytes()
    used = len(content.rstrip(b"\0"))
    path.write_bytes(content[: rng.randrange(used)])
    result = run(command(folder / "run", data, **FIELDS), num_devices=2)
    assert result.returncode == 2, result.stderr
    assert "its files are damaged; build the set again" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    return "named"


def build_killed(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    data = shutil.copytree(scene.clips, folder / "data")
    build = [sys.executable, "-m", "tfds_ma52", "--manual_dir", str(data)]
    process = subprocess.Popen(
        build, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: any((data / "tfds").rglob("*.json")), process)
    time.sleep(rng.uniform(0, 3))
    os.killpg(process.pid, signal.SIGKILL)  # with its workers
    process.wait()
    whole = (data / "tfds/ma52/h264_256/1.1.0/dataset_info.json").exists()
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for split in ("train", "val"):
        assert records(data / "tfds", split) == scene.records(build, split)
    return "the set was whole by then" if whole else "went on where it was"


def flipped_videos(scene: Scene, folder: pathlib.Path, rng: random.Random) -> str:
    """A hundred damaged videos each, through the check, the build's two ways and the prediction's reader."""
    for i in range(100):
        path = folder / f"{i}.mp4"
        write_clip(path, num_frames=12, seed=i % 5)
        content = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    result = subprocess.run(
        [sys.executable, __file__, "--read", folder], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def read_all(folder: pathlib.Path) -> None:
    """Reads the videos of a folder in all ways; prints the result."""
    from manet_jax import inference
    from manet_jax.models import ClipSpec
    from tfds_ma52 import transcode

    inputs = {"video": ClipSpec(num_frames=4, short_side=40, crop_size=32)}
    reported = 0
    for path in sorted(folder.glob("*.mp4")):
        infos = [transcode._prepare_video(path, path.with_suffix(f".{side}"), None, side) for side in (None, 40)]
        clip = inference._open(path, inputs, 2.0, 1.0)
        assert isinstance(clip, inference.LoadedClip | inference._LongVideo)
        reported += any(isinstance(info, str) for info in infos) or bool(getattr(clip, "error", ""))
    print("read or reported" if reported else "read")


FAULTS = (
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


def main() -> int:
    names = [fault.__name__ for fault in FAULTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="trials of each fault")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="faults to try")
    parser.add_argument("--read", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read_all(arguments.read)
        return 0
    rows, failures = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        scene = Scene(pathlib.Path(scratch))
        for fault in FAULTS:
            if fault.__name__ not in arguments.only:
                continue
            if fault is disk_full and os.geteuid():
                rows.append(("disk full", "0", "not tried: it needs root, to mount a small disk"))
                continue
            kept, notes = 0, collections.Counter()
            for i in tqdm.trange(arguments.times, desc=fault.__name__.replace("_", " ")):
                rng = random.Random(f"{arguments.seed} {fault.__name__} {i}")
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        notes[fault(scene, pathlib.Path(folder), rng)] += 1
                        kept += 1
                    except Exception:
                        traceback.print_exc()
            failures += arguments.times - kept
            text = "; ".join(f"{note}: {count}" for note, count in sorted(notes.items()))
            rows.append((fault.__name__.replace("_", " "), f"{kept} of {arguments.times}", text))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print("| fault | as promised | result |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
