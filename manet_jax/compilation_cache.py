"""JAX's compilation cache in the user's cache folder, for the commands."""

import logging
import os
import pathlib
import tempfile

import jax

_log = logging.getLogger(__name__)

# The programs used least recently go first. To write one JAX looks at every other, so they should not be too many.
_MAX_BYTES = 2**30
_MIN_SECONDS = 0.1


def use() -> None:
    """Lets this process keep compiled programs in `$XDG_CACHE_HOME/manet_jax/jax`, and take them from there.

    Called by commands, before they compile anything: a process of the user's own, which only calls functions of ours,
    keeps JAX's settings as they are. So does a user who has set a folder (`JAX_COMPILATION_CACHE_DIR`) or turned the
    cache off (`JAX_ENABLE_COMPILATION_CACHE=false`). Where the folder cannot be written there is a warning, no cache.

    Processes may share the folder, and machines too: JAX's keys contain the program, its versions and flags, the kind
    of the devices, and the instructions that a CPU has.
    """
    current = jax.config.values
    if current["jax_compilation_cache_dir"] is not None or not current["jax_enable_compilation_cache"]:
        return
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "manet_jax", "jax")
    try:
        folder = folder.expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # who can write there can run code here
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # the latter where there is no home
        _log.warning(
            "compiled programs cannot be kept in %s (%s), so every start compiles anew; give another folder with "
            "JAX_COMPILATION_CACHE_DIR",
            folder,
            getattr(error, "strerror", error),
        )
        return
    settings = {
        "jax_compilation_cache_max_size": _MAX_BYTES,
        "jax_persistent_cache_min_compile_time_secs": _MIN_SECONDS,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(folder))
