import os
import tempfile

# Every test sees eight devices; must be set before JAX starts.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
# The commands that tests start compile the same programs again and again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="manet_jax_compilation_cache_"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import hypothesis
import pytest
from helpers import (  # noqa: F401 (other test modules import them from here)
    ROOT,
    cut_at_packet,
    outcome,
    set_rotation,
    write_clip,
    write_folder,
    write_silence,
)

from configs import ma52

# The same examples in every run; a fault is found by `--hypothesis-profile=thorough`, which draws anew.
hypothesis.settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", max_examples=3000, deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("quick")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A data set of 12 training and 5 validation clips of 3 classes, not built."""
    return write_folder(tmp_path_factory.mktemp("data"))


def shrink(config, manual_dir):
    """Makes a config small enough for a test; 8 clips a batch, one for each device."""
    config.data.manual_dir = str(manual_dir)
    config.data.short_side = 40
    config.data.crop_size = 32
    config.model.depth = 14
    config.model.width = 8
    config.model.num_segments = 4
    config.batch_size = 8
    config.eval.batch_size = 8
    config.num_epochs = 2.0
    config.eval.every_epochs = 1.0
    config.schedule.decay_epochs = (1.0,)
    config.log_every_steps = 1
    config.checkpoint_every_steps = 1
    return config


@pytest.fixture
def config(folder):
    return shrink(ma52.get_config(), folder)
