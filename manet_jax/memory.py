"""Exhausted memory as a user's error: the batch was too large."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping

import jax

from manet_jax.data.clips import clip_shape
from manet_jax.models import ClipSpec
from tfds_ma52.errors import UserError


@contextlib.contextmanager
def batch_must_fit(flag: str, batch_size: int, inputs: Mapping[str, ClipSpec], *, remedy: str = "") -> Iterator[None]:
    """Makes one sentence of the errors that a too large batch causes, on the devices or on the host.

    JAX reports a step's error when its results are read, so these must be read in the block too.

    Args:
      flag: sets the batch size.
      batch_size: clips a batch, over all processes.
      inputs: what the network sees of a clip.
      remedy: what else than a smaller batch may help, after "or".

    Raises:
      UserError: memory is exhausted, or the clips alone are larger than the host's: the operating system would end the
        process without a word.
    """
    try:
        clip = sum(math.prod(clip_shape(spec)) for spec in inputs.values())
        size = batch_size // jax.process_count() * clip
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if size > memory:
            raise MemoryError(f"the frames take {size / 1e9:.0f} GB of this machine's {memory / 1e9:.0f} GB")
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(".") or "no more is left"
        raise UserError(
            f"a batch of {batch_size} clips does not fit into memory ({reason}): set a smaller {flag}"
            + (f", or {remedy}" if remedy else "")
        ) from error
