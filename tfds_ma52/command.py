"""The shell around a command: a user's mistake is one sentence and exit status 2, never a stack trace."""

import io
import os
import sys
from collections.abc import Callable

from tfds_ma52.errors import UserError


def run_command(program: str, run: Callable[[], int]) -> int:
    """Runs a command.

    Args:
      program: its name, printed before a user's mistake.
      run: returns the exit status.

    Returns:
      The exit status: 2 for a `UserError`, 130 after Ctrl-C, 1 where the reader of the output has gone.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a letter that the terminal does not have is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = run()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes once more at its end, to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
