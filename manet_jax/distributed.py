"""Runs of several processes: joining, comparing values, stopping together when a scheduler asks."""

import contextlib
import importlib.util
import os
import pathlib
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tfds_ma52.errors import UserError

# The variables in which launchers give the number of processes; JAX reads their other variables by itself.
_LAUNCHED = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


def join(coordinator: str = "", num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the run's other processes, if there are any; to be called before anything else of JAX.

    Under SLURM, Open MPI and on Cloud TPU JAX finds the others by itself.

    Args:
      coordinator: host and port of process 0, where JAX cannot find it by itself; "" lets it.
      num_processes: of the run, with a coordinator.
      process_id: of this process, with a coordinator.

    Raises:
      UserError: the arguments are incomplete, or the others cannot be reached.
    """
    given = (bool(coordinator), num_processes is not None, process_id is not None)
    if any(given) and not all(given):
        raise UserError("--coordinator, --num_processes and --process_id go together: give all three, or none")
    if not (coordinator or _launched() or _on_tpu()):
        return
    try:
        jax.distributed.initialize(coordinator or None, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        text = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the run's other processes cannot be joined ({text}): start as many as there should be, with the same "
            "--coordinator and --num_processes and each with its own --process_id"
        ) from error


def _launched() -> bool:
    return any(int(os.environ.get(name, 1)) > 1 for name in _LAUNCHED)


def _on_tpu() -> bool:
    has_devices = any(True for pattern in ("accel*", "vfio/*") for _ in pathlib.Path("/dev").glob(pattern))
    return importlib.util.find_spec("libtpu") is not None and has_devices and not os.environ.get("JAX_PLATFORMS")


def is_primary() -> bool:
    """Whether this is the process that writes what a run writes once: logs, reports, tables."""
    return jax.process_index() == 0


def assert_same_on_all(**values: str) -> None:
    """Checks that every process of the run has the same values.

    Raises:
      UserError: names those that differ.
    """
    digests = np.array([zlib.crc32(value.encode()) for value in values.values()], np.uint32)
    everywhere = np.atleast_2d(multihost_utils.process_allgather(digests))
    differing = [name for name, column in zip(values, everywhere.T, strict=True) if len(set(column.tolist())) > 1]
    if differing:
        raise UserError(
            f"the processes of this run differ in their {', '.join(differing)}: give all of them the same command, "
            "data and versions, and a --workdir that all can see"
        )


def broadcast_from_primary(value: bool) -> bool:
    """The primary process's value."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


@contextlib.contextmanager
def stop_on_request() -> Iterator[Callable[[int], bool]]:
    """Keeps SIGTERM and the first SIGINT from ending the process at once.

    By SIGTERM schedulers announce that a machine is taken away; SIGINT is Ctrl-C, and a second one ends the process.

    Yields:
      A function of the step just done, to be called after every one: whether to save and stop now. In a run of several
      processes it returns true on all of them after the same step.
    """
    asked, several = threading.Event(), jax.process_count() > 1
    should_stop = multihost_utils.reached_preemption_sync_point if several else lambda _: asked.is_set()
    if threading.current_thread() is not threading.main_thread():  # which alone may listen
        yield should_stop
        return

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGTERM)

    before = {signal.SIGINT: signal.signal(signal.SIGINT, interrupt)}
    if not several:  # else JAX listens for SIGTERM
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield should_stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
