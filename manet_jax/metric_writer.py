"""Writes metrics to metrics.jsonl and TensorBoard."""

import json
import pathlib

import tensorboardX

from manet_jax import hosts


class MetricWriter:
    """Keeps the metrics of a run in its workdir; a run that goes on from a checkpoint leaves no step twice.

    Of a run of several processes only the first writes.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int):
        """Opens the files, and drops what an earlier run wrote after `start_step`."""
        self._writes = hosts.is_first()
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= start_step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(kept))
        partial.replace(path)
        self._file = path.open("a")
        self._tensorboard = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=start_step + 1, filename_suffix=f".from_step_{start_step}"
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds one line of scalars."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes out what is still in memory."""
        if self._writes:
            self._file.close()
            self._tensorboard.close()


def _lines(path: pathlib.Path) -> list[str]:
    # A killed run may leave half a line at the end.
    return [line for line in path.read_text().splitlines(True) if line.endswith("\n")] if path.exists() else []
