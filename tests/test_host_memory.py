import platform
import subprocess
import sys
import textwrap

import pytest

from manet_jax import host_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")

# Pages that the kernel has to clear when a thread writes 32 MiB, in the third of three threads that free them again.
COUNT = """
    import resource, threading
    from manet_jax import host_memory

    host_memory.keep_freed()
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        thread = threading.Thread(target=lambda: b"x" * 2**25)
        thread.start()
        thread.join()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_a_thread_frees_is_there_for_the_next():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(COUNT)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # of 8192


@pytest.mark.parametrize("name", ["entry_points", "find_spec"])
def test_with_an_accelerators_package_the_c_library_stays_as_it_is(monkeypatch, name):
    module = host_memory.importlib.metadata if name == "entry_points" else host_memory.importlib.util
    monkeypatch.setattr(module, name, lambda *_, **__: ["one"])
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: pytest.fail("mallopt is called"))
    host_memory.keep_freed()
