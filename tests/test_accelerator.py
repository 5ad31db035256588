import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest
from helpers import ROOT

from benchmarks import accelerator
from tfds_ma52.errors import UserError

VIDEO_PACKAGES = ["av", "cv2", "decord", "grain", "orbax", "tensorflow_datasets"]
MACHINE = {"device": "NVIDIA H100 80GB HBM3", "platform": "gpu"}

# Read by every Python that finds it: each part is a process of its own.
BLOCK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {VIDEO_PACKAGES}:
            raise ModuleNotFoundError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
"""


def numbers(tree):
    if isinstance(tree, dict | list):
        return [x for each in (tree.values() if isinstance(tree, dict) else tree) for x in numbers(each)]
    return [tree] if isinstance(tree, int | float) else []


@pytest.mark.slow
def test_command_keeps_what_is_finished_when_a_part_dies(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    imported = subprocess.run([sys.executable, "-c", "import av"], env=environment, capture_output=True, check=False)
    assert b"blocked: av" in imported.stderr

    def start(*batch_sizes):
        command = [sys.executable, "-m", "benchmarks.accelerator", "--json", str(file), "--batch_sizes", *batch_sizes]
        run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        return run, json.loads(file.read_text())["parts"]

    file = tmp_path / "figures.json"
    run, parts = start("1", str(10**10))  # more than any address space holds
    assert run.returncode == 1, run.stderr
    assert list(parts) == accelerator.part_names([1, 10**10])
    assert parts[f"jax {10**10}"]["status"] == "out of memory"
    assert "Unable to allocate" in parts[f"jax {10**10}"]["error"]
    assert f"jax {10**10}: out of memory (" in run.stdout
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        assert parts["pytorch 1"]["status"] == "left out"
        assert "pytorch 1: left out (PyTorch is not installed)" in run.stdout
    for name in ["fidelity", "jax 1", "special cases", "loop 1", *(["pytorch 1"] if has_torch else [])]:
        assert parts[name]["status"] == "done", parts[name]
        assert all(math.isfinite(x) for x in numbers(parts[name]["result"]))
    assert [row["difference"] < row["tolerance"] for row in parts["fidelity"]["result"]["rows"]] == [True, True]
    cases = parts["special cases"]["result"]["rows"]
    assert len(cases) == 11
    assert all(case["special"] > 0 and case["plain"] > 0 and case["difference"] < 0.05 for case in cases)
    assert set(parts["jax 1"]["result"]["train step"]) > {"clips_per_second", "flops_per_clip"}
    assert 0 <= parts["loop 1"]["result"]["data_wait_share"] < 1

    again, kept = start("1")
    assert again.returncode == 1  # the part that died is in the file, and in the table
    assert f"jax {10**10}: out of memory (" in again.stdout
    for name in ("fidelity", "jax 1", "special cases", "loop 1"):
        assert f"{name}: done before" in again.stderr
        assert kept[name] == parts[name]


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """Runs a part whose process is a shell script."""

    def run(script, limit=30.0):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(accelerator.sys, "executable", str(path))
        part = accelerator.run_part("jax 16", [], tmp_path, limit)
        assert part.pop("seconds") > 0
        return part

    return run


def test_run_part_tells_how_a_process_ended(run_script):
    # Its arguments are -m, the module, the part and the file of the result.
    assert run_script('[ "$3" = "jax 16" ] && echo "{\\"x\\": 1}" > "$4"') == {"status": "done", "result": {"x": 1}}
    assert run_script("echo starting; kill -9 $$") == {
        "status": "killed",
        "error": "by signal 9, as a system does that runs out of memory",
    }
    text = "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: out of memory"
    assert run_script(f"echo '{text}' >&2; echo later >&2; exit 1") == {"status": "out of memory", "error": text}
    assert run_script("echo 'ValueError: no' >&2; exit 1") == {"status": "failed", "error": "ValueError: no"}
    assert run_script("exit 3") == {"status": "failed", "error": "it printed nothing"}
    assert run_script("echo begun; exec sleep 60", limit=0.3) == {
        "status": "too long",
        "error": "ended after 0 s; its last line: begun",
    }
    assert run_script('echo "{\\"left_out\\": \\"no GPU\\"}" > "$4"') == {"status": "left out", "error": "no GPU"}


def test_part_names_begin_with_what_matters_most():
    steps = ["jax 16", "pytorch 16", "jax 64", "pytorch 64", "jax 128", "pytorch 128"]
    assert accelerator.part_names([16, 64, 128]) == ["fidelity", *steps, "special cases", "loop 64"]


def done(**result):
    return {"status": "done", "seconds": 1.0, "result": result}


def rates(forward, step, **more):
    flops = {"flops_per_clip": 1e9, "peak_flops": 1e12, "compile_seconds": 1.0}
    parts = {"forward": forward, "train step": step}
    return done(**{name: {"clips_per_second": rate, **flops} for name, rate in parts.items()}, **more)


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[0] == "|"]


def test_report_states_what_falls_short():
    parts = {
        "fidelity": done(
            rows=[
                {"quantity": "logits", "tolerance": 1e-4, "difference": 2e-5},
                {"quantity": "losses", "tolerance": 1e-4, "difference": 3e-3},
            ]
        ),
        "jax 16": rates(300.0, 120.0, peak_bytes=2e9),
        "pytorch 16": rates(200.0, 100.0, peak_bytes=3e9, note="without torch.compile, which failed: no"),
        "jax 64": {"status": "killed", "seconds": 1.0, "error": "by signal 9"},
        "pytorch 64": {"status": "left out", "seconds": 0.0, "error": "PyTorch is not installed"},
        "special cases": done(
            rows=[
                {"case": "pool", "special": 0.004, "plain": 0.002, "difference": 0.0},
                {"case": "shift", "special": 0.002, "plain": 0.004, "difference": 0.0},
                {"case": "late", "error": "no such option"},
            ]
        ),
        "loop 16": done(clips_per_second=60.0, steps_per_second=3.75, data_wait_share=0.25),
    }
    text = accelerator.report({"machine": MACHINE, "small": False, "parts": parts})
    rows = cells(text)
    for row in (
        ["fidelity", "losses", "0.003", "0.0001 at most", "-"],
        ["forward, 16 clips", "clips/s", "300", "PyTorch 200", "1.5"],
        ["train step, 16 clips", "clips/s", "120", "PyTorch 100", "1.2"],
        ["train step, 16 clips", "share of the peak FLOP/s", "0.12", "PyTorch 0.1", "-"],
        ["16 clips", "peak memory, GB", "2", "PyTorch 3", "-"],
        ["special cases", "pool, ms (largest difference 0)", "4", "2", "0.5"],
        ["special cases", "late: no such option", "-", "", "-"],
        ["loop 16 clips", "clips/s", "60", "the step alone 120", "0.5"],
        ["loop 16 clips", "share of the time waiting for input", "0.25", "", "-"],
    ):
        assert row in rows
    assert text.splitlines()[-6:] == [
        "not within its bound: losses, 0.003 over 0.0001",
        "jax 64: killed (by signal 9)",
        "pytorch 64: left out (PyTorch is not installed)",
        "pytorch 16: without torch.compile, which failed: no",
        "slower than XLA's plain form here: pool",
        "short of 1.3 times PyTorch: train step, 16 clips (1.20)",
    ]


def test_report_states_when_nothing_falls_short_or_is_compared():
    parts = {"jax 16": rates(300.0, 131.0), "pytorch 16": rates(200.0, 100.0)}
    parts["jax 16"]["result"]["forward"]["peak_flops"] = None
    assert accelerator.report({"machine": MACHINE, "small": False, "parts": parts}).endswith("PyTorch: nothing")
    text = accelerator.report({"machine": MACHINE, "small": False, "parts": parts})
    assert ["forward, 16 clips", "GFLOP/s, the peak is unknown", "300", "PyTorch 200", "-"] in cells(text)
    del parts["pytorch 16"]
    text = accelerator.report({"machine": MACHINE, "small": False, "parts": parts})
    assert text.endswith("short of 1.3 times PyTorch: not known, as PyTorch was not measured")


def test_other_files_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "figures.json"
    file.write_text("[]")
    with pytest.raises(UserError, match=r"figures\.json is there, but this command has not written it; give another"):
        accelerator.run(file, None, small=True)

    asked = done(**MACHINE)
    monkeypatch.setattr(accelerator, "run_part", lambda *_: asked)
    file.write_text(json.dumps({"machine": MACHINE | {"device": "TPU v4"}, "small": False, "parts": {}}))
    with pytest.raises(UserError, match=r"another setting: machine was .*TPU v4.* and is .*H100.*; give another file"):
        accelerator.run(file, None, small=False)
    file.write_text(json.dumps({"machine": MACHINE, "small": True, "parts": {}}))
    with pytest.raises(UserError, match=r"another setting: small was True and is False; give another file"):
        accelerator.run(file, None, small=False)
    with pytest.raises(UserError, match=r"missing/figures\.json cannot be written \(No such file.*; give another file"):
        accelerator.run(tmp_path / "missing" / "figures.json", None, small=False)
    asked = {"status": "failed", "error": "no CUDA", "seconds": 1.0}
    with pytest.raises(UserError, match="JAX does not start on this machine: no CUDA"):
        accelerator.run(tmp_path / "new.json", None, small=False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give a file with --json, which keeps what is finished"),
        (["--json", "x.json", "--batch_sizes", "4", "0"], "--batch_sizes must be at least 1 each"),
    ],
)
def test_command_refuses_bad_arguments(monkeypatch, capsys, arguments, text):
    monkeypatch.setattr(sys, "argv", ["accelerator", *arguments])
    with pytest.raises(SystemExit, match="2"):
        accelerator.main()
    assert text in capsys.readouterr().err
