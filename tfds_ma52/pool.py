"""A pool of worker processes for video work."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading


def process_pool(num_processes: int) -> concurrent.futures.ProcessPoolExecutor:
    """Returns a pool whose workers use one core each and end with the process that started them, even if it is killed.

    Scripts that use it need an `if __name__ == "__main__"` guard, since the workers import the main module, see
    `check_not_importing_main`.
    """
    # A forked child of a process with threads (JAX has many) may hang.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(num_processes, context, _start_worker)


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


def _start_worker() -> None:
    import cv2  # only workers need it

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)
