"""The one exception that stands for a mistake of the user rather than of the program."""


class UserError(Exception):
    """Bad input. Its text names the file or field, says what is wrong and what to do.

    The commands print the text without a stack trace and exit with status 2.
    """
