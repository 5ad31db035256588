"""Trains for thousands of small steps, and prints how memory, open files, threads and step time develop.

python tests/long_run.py --steps 2000

The run is the real command with its evaluations, checkpoints and logs. Needs Linux (/proc).
"""

import argparse
import pathlib
import sys
import tempfile
import time

import numpy as np
import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs, as pytest does

from helpers import write_folder
from test_main import command, log, losses, start

SKIPPED = 0.2  # of the steps, until every buffer and cache has its size


def sample(process_id: int) -> dict[str, float]:
    """Resident memory, open files and threads of a process."""
    folder = pathlib.Path("/proc", str(process_id))
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return {
        "resident memory (MB)": int(fields["VmRSS"].split()[0]) / 1000,
        "open files": len(list((folder / "fd").iterdir())),
        "threads": int(fields["Threads"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    num_steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as scratch:
        workdir = pathlib.Path(scratch, "run")
        data = write_folder(pathlib.Path(scratch, "data"), per_split=(("train", 12), ("val", 4)))
        fields = {"num_epochs": num_steps * 8 / 12, "eval.every_epochs": 100.0, "checkpoint_every_steps": 50}
        process = start(command(workdir, data, **fields))
        samples = []
        with tqdm.tqdm(total=num_steps, unit="step") as bar:
            while process.poll() is None:
                step = len(losses(workdir))
                bar.update(step - bar.n)
                if step:
                    samples.append({"step": step} | sample(process.pid))
                time.sleep(0.5)
        if process.returncode:
            raise SystemExit(f"the run ended with status {process.returncode}")
        speeds = [(line["step"], 1000 * 8 / line["clips_per_second"]) for line in log(workdir) if "loss" in line]
        sizes = {
            "metrics.jsonl": (workdir / "metrics.jsonl").stat().st_size,
            "TensorBoard files": sum(path.stat().st_size for path in workdir.rglob("events*")),
        }
    table = {name: [(each["step"], each[name]) for each in samples] for name in samples[0] if name != "step"}
    print(f"{num_steps} steps\n| | at the start | at the end | most | change in 1,000 steps |\n|---|---|---|---|---|")
    for name, values in (table | {"step (ms)": speeds}).items():
        steps, values = np.array([each for each in values if each[0] > SKIPPED * num_steps]).T
        tenth = max(1, len(values) // 10)
        slope = 1000 * np.polyfit(steps, values, 1)[0]
        first, last = np.median(values[:tenth]), np.median(values[-tenth:])
        print(f"| {name} | {first:.1f} | {last:.1f} | {values.max():.1f} | {slope:+.2f} |")
    for name, size in sizes.items():
        print(f"{name}: {size / len(speeds):.0f} bytes each time that is logged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
