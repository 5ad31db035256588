"""Training runs of seconds as real commands, and their data: for the studies of faults and of long runs, and tests."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfds_ma52.encoding import encode_h264

FIELDS = {  # of a config: a network and clips as small as they can be
    "clip.short_side": 40,
    "clip.crop_size": 32,
    "clip.num_frames": 4,
    "model.depth": 8,
    "model.width": 8,
    "batch_size": 8,
    "eval.batch_size": 8,
    "log_every_steps": 1,
}


def write_data(folder: pathlib.Path, counts: Mapping[str, int]) -> pathlib.Path:
    """Writes a data set of three classes, a square that moves in each clip; returns its folder.

    Args:
      folder: is made.
      counts: the clips of each split.
    """
    names = ("nodding", "waving", "tiptoe")
    for number, (split, count) in enumerate(counts.items()):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            (folder / split / f"{i}.mp4").write_bytes(draw_clip(1000 * number + i))
        (folder / f"{split}_list_videos.txt").write_text("".join(f"{i}.mp4 {i % len(names)}\n" for i in range(count)))
    (folder / "label_name.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(names)))
    return folder


def draw_clip(seed: int, num_frames: int = 16) -> bytes:
    """The mp4 file of a clip of 64 x 48 pixels: a bright square that moves over a coloured ground."""
    rng = np.random.default_rng(seed)
    ground, start, way = rng.integers(0, 120, 3), rng.uniform(10, 40, 2), rng.uniform(-10, 10, 2)
    frames = np.broadcast_to(ground, (num_frames, 64, 48, 3)).astype(np.uint8)
    for i, frame in enumerate(frames):
        top, left = (start + way * i / num_frames).astype(int)
        frame[top : top + 12, left : left + 12] = 230
    return encode_h264(frames, preset="ultrafast")[0]


def command(
    workdir: pathlib.Path, data: pathlib.Path, *flags: str, config: str = "configs/ma52.py", **fields: Any
) -> list[str]:
    """The command of a small training run, to be started in the project's folder.

    Args:
      workdir: of the run.
      data: the folder of its data.
      flags: further ones.
      config: the config file.
      fields: of the config, beside `FIELDS`.
    """
    values = FIELDS | {"data.manual_dir": data} | fields
    overrides = [f"--config.{name}={value}" for name, value in values.items()]
    return [
        sys.executable,
        "-m",
        "manet_jax.main",
        "--config",
        config,
        "--workdir",
        str(workdir),
        "--noreport",
        *overrides,
        *flags,
    ]


def environment(num_devices: int) -> dict[str, str]:
    """The environment of a command that computes on the CPU, as on `num_devices` devices."""
    name = "--xla_force_host_platform_device_count"
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(name)]
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*flags, f"{name}={num_devices}"])}


def run(arguments: Sequence[str | pathlib.Path], num_devices: int = 1) -> subprocess.CompletedProcess:
    """Runs a command to its end; its output and messages are in the result."""
    return subprocess.run(arguments, env=environment(num_devices), capture_output=True, text=True, check=False)


def start(
    arguments: Sequence[str | pathlib.Path], num_devices: int = 1, messages: str | pathlib.Path = os.devnull
) -> subprocess.Popen:
    """Starts a command whose messages go to a file."""
    with pathlib.Path(messages).open("w") as file:
        return subprocess.Popen(arguments, env=environment(num_devices), stdout=subprocess.DEVNULL, stderr=file)


def start_two(arguments: Sequence[str], folder: pathlib.Path) -> list[subprocess.Popen]:
    """Starts two processes of one run, with one device each; their messages go to two files of a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--coordinator={address}", "--num_processes=2"]
    return [start([*arguments, *flags, f"--process_id={i}"], messages=folder / f"messages.{i}") for i in range(2)]


def wait_until(condition: Callable[[], bool], *processes: subprocess.Popen, seconds: float = 120) -> None:
    """Waits for a condition while some processes run.

    Raises:
      AssertionError: a process has ended before, or the seconds are over.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited for {seconds} seconds"
        assert all(process.poll() is None for process in processes), "a process ended too early"
        time.sleep(0.005)


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether a run has saved its state for the first time."""
    return any(path.name.isdecimal() for path in (workdir / "checkpoints" / "latest").glob("*"))


def read_log(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(workdir: pathlib.Path) -> list[float]:
    """The loss of each step."""
    return [line["loss"] for line in read_log(workdir) if "loss" in line]


def evaluations(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The metrics of each evaluation."""
    return [line for line in read_log(workdir) if "loss" not in line]


def variables(workdir: pathlib.Path) -> list[np.ndarray]:
    """The arrays of the latest checkpoint's model."""
    import jax  # late, because the help texts of the studies should not wait for it

    from manet_jax.checkpoint import read_model

    return jax.device_get(jax.tree.leaves(read_model(workdir, "latest").variables))
