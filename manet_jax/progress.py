"""Progress bars of commands that run for days."""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm

from manet_jax import distributed


def bar(batches: Iterable | None = None, **options: Any) -> tqdm.tqdm:
    """Makes a bar that the primary process shows: in a terminal ten times a second, into a file once a minute.

    Args:
      batches: to go over; None is a bar that is updated by hand.
      options: of `tqdm.tqdm`.
    """
    seconds = 0.1 if sys.stderr.isatty() else 60.0  # ten lines a second would be a gigabyte in ten days
    return tqdm.tqdm(
        batches,
        **options,
        dynamic_ncols=True,
        mininterval=seconds,
        maxinterval=max(10.0, seconds),
        disable=not distributed.is_primary(),
    )
