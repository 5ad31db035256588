import fcntl
import gc
import importlib.metadata
import json
import os
import tempfile
import types

# Every test sees eight devices; must be set before JAX starts. The programs are small and most run a few times, so that
# compiling takes longest: without these of XLA's optimisations it takes a fifth.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
        # Later versions do not know it, and end the process.
        "--xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jax").startswith("0.10.") else "",
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
# The commands that tests start compile the same programs again and again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="manet_jax_compilation_cache_"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# Nothing is promoted or broadcast without a word, in the commands that tests start neither.
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import command_server
import hypothesis
import jaxtyping
import pytest
from helpers import shrink, write_folder

from configs import ma52
from manet_jax import train
from manet_jax.studies import study
from tfds_ma52.synthetic import writer

# Garbage is looked for less often, and not in what is imported: a twentieth of the time.
gc.freeze()
gc.set_threshold(200_000, 20, 50)

# The same examples in every run; a fault is found by `--hypothesis-profile=thorough`, which draws anew.
hypothesis.settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", max_examples=3000, deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("quick")


@pytest.fixture(scope="session")
def shared(tmp_path_factory, testrun_uid):
    """`shared(name, make)` gives a path that `make(path)` has filled, once for all processes that share the tests."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared_{testrun_uid}"
    root.mkdir(exist_ok=True)

    def shared(name, make):
        path, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(path)
                done.touch()
        return path

    return shared


@pytest.fixture(scope="session")
def run_command():
    """`run_command(arguments, num_devices=1)` runs a command of ours to its end; see `command_server`."""
    with command_server.start() as run:
        yield run


@pytest.fixture
def commands_here(run_command, monkeypatch):
    """Lets a study run its commands by `run_command`; the list of them."""
    called = []

    def run(arguments, **_):
        called.append(arguments)
        done = run_command(arguments)
        assert done.returncode == 0, done.stderr
        return done

    monkeypatch.setattr(study, "subprocess", types.SimpleNamespace(run=run, DEVNULL=None))
    return called


@pytest.fixture(scope="session")
def folder(shared):
    """A data set of 12 training and 5 validation clips of 3 classes, not built."""
    return shared("folder", write_folder)


@pytest.fixture
def config(folder):
    return shrink(ma52.get_config(), folder)


@pytest.fixture(scope="session")
def trained(folder, shared):
    """A run of the config above, to its end: its workdir, which tests only read or copy, and its result."""

    def run(workdir):
        result = train.train_and_evaluate(shrink(ma52.get_config(), folder), workdir)
        workdir.with_suffix(".json").write_text(json.dumps(result))

    workdir = shared("trained", run)
    return workdir, json.loads(workdir.with_suffix(".json").read_text())


@pytest.fixture(scope="session")
def drawn(shared):
    """A drawn set: one clip of each class to train, one to validate, by people of their own."""
    return shared("drawn", lambda root: writer.write_synthetic(root, size=1e-6, subjects="disjoint", short_side=40))


@pytest.fixture(scope="session")
def drawn_pro(shared):
    """A drawn set with several labels and emotions: 6 clips to train, 3 to validate."""
    return shared("drawn_pro", lambda root: writer.write_synthetic(root, size=5e-4, pro=True, short_side=40))


@pytest.fixture(scope="session")
def drawn_untrimmed(shared):
    """A drawn set of untrimmed videos: one to train, one to validate, one whose actions are hidden."""
    settings = {"size": 1e-3, "untrimmed": True, "test": True, "short_side": 40, "frame_rate": 10}
    return shared("drawn_untrimmed", lambda root: writer.write_synthetic(root, **settings))


@pytest.fixture
def unchecked(monkeypatch):
    """Turns the type checker of the tests off, which is not there in a notebook either."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
