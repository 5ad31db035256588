"""Checks and measures this project on a bare machine with a GPU or a TPU, in a few minutes, and prints one table.

It needs no videos and no package that reads them: jax, flax, optax, jaxtyping, numpy, safetensors, scipy; and torch for
the comparison. Parts:

- fidelity: the differences from the recorded outputs of the released code, in full float32;
- jax N, pytorch N: training step and forward pass of MANet (ResNet-50, 8 x 224 x 224, bfloat16) with N clips, ours and
  plain PyTorch's (autocast, channels last, torch.compile);
- special cases: our own forms of operations beside XLA's plain ones;
- loop N: the training loop, fed from memory.

Each part is a process of its own. What is finished is kept in the file and not measured again at the next start. On a
CPU all of it is small.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import measure
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically

TARGET = 1.3  # times the speed of PyTorch
_SECONDS = 180.0  # that a part may take; more than one that hangs, and little enough to leave time for the others
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "MemoryError", "out of memory")
_ROOT = pathlib.Path(__file__).parent.parent


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.accelerator", __doc__, repeats=None)
    parser.add_argument("--batch_sizes", type=int, nargs="+", help="clips of 8 frames; 16, 64 and 128, or small: 2")
    parser.add_argument("--small", action="store_true", help="a network and clips for tests, as on a CPU")
    arguments = parser.parse_args()
    if arguments.json is None:
        parser.error("give a file with --json, which keeps what is finished")
    if min(arguments.batch_sizes or [1]) < 1:
        parser.error("--batch_sizes must be at least 1 each")
    try:
        results = run(arguments.json, arguments.batch_sizes, small=arguments.small)
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(report(results))
    if any(part["status"] not in ("done", "left out") for part in results["parts"].values()):
        raise SystemExit(1)


def run(file: pathlib.Path, batch_sizes: Sequence[int] | None, *, small: bool) -> dict[str, Any]:
    """Runs the parts that a file lacks; returns its content.

    Raises:
      UserError: the file cannot be read or written, or is another machine's.
    """
    results = _read(file)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        asked = run_part("machine", [], scratch)
        if asked["status"] != "done":
            raise UserError(f"JAX does not start on this machine: {asked['error']}")
        machine = asked["result"]
        small = small or machine["platform"] == "cpu"
        setting = {"machine": machine, "small": small}
        results = results or setting | {"parts": {}}
        differing = [name for name, value in setting.items() if results.get(name) != value]
        if differing:
            raise UserError(
                f"{file} holds figures of another setting: {differing[0]} was {results.get(differing[0])} and is "
                f"{setting[differing[0]]}; give another file with --json"
            )
        flags = ["--platform", machine["platform"], *(["--small"] if small else [])]
        for name in part_names(batch_sizes or ([2] if small else [16, 64, 128])):
            if results["parts"].get(name, {}).get("status") == "done":
                print(f"{name}: done before", file=sys.stderr, flush=True)
                continue
            if name.startswith("pytorch ") and importlib.util.find_spec("torch") is None:
                part = {"status": "left out", "error": "PyTorch is not installed", "seconds": 0.0}
            else:
                part = run_part(name, flags, scratch)
            print(f"{name}: {_outcome(part)}, {part['seconds']:.0f} s", file=sys.stderr, flush=True)
            results["parts"][name] = part
            _write(file, results)
    return results


def part_names(batch_sizes: Sequence[int]) -> list[str]:
    """The parts in the order in which they run: what matters most comes first."""
    steps = [f"{framework} {size}" for size in batch_sizes for framework in ("jax", "pytorch")]
    return ["fidelity", *steps, "special cases", f"loop {sorted(batch_sizes)[(len(batch_sizes) - 1) // 2]}"]


def run_part(name: str, flags: Sequence[str], scratch: pathlib.Path, limit: float = _SECONDS) -> dict[str, Any]:
    """Runs a part in a process of its own.

    Args:
      name: of the part.
      flags: of benchmarks.accelerator_parts.
      scratch: a folder for what the parts compile, which later ones find there, and for their results.
      limit: seconds after which it is ended.

    Returns:
      `status`, "done", "left out", "out of memory", "killed", "too long" or "failed"; `seconds`; and `result` if it is
      done, else `error`.
    """
    file, errors = scratch / "result.json", scratch / "errors.txt"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.accelerator_parts", name, str(file), *flags]
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "jax"),
        # Not the usual folder, where a process that was ended may have left half a file.
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "torch"),
        # A part has the device to itself: JAX may take nearly all of a GPU's memory.
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
    }
    environment = defaults | os.environ
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    start = time.perf_counter()
    with errors.open("w") as stderr:
        try:
            code = subprocess.run(
                command, stdout=stderr, stderr=stderr, env=environment, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    seconds = time.perf_counter() - start
    if code == 0:
        result = json.loads(file.read_text())
        if "left_out" in result:
            return {"status": "left out", "error": result["left_out"], "seconds": seconds}
        return {"status": "done", "seconds": seconds, "result": result}
    return {"seconds": seconds, **_failure(code, errors.read_text(errors="replace"), limit)}


def _failure(code: int | None, output: str, limit: float) -> dict[str, str]:
    """What became of a process: its exit status, None if it was ended for its time; and its output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it printed nothing"]
    told = [line for line in lines if any(word in line for word in _OUT_OF_MEMORY)]
    if code is None:
        return {"status": "too long", "error": f"ended after {limit:.0f} s; its last line: {lines[-1]}"}
    if told:
        return {"status": "out of memory", "error": told[-1]}
    if code < 0:
        return {"status": "killed", "error": f"by signal {-code}, as a system does that runs out of memory"}
    return {"status": "failed", "error": lines[-1]}


