"""The host's memory, as the C library manages it."""

import ctypes
import importlib.metadata
import importlib.util
import platform

# M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD of mallopt(3): blocks of all sizes and threads come from one heap, which
# never shrinks.
_SETTINGS = ((-8, 1), (-4, 0), (-1, -1))


def keep_freed() -> None:
    """Lets this process keep the memory that it frees, where JAX computes on the CPU and the C library is glibc.

    XLA asks for a step's memory anew each time, and glibc gives such large blocks back to the kernel, which has to
    clear every page of the next one: a sixth of a small network's training step. It must be called before JAX is
    imported, because a thread that has asked for memory keeps its heap.
    """
    if platform.libc_ver()[0] != "glibc" or _has_accelerator():
        return
    libc = ctypes.CDLL(None)
    for parameter, value in _SETTINGS:
        libc.mallopt(parameter, value)


def _has_accelerator() -> bool:
    """Whether a package is installed with which JAX finds a GPU or a TPU."""
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
