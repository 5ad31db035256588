"""Parts that the benchmarks share: timing in turn, the machine's limits, tables, JSON files."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def parser(module: str, description: str, repeats: int | None) -> argparse.ArgumentParser:
    """Returns a command's parser with the flags that all commands have; `repeats` is the default, None for no flag."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    if repeats is not None:
        made.add_argument("--repeats", type=int, default=repeats, help="rounds")
    made.add_argument("--json", type=pathlib.Path, help="a file to write all numbers to")
    return made


def in_turn(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times functions in turn, so that whatever else the machine does meets all of them; returns seconds a call.

    In its turn a function is called four times, of which the first does not count: calls in a row, as in a training
    run, find in memory what the one before gave back, rather than pages that a virtual machine returned to its host.

    Args:
      functions: each waits until its work is done.
      repeats: turns of each.
    """
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            for i in range(4):
                start = time.perf_counter()
                function()
                if i:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The median of some times, and the range of the middle half of them."""
    low, median, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return {"median": median, "low": low, "high": high}


def matrix_rate(dtype: str) -> float:
    """Floating-point operations a second of a large matrix product, the best of some."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(jnp.matmul)
    seconds = in_turn({"": lambda: product(x, x).block_until_ready()}, repeats=4)[""]
    return 2 * size**3 / min(seconds)


def bandwidth() -> float:
    """Bytes a second that the device's memory moves, read and written, the best of some."""
    x = jnp.zeros(2**26 if jax.default_backend() == "cpu" else 2**30, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run() -> None:
        nonlocal x
        x = add(x).block_until_ready()

    return 2 * x.nbytes / min(in_turn({"": run}, repeats=2)[""])


def machine() -> dict[str, Any]:
    """The machine and the versions that the numbers depend on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _processor() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown, with the keys of the first row as its header."""
    header = list(rows[0])
    cells = [header, *([_cell(row.get(name)) for name in header] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


def finish(numbers: dict[str, Any], path: pathlib.Path | None) -> None:
    """Writes a benchmark's numbers with the machine, if a file for them is wanted."""
    if path:
        path.write_text(json.dumps({"machine": machine(), **numbers}, indent=2) + "\n")