def _outcome(part: dict[str, Any]) -> str:
    return part["status"] + (f" ({part['error'][:200]})" if "error" in part else "")


def _read(file: pathlib.Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        results = json.loads(file.read_text())
        if isinstance(results["parts"], dict):
            return results
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{file} is there, but this command has not written it; give another file with --json")


def _write(file: pathlib.Path, results: dict[str, Any]) -> None:
    try:
        write_atomically(file, json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}); give another file with --json") from error


def report(results: dict[str, Any]) -> str:
    """The table, and what fell short."""
    parts = results["parts"]
    finished = {name: part["result"] for name, part in parts.items() if part["status"] == "done"}
    rows, lines = [], []
    for measured in finished.get("fidelity", {}).get("rows", []):
        bound, difference = measured["tolerance"], measured["difference"]
        rows.append(_row("fidelity", measured["quantity"], difference, f"{bound:g} at most"))
        if not difference <= bound:
            lines.append(f"not within its bound: {measured['quantity']}, {difference:.2g} over {bound:g}")
    sizes = [name.partition(" ")[2] for name in parts if name.startswith("jax ")]
    short = []
    for size in sizes:
        rows += _step_rows(size, finished.get(f"jax {size}", {}), finished.get(f"pytorch {size}", {}), short)
    slow = []
    for case in finished.get("special cases", {}).get("rows", []):
        if "error" in case:
            rows.append(_row("special cases", f"{case['case']}: {case['error'][:80]}", None, ""))
            continue
        ratio = case["plain"] / case["special"]
        quantity = f"{case['case']}, ms (largest difference {case['difference']:.2g})"
        rows.append(_row("special cases", quantity, case["special"] * 1e3, f"{case['plain'] * 1e3:.3g}", ratio))
        slow += [case["case"]] if ratio < 1 else []
    for name in finished:
        if name.startswith("loop "):
            rows += _loop_rows(name, finished[name], finished.get(name.replace("loop", "jax"), {}))
    lines += [f"{name}: {_outcome(part)}" for name, part in parts.items() if part["status"] != "done"]
    lines += [f"{name}: {result['note']}" for name, result in finished.items() if "note" in result]
    if slow:
        lines.append("slower than XLA's plain form here: " + "; ".join(slow))
    lines.append(f"short of {TARGET} times PyTorch: {'; '.join(short) or _nothing_short(finished)}")
    device = results["machine"]["device"]
    size = "a small network, bfloat16" if results["small"] else "MANet, 8 x 224 x 224, bfloat16"
    table = measure.table(rows) if rows else "nothing was measured"
    return "\n".join([f"{device}, {size}; {results['machine']}", table, *lines])


def _nothing_short(finished: dict[str, Any]) -> str:
    compared = [name for name, result in finished.items() if name.startswith("pytorch ") and "forward" in result]
    return "nothing" if compared else "not known, as PyTorch was not measured"


def _row(part: str, quantity: str, ours: float | None, beside: str, ratio: float | None = None) -> dict[str, Any]:
    return {"part": part, "quantity": quantity, "ours": ours, "beside": beside, "ratio": ratio}


def _step_rows(size: str, ours: dict[str, Any], theirs: dict[str, Any], short: list[str]) -> list[dict[str, Any]]:
    """Rows of one batch size, either framework's figures possibly missing; adds to `short` what falls short."""
    rows = []
    for part in ("forward", "train step"):
        rate, other = (each.get(part, {}).get("clips_per_second") for each in (ours, theirs))
        if not (rate or other):
            continue
        ratio = rate / other if rate and other else None
        label = f"{part}, {size} clips"
        rows.append(_row(label, "clips/s", rate, f"PyTorch {other:.4g}" if other else "", ratio))
        if ratio is not None and ratio < TARGET:
            short.append(f"{label} ({ratio:.2f})")
        if ours:
            peak, flops = ours[part]["peak_flops"], ours[part]["flops_per_clip"]
            quantity = "share of the peak FLOP/s" if peak else "GFLOP/s, the peak is unknown"
            shares = [x and x * flops / (peak or 1e9) for x in (rate, other)]
            rows.append(_row(label, quantity, shares[0], f"PyTorch {shares[1]:.3g}" if shares[1] else ""))
    memory, other = (each.get("peak_bytes") for each in (ours, theirs))
    if memory or other:
        beside = f"PyTorch {other / 1e9:.3g}" if other else ""
        rows.append(_row(f"{size} clips", "peak memory, GB", memory and memory / 1e9, beside))
    return rows


def _loop_rows(name: str, result: dict[str, Any], ours: dict[str, Any]) -> list[dict[str, Any]]:
    alone = ours.get("train step", {}).get("clips_per_second")
    rate = result["clips_per_second"]
    beside, ratio = (f"the step alone {alone:.4g}", rate / alone) if alone else ("", None)
    return [
        _row(f"{name} clips", "steps/s", result["steps_per_second"], ""),
        _row(f"{name} clips", "clips/s", rate, beside, ratio),
        _row(f"{name} clips", "share of the time waiting for input", result["data_wait_share"], ""),
    ]


if __name__ == "__main__":
    main()
