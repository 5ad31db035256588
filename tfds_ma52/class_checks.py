"""Whether the labels of a data set mean the classes that they seem to mean."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tfds_ma52 import labels as labels_lib
from tfds_ma52.class_names import outside
from tfds_ma52.splits import role_of


class GivenId(NamedTuple):
    """A label that a list gives as an id, which may be out of range.

    Attributes:
      split: as `folder.ListedClip.split`.
      location: as in the problem of an id out of range.
      id: the number.
    """

    split: str
    location: str
    id: int


def check_classes(
    root: pathlib.Path,
    labels: labels_lib.LabelSet,
    occurring: Mapping[str, set[int]],
    given: Sequence[GivenId],
    problems: Sequence[str],
    *,
    own_names: bool,
) -> tuple[list[str], tuple[str, ...]]:
    """Looks whether ids start at 1, whose classes they are, and which classes train and val lack.

    Args:
      root: the folder.
      labels: its classes.
      occurring: the classes that occur in train, val and test.
      given: the labels that are ids.
      problems: of the lists; those of ids that seem to start at 1 become one.
      own_names: whether the folder names its classes.

    Returns:
      The problems and the warnings.
    """
    ids = {each.id for each in given if role_of(each.split) != "test"}
    problems = _join_outside(problems, given, ids | occurring["train"] | occurring["val"], len(labels.names))
    found = set[int]().union(*occurring.values())
    warnings: list[str] = []
    # A label that is a name would be one of MA-52's.
    unsure = not own_names and bool(ids) and found <= {each.id for each in given}
    others = unsure and 2 * len(found) <= len(labels_lib.MA52_NAMES)
    if others:
        warnings.append(_other_classes(root, len(found)))
    if not problems:  # which may have cost a class its clips
        warnings += _absent_classes(root, labels, occurring, ids, all_absent=not others)
    return problems, tuple(warnings)


def _join_outside(problems: Sequence[str], given: Sequence[GivenId], found: set[int], num_classes: int) -> list[str]:
    """The problems; where the ids seem to start at 1, one in place of those of the last id.

    They seem to if the number of classes is an id, the largest, and class 0 is not among those found.
    """
    if num_classes not in found or not found <= set(range(1, num_classes + 1)):
        return list(problems)
    fault = outside("label", num_classes, num_classes)
    texts = {f"{each.location}: {fault}" for each in given if each.id == num_classes}
    kept = [problem for problem in problems if problem not in texts]
    first = next((i for i, problem in enumerate(problems) if problem in texts), None)
    if first is not None:
        num_others = len(problems) - len(kept) - 1
        others = f" (and {num_others} more)" if num_others else ""
        kept.insert(first, f"{problems[first]}{others}; no label is 0: the ids seem to start at 1, and must start at 0")
    return kept


def _absent_classes(
    root: pathlib.Path,
    labels: labels_lib.LabelSet,
    occurring: Mapping[str, set[int]],
    ids: set[int],
    *,
    all_absent: bool,
) -> list[str]:
    """Warnings of classes that train and val lack (all of them, or only those that occur in val)."""
    absent = set(range(len(labels.names))) - occurring["train"] - occurring["val"]
    only_val = occurring["val"] - occurring["train"]
    warnings: list[str] = []
    if absent == {0} and ids and 0 not in ids:
        warnings.append(
            f"{root}: no clip of train and val is of class 0 ({labels.names[0]}), but some are of every other class: "
            "if the ids start at 1, let them start at 0"
        )
    elif absent and all_absent:
        warnings.append(f"{root}: train and val have no clip of {_count_names(absent, labels)}")
    if only_val:
        warnings.append(f"{root}: val has clips, but train has none, of {_count_names(only_val, labels)}")
    return warnings


def _count_names(ids: set[int], labels: labels_lib.LabelSet) -> str:
    names = ", ".join(labels.names[i] for i in sorted(ids)[:10])
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return f"{len(ids)} of {len(labels.names)} classes: {names}{more}"


def _other_classes(root: pathlib.Path, num_occurring: int) -> str:
    """A warning that a folder without label names has few of MA-52's classes, as a set with classes of its own."""
    label_file = labels_lib.LABEL_FILES[0]
    texts = ", ".join(sorted(path.name for path in root.glob("*.txt") if "_list_videos" not in path.name)[:5])
    return (
        f"{root} has no {label_file}{f' ({texts} is not read)' if texts else ''}: its labels are taken as MA-52's "
        f"{len(labels_lib.MA52_NAMES)} classes, of which {num_occurring} occur; if they are classes of your own, "
        f"write {root / label_file} with '<id><TAB><name>' a line"
    )
