"""A pool of worker processes for video work."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from multiprocessing.synchronize import Event

# A forked child of a process with threads (JAX has many) may hang.
_CONTEXT = multiprocessing.get_context("spawn")
_stop: Event | None = None  # of a worker


def stop_event() -> Event:
    """Returns what stops the work of a `process_pool` once it is set."""
    return _CONTEXT.Event()


def is_stopped() -> bool:
    """Whether the pool of this worker has been stopped; a task of many steps asks between them."""
    return _stop is not None and _stop.is_set()


def process_pool(num_processes: int, stop: Event | None = None) -> concurrent.futures.ProcessPoolExecutor:
    """Returns a pool whose workers use one core each and end with the process that started them, even if it is killed.

    Scripts that use it need an `if __name__ == "__main__"` guard, since the workers import the main module, see
    `check_not_importing_main`.

    Args:
      num_processes: the workers.
      stop: see `is_stopped`.
    """
    return concurrent.futures.ProcessPoolExecutor(num_processes, _CONTEXT, _start_worker, (stop,))


def check_not_importing_main() -> None:
    """Checks that this is no worker that imports the main module, and runs it because the module lacks a guard.

    Python itself checks that when a worker starts others; one that waits for a lock of its parent never gets there.

    Raises:
      RuntimeError: it is one.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a worker of the build runs the script that started it: put what the script does under "
            "if __name__ == '__main__':"
        )


def _start_worker(stop: Event | None) -> None:
    import cv2  # only workers need it

    global _stop
    _stop = stop
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)
