"""Workarounds for Orbax, applied by the functions that call it."""

import asyncio
import contextlib
import functools
import logging
import re
from collections.abc import Iterator

import jax
import orbax.checkpoint as ocp


@functools.cache
def prepare() -> None:
    """Sets up Orbax once in a process."""
    # Orbax logs, with its stack trace, what it raises too.
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname or record.levelno < logging.ERROR)
    with without_warnings():
        # By itself Orbax cuts an array into a part for each device with a copy, which takes longer than to write it.
        ocp.type_handlers.register_type_handler(
            jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False), override=True
        )


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Silences Orbax's warnings of every directory that is read only, and of every handler that is replaced."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _WaitingLoop(asyncio.SelectorEventLoop):
    def close(self) -> None:
        if not self.is_closed() and (left := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.wait(left))
        super().close()


@contextlib.contextmanager
def waiting_for_reads() -> Iterator[None]:
    """Lets all reads end where one fails: Orbax closes the event loop under the others, which then print traces."""
    new_event_loop, asyncio.new_event_loop = asyncio.new_event_loop, _WaitingLoop
    try:
        yield
    finally:
        asyncio.new_event_loop = new_event_loop


def reading_alone() -> ocp.options.MultiprocessingOptions:
    """Options under which each process reads by itself, so that one of several may do so alone."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
    )


def reason(error: Exception) -> str:
    """The last cause in the text of an error of Orbax or TensorStore."""
    text = " ".join(str(error).split())
    of_system = re.search(r"([^:]+) \[os_error_code", text)
    return of_system[1].strip() if of_system else text[:200] or type(error).__name__
