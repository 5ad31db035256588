"""The one exception that stands for a mistake of the user rather than of the program; lists of problems as its text."""

from collections.abc import Sequence


class UserError(Exception):
    """Bad input. Its text states the file or field, the fault, and the remedy.

    The commands print the text without a stack trace and exit with status 2.

    Attributes:
      field: the argument at fault, such as "manual_dir", or "". In the text, `{flag}` stands for the flag that sets it:
        each command has its own name for the same argument.
    """

    def __init__(self, text: str, field: str = ""):
        super().__init__(text)
        self.field = field

    def __str__(self) -> str:
        return self.args[0].replace("{flag}", f"--{self.field}")

    def under(self, prefix: str) -> "UserError":
        """The same error, its field a part of another: "manual_dir" becomes "config.data.manual_dir"."""
        return type(self)(self.args[0], f"{prefix}.{self.field}") if self.field else self


def report(title: str, problems: Sequence[str]) -> str:
    """One text that counts and lists problems, a line each."""
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    return "\n  ".join([f"{title}: {count}", *problems])
