import json
import os
import platform
import subprocess
import sys

import pytest

from manet_jax import host_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")

# Prints what a command sees after the call, and the process that it was started as.
COMMAND = """
import json, os, sys
from manet_jax import host_memory
host_memory.use_huge_pages("command")
print(json.dumps([os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], os.getpid()]))
"""
ARGUMENTS = ["--config.data.manual_dir=a b", ""]


def start(folder, given, *words):
    """What `COMMAND` prints in a process with some tunables, and that process's number."""
    (folder / "command.py").write_text(COMMAND)
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if given is not None:
        environment["GLIBC_TUNABLES"] = given
    command = [sys.executable, "-W", "error", *words, *ARGUMENTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder, env=environment, text=True) as process:
        return json.load(process.stdout), process.pid


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_a_command_starts_anew_with_huge_pages(tmp_path, given, expected):
    printed, number = start(tmp_path, given, "-m", "command")
    assert printed == [expected, ARGUMENTS, number]


def test_a_process_that_was_not_started_for_the_command_goes_on(tmp_path):
    script = "import runpy; runpy.run_module('command', run_name='__main__', alter_sys=True)"
    printed, number = start(tmp_path, None, "-c", script)
    assert printed == [None, ARGUMENTS, number]


@pytest.mark.parametrize("name", ["entry_points", "find_spec"])
def test_with_an_accelerators_package_a_command_goes_on_as_it_is(monkeypatch, name):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(host_memory.sys, "orig_argv", ["python", "-m", "command"])
    module = host_memory.importlib.metadata if name == "entry_points" else host_memory.importlib.util
    monkeypatch.setattr(module, name, lambda *_, **__: ["one"])
    monkeypatch.setattr(host_memory.os, "execve", lambda *_: pytest.fail("it starts anew"))
    host_memory.use_huge_pages("command")


@pytest.mark.skipif(host_memory._has_accelerator(), reason="a command keeps the memory as it is then")
def test_training_starts_anew(tmp_path, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    config = tmp_path / "config.py"
    config.write_text("import os\ndef get_config():\n  raise ValueError('seen: ' + os.environ['GLIBC_TUNABLES'])\n")
    command = [sys.executable, "-m", "manet_jax.main", "--config", str(config)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == "manet_jax: seen: glibc.malloc.hugetlb=1\n"
