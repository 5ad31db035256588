"""The shell around a command: a user's mistake is one sentence and exit status 2, never a stack trace."""

import sys
from collections.abc import Callable

from tfds_ma52.errors import UserError


def run_command(program: str, run: Callable[[], int]) -> int:
    """Runs a command.

    Args:
      program: its name, printed before a user's mistake.
      run: returns the exit status.

    Returns:
      The exit status, 2 for a `UserError`.
    """
    try:
        return run()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
