"""Classes and emotions as people write them: names in any spelling, ids, and words for none."""

import difflib
import re
from collections.abc import Sequence

# What stands for an empty cell, where no class or emotion has such a name.
MISSING = ("", "-", "na", "n/a", "#n/a", "<na>", "nan", "none", "null")

_NUMBER = r"[+-]?\d+([.,]\d+)?"


class ClassNames:
    """Names and their ids, also read from free spelling."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._ids: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            self._ids.setdefault(normal(name), []).append(i)
        self._has_numbers = any(re.fullmatch(_NUMBER, name) for name in self.names)

    def id_of(self, text: str) -> int | None:
        """The number of a text that is an id, which may be out of range; None for any other."""
        match = re.fullmatch(r"(\d{1,9})(\.0+)?", text)  # pandas writes 3.0 where another cell is empty
        return int(match[1]) if match and not self._has_numbers else None

    def find(self, text: str) -> list[int]:
        """The ids that a text may mean: of more than one name only where these differ in nothing but case or spaces."""
        if text in self.names:
            return [self.names.index(text)]
        for spelling in (normal(text), without_fraction(text)):
            if spelling in self._ids:
                return self._ids[spelling]
        number = self.id_of(text)
        return [number] if number is not None and number < len(self.names) else []

    def is_name(self, text: str) -> bool:
        """Whether a text is a name, in any spelling, rather than an id."""
        return text in self.names or normal(text) in self._ids or without_fraction(text) in self._ids

    def is_missing(self, text: str) -> bool:
        """Whether a text stands for no name."""
        return normal(text) in MISSING and not self.find(text)

    def read(self, text: str, what: str) -> int:
        """Returns the id of a name, in any spelling of case and spaces, or else of an id in digits.

        Where a name is a number, no number is an id.

        Raises:
          ValueError: there is no such name or id.
        """
        found = self.find(text)
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{what} {text!r} may be {' or '.join(repr(self.names[i]) for i in found)}")
        if self._has_numbers and re.fullmatch(_NUMBER, text):
            raise ValueError(f"unknown {what} {text[:20]!r}: where names are numbers, it must be one of them")
        number = self.id_of(text)
        if number is not None or text.isdecimal():  # of more digits than any id
            raise ValueError(outside(what, text[:20] if number is None else number, len(self.names)))
        near = difflib.get_close_matches(normal(text), self._ids, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {text!r}{hint}")


def outside(what: str, number: int | str, num_names: int) -> str:
    """The fault of an id that is out of range."""
    return f"{what} {number} is outside 0..{num_names - 1}"


def normal(name: str) -> str:
    """A name in lower case, with single spaces."""
    return " ".join(name.lower().split())


def without_fraction(text: str) -> str:
    """A text; of a whole number such as 3.0 the 3."""
    return re.sub(r"^(\d+)\.0+$", r"\1", text)
