import functools
import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks import memory, step
from manet_jax import parallel
from manet_jax.models import MODELS, ModelSpec
from manet_jax.models.i3d import I3DOptions
from manet_jax.models.manet import MANet
from manet_jax.models.swin import SwinOptions


@pytest.fixture
def run_step(monkeypatch, tmp_path, unchecked):
    """Runs benchmarks.step with arguments; returns what its JSON file has."""

    def run(*arguments):
        file = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", ["step", "--json", str(file), *arguments])
        step.main()
        return json.loads(file.read_text())

    return run


def test_step_times_the_network_that_is_named(run_step, capsys, monkeypatch):
    monkeypatch.setattr(step.measure, "matrix_rate", lambda dtype: 1e9)
    monkeypatch.setattr(step.measure, "bandwidth", lambda: 1e9)
    tiny = ["depth=1", "width=32", "num_heads=2", "table_size=32"]
    few = ["--size=32", "--batch_size=3", "--repeats=1", "--no_torch"]
    found = run_step("--model=timesformer", *few, "--options", *tiny)
    assert found["seconds"].keys() == {"ours forward", "ours train step"}
    name, clips, gflops, *_ = capsys.readouterr().out.splitlines()
    assert name == "timesformer, depth 1, width 32, num_heads 2, table_size 32"
    assert clips == "3 clips of 8 x 32 x 32, float32"
    # A clip has 32 patches of 16 x 16 x 3 values. Each is embedded, and goes through 2 x 4 + 1 + 8 matrices of 32 x 32
    # of two attentions, the layer after that over time, and the MLP.
    multiply_adds = 32 * (768 * 32 + 17 * 32**2)
    assert multiply_adds < float(gflops.split()[0]) * 1e9 < 1.5 * multiply_adds
    forward, train_step = found["rows"]
    assert (forward[""], train_step[""]) == ("forward", "train step")
    assert forward["operations / rate (s)"] == pytest.approx(3 * 2 * float(gflops.split()[0]), rel=1e-3)
    assert train_step["operations / rate (s)"] == pytest.approx(3 * forward["operations / rate (s)"])
    for row in found["rows"]:
        assert row["ours (clips/s)"] == pytest.approx(3 / row["ours (s)"])
        assert row["share of the rate"] == pytest.approx(row["operations / rate (s)"] / row["ours (s)"])
        assert row["bytes / bandwidth (s)"] > 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model=emotion"], "argument --model: invalid choice: 'emotion'"),
        (["--model=i3d", "--options", "tau=3"], "--model i3d: "),
        (
            ["--model=slowfast", "--options", "tau=x"],
            "argument --options: 'tau=x' is not NAME=VALUE with a number, True or False",
        ),
        (["--model=tin", "--options", "width=24"], "--model tin: width is 24; with shift_div 4 it"),
    ],
)
def test_step_refuses_networks_that_are_not_there(run_step, capsys, arguments, text):
    with pytest.raises(SystemExit, match="2"):
        run_step(*arguments)
    assert f"error: {text}" in capsys.readouterr().err


def test_step_compares_what_pytorch_has():
    of_packages = [ModelSpec(name, MODELS[name].Options()) for name in ("timesformer", "videomae", "swin")]
    assert all(step.has_pytorch(spec) for spec in (step.model(), step.model(depth=101), *of_packages))
    others = [step.model(shift=False), step.model(se=False), step.model(embedding_dim=0)]
    others += [ModelSpec("i3d", I3DOptions()), ModelSpec("swin", SwinOptions(embedding_dim=300))]
    assert not any(step.has_pytorch(spec) for spec in others)


def test_step_names_the_package_that_it_lacks(monkeypatch):
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="the PyTorch swin is that of torchvision: pip install torchvision, or add --"):
        step._torch_model(ModelSpec("swin", SwinOptions()))


def test_largest_batches_are_the_last_that_fit():
    asked = []

    def compile_step(num_clips):  # 50 MiB, and 100 a clip; above 100 clips 120, as a compiler may want more
        asked.append(num_clips)
        size = (50 + (100 if num_clips <= 100 else 120) * num_clips) * 2**20
        sizes = {"argument_size_in_bytes": 7, "alias_size_in_bytes": 7, "output_size_in_bytes": 0}
        analysis = SimpleNamespace(**sizes, temp_size_in_bytes=size, generated_code_size_in_bytes=0)
        return SimpleNamespace(memory_analysis=lambda: analysis)

    row = memory.largest_batches(compile_step, [1, 8, 16])
    fits = {1: 8, 8: 73, 16: 122}  # of 0.9 of the memory: 921.6, 7372.8 and 14745.6 MiB
    assert row.pop("MiB a clip more") == 100
    assert row == {f"{size} GiB": count for size, count in fits.items()}
    assert all(count in asked for count in fits.values())


def test_memory_is_that_of_the_forms_of_a_platform(monkeypatch, unchecked):
    options = functools.partial(MANet.Options.tiny, num_classes=52)
    monkeypatch.setattr(memory, "MODELS", {"manet": SimpleNamespace(Options=options)})
    mesh = parallel.make_mesh(1)
    programs = {forms: memory._compiler("manet", "float32", False, mesh, forms)(2) for forms in (None, "cpu", "gpu")}
    flops = {forms: program.cost_analysis()["flops"] for forms, program in programs.items()}
    assert flops[None] == flops["cpu"] != flops["gpu"]
