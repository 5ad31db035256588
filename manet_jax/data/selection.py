"""The clips of a list, such as `python -m tfds_ma52.k_shot` draws, among those of a built set."""

import pathlib
from collections.abc import Sequence

from tfds_ma52 import k_shot
from tfds_ma52.errors import UserError, report


def find_rows(path: pathlib.Path, examples: Sequence[dict]) -> tuple[int, ...]:
    """Finds the clips of a list, by their names; it reads all examples.

    Args:
      path: of the list, '<name> <label>' a line.
      examples: of a built set, of one label each.

    Returns:
      Their positions among the examples, in the order of these.

    Raises:
      UserError: the list is malformed, or has clips that are not there or are of other classes there; its field is
        "train_list".
    """
    listed = k_shot.read_list(path)
    found: dict[str, tuple[int, int]] = {}
    for row, example in enumerate(examples):
        if "label" not in example:
            raise UserError("{flag} is for clips of one label each: set it to ''", field="train_list")
        name = example["video_id"].decode()
        if name in listed:
            found[name] = row, int(example["label"])
    problems = [f"{path}: {name} is no clip of the splits to train on" for name in listed if name not in found]
    problems += [
        f"{path}: {name} is of class {listed[name]}, but of class {label} in the built set"
        for name, (_, label) in found.items()
        if label != listed[name]
    ]
    if problems:
        raise UserError(report("{flag} cannot be used", problems), field="train_list")
    return tuple(row for row, _ in found.values())
