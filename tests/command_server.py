"""Runs commands as `python -m` does, in children of a process that has imported their libraries, which takes seconds.

JAX starts in the children only, so that each has the devices that it is given. One that hangs is ended.
"""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback

from helpers import ROOT

from manet_jax.studies.small_runs import environment

SECONDS = 200  # a command may take


@contextlib.contextmanager
def start():
    """Gives `run(arguments, num_devices=1)`: for a command that starts with `python -m`, as `small_runs.run`."""
    server = [sys.executable, "-W", "ignore", __file__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(server, cwd=ROOT, env=environment(1), text=True, bufsize=1, **pipes) as process:

        def run(arguments, num_devices=1):
            python, option, *words = map(str, arguments)
            assert (python, option) == (sys.executable, "-m")
            process.stdin.write(json.dumps([words, environment(num_devices)["XLA_FLAGS"]]) + "\n")
            return subprocess.CompletedProcess(arguments, *json.loads(process.stdout.readline()))

        yield run
        process.stdin.close()


def _serve():
    from manet_jax import inference, train  # noqa: F401  for the commands
    from manet_jax.report import page  # noqa: F401
    from tfds_ma52 import ma52_dataset_builder  # noqa: F401

    sys.path[0] = str(ROOT)  # as `python -m` has it
    for line in sys.stdin:
        words, flags = json.loads(line)
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
            child = os.fork()
            if not child:
                signal.alarm(SECONDS)
                os.environ["XLA_FLAGS"] = flags
                os.dup2(output.fileno(), 1)
                os.dup2(messages.fileno(), 2)
                os._exit(_run(words))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            texts = []
            for file in (output, messages):
                file.seek(0)
                texts.append(file.read().decode())
            print(json.dumps([status, *texts]), flush=True)


def _run(words):
    """Runs a module with arguments; returns the exit status."""
    sys.argv = [*words]
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = int(isinstance(stop.code, str)) or stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    _serve()
