"""Checkpoints and the memory of the process that saves them."""

import os
import pathlib
import sys

import numpy as np
import pytest
from checkpoints import save_checkpoint


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_saving_returns_free_memory_to_the_operating_system(tmp_path):
    blocks = [np.ones(4096) for _ in range(8000)]  # 262 MB
    kept = blocks[::100]  # as glibc returns what lies above the last one by itself
    del blocks
    before = resident()
    save_checkpoint(tmp_path)
    assert before - resident() > 150
    assert len(kept) == 80
