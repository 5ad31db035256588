"""Measures the clips that are read in a second: from original files and from built sets; on one core, and on all.

Without --manual_dir it writes clips of MA-52's size and length itself. Every rate is of training batches: 8 frames of
a clip, random crops of 224 pixels.
"""

import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from benchmarks import clips, measure
from configs import ma52
from manet_jax import configuration, parallel
from manet_jax.configuration import Configuration
from manet_jax.data import clips as clips_lib
from manet_jax.data import input_pipeline, sampling

_BATCH_SIZE = 8
_WARM_UP = 6  # batches, until what was read ahead is used up
_SETS = {"originals": "original", "h264_256": "h264_256", "jpeg_256": "jpeg_256"}
_PARTS = ("decode", "decode and crop", "to the device")


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.input", __doc__, repeats=5)
    parser.add_argument("--manual_dir", type=pathlib.Path, help="a folder in MA-52's layout")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timed round, about")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.manual_dir
        if folder is None:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            clips.write_clips(folder)
        config = ma52.get_config()
        config.data.manual_dir = str(folder)
        sources, rates = {}, {}
        for name, config.data.builder_config in _SETS.items():
            parsed = configuration.parse(config)
            sources[name] = parsed.data.open().source("train")
        cores = {"one core": 1, "all cores": len(os.sched_getaffinity(0))}
        parts = dict(zip(_PARTS, (decode, crop, pipeline), strict=True))
        for _ in tqdm.trange(arguments.repeats, desc="rounds"):
            # One set right after the other, so that whatever else the machine does meets all of them.
            for where, what, name in itertools.product(cores, parts, sources):
                with _on_cores(cores[where]):
                    rate = parts[what](sources[name], parsed, cores[where], arguments.seconds)
                rates.setdefault((name, where, what), []).append(rate)

    rows = [
        {"": f"{name}, {where}"}
        | {f"{what}, clips/s": _text(rates[name, where, what]) for what in _PARTS}
        | {"share of decode": _ratio(rates[name, where, "to the device"], rates[name, where, "decode"])}
        for name, where in itertools.product(sources, cores)
    ]
    gain = {
        f"{name}, {where}": _ratio(*(rates[each, where, "to the device"] for each in (name, "originals")))
        for name, where in itertools.product(sources, cores)
        if name != "originals"
    }
    sizes = {
        name: np.mean([_num_bytes(source[i]["video"].content) for i in range(len(source))]) / 1e3
        for name, source in sources.items()
    }
    print(f"{measure.machine()}; {', '.join(f'{name} {size:.0f} kB a clip' for name, size in sizes.items())}")
    print(measure.table(rows))
    print("over originals: " + "; ".join(f"{name} {ratio:.1f}" for name, ratio in gain.items()))
    named = {" / ".join(key): values for key, values in rates.items()}
    measure.finish({"clips_per_second": named, "rows": rows, "over originals": gain, "kB": sizes}, arguments.json)


def _num_bytes(content: bytes | Sequence[bytes]) -> int:
    return len(content) if isinstance(content, bytes) else sum(len(content[i]) for i in range(len(content)))


@contextlib.contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Lets this thread, and those that it starts, use so many cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(cores)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def decode(source: Sequence[dict[str, Any]], config: Configuration, count: int, seconds: float) -> float:
    """Clips a second when the frames of a training clip are decoded and nothing else is done."""
    inputs = {"video": config.network.clip}

    def one(i: int) -> None:
        video, rng = videos[i % len(videos)], np.random.default_rng(i)
        video.frames(sampling.random_frames(rng, video.num_frames, inputs)["video"])

    videos = [source[i]["video"] for i in range(len(source))]
    return _in_threads(one, count, seconds)


def crop(source: Sequence[dict[str, Any]], config: Configuration, count: int, seconds: float) -> float:
    """Clips a second when they are scaled, cropped and flipped too."""
    inputs = {"video": config.network.clip}

    def one(i: int) -> None:
        clips_lib.train_clip(np.random.default_rng(i), videos[i % len(videos)], inputs)

    videos = [source[i]["video"] for i in range(len(source))]
    return _in_threads(one, count, seconds)


def _in_threads(function: Callable[[int], None], count: int, seconds: float) -> float:
    start = time.perf_counter()

    def work(first: int) -> int:
        done = 0
        while time.perf_counter() - start < seconds:
            function(first + done * count)
            done += 1
        return done

    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        done = sum(threads.map(work, range(count)))
    return done / (time.perf_counter() - start)


def pipeline(source: Sequence[dict[str, Any]], config: Configuration, count: int, seconds: float) -> float:
    """Clips a second of training batches, on the device."""
    reading = input_pipeline.Reading(num_threads=count, num_prefetch=config.data.prefetch_batches)
    inputs = {"video": config.network.clip}
    batches = input_pipeline.train_batches(source, inputs, batch_size=_BATCH_SIZE, seed=0, reading=reading)
    batches = input_pipeline.to_devices(batches, parallel.make_mesh(1), config.data.prefetch_batches)
    with contextlib.closing(iter(batches)) as iterator:
        for _ in range(_WARM_UP):
            next(iterator)
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            jax.block_until_ready(next(iterator))
            done += _BATCH_SIZE
    _wait_for_threads()
    return done / elapsed


def _wait_for_threads() -> None:
    """Waits until no thread of this process computes: a closed pipeline reads to its end what it has begun."""
    used = -1.0
    while (now := time.process_time()) - used > 0.01:
        used = now
        time.sleep(0.2)


def _text(rates: Sequence[float]) -> str:
    return "{median:.3g} ({low:.3g}-{high:.3g})".format(**measure.spread(rates))


def _ratio(rates: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(rates) / statistics.median(others)


if __name__ == "__main__":
    main()
