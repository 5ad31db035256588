"""Writes metrics to metrics.jsonl and TensorBoard."""

import json
import pathlib
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from manet_jax import distributed
from tfds_ma52.files import write_atomically


class MetricWriter:
    """Writes the metrics of a run to its workdir; a run that resumes from a checkpoint leaves no step twice.

    Of a run of several processes only the primary one writes.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int):
        """Opens the files, and drops what an earlier run wrote after `start_step`."""
        self._writes = distributed.is_primary()
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= start_step]
        write_atomically(path, "".join(kept))
        self._file = path.open("a")
        # Not its SummaryWriter, whose thread, once it meets a full disk, lets the training wait for it for ever.
        (workdir / "tensorboard").mkdir(exist_ok=True)
        self._tensorboard = EventsWriter(str(workdir / "tensorboard" / "events"), f".from_step_{start_step}")
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # hides later steps of earlier runs
        self._tensorboard.write_event(event_pb2.Event(step=start_step + 1, session_log=restart))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds one line of scalars."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        scalars = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=scalars))
        self._tensorboard.write_event(event)
        self._tensorboard.flush()

    def close(self) -> None:
        """Writes out what is still in memory."""
        if self._writes:
            self._file.close()
            self._tensorboard.close()


def _lines(path: pathlib.Path) -> list[str]:
    # A killed run may leave half a line at the end.
    return [line for line in path.read_text().splitlines(True) if line.endswith("\n")] if path.exists() else []
