import os
import tempfile

# Every test sees eight devices; must be set before JAX starts. The programs are small and most run a few times, so that
# compiling takes longest: without these of XLA's optimisations it takes a fifth.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
# The commands that tests start compile the same programs again and again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="manet_jax_compilation_cache_"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
# Nothing is promoted or broadcast without a word, in the commands that tests start neither.
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import hypothesis
import jaxtyping
import pytest
from helpers import shrink, write_folder

from configs import ma52
from manet_jax import train

# The same examples in every run; a fault is found by `--hypothesis-profile=thorough`, which draws anew.
hypothesis.settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", max_examples=3000, deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("quick")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A data set of 12 training and 5 validation clips of 3 classes, not built."""
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(folder):
    return shrink(ma52.get_config(), folder)


@pytest.fixture(scope="session")
def trained(folder, tmp_path_factory):
    """A run of the config above, to its end: its workdir, which tests only read or copy, and its result."""
    workdir = tmp_path_factory.mktemp("trained")
    return workdir, train.train_and_evaluate(shrink(ma52.get_config(), folder), workdir)


@pytest.fixture
def unchecked(monkeypatch):
    """Turns the type checker of the tests off, which is not there in a notebook either."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
