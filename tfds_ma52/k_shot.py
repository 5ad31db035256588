"""Draws k clips of each class of a split into a list: python -m tfds_ma52.k_shot DIR --k 5 --split NAME --out FILE.

Training takes it with --config.data.train_list=FILE. The clips of a smaller k are among those of a larger one.
"""

import argparse
import functools
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfds_ma52 import folder as folder_lib
from tfds_ma52 import labels as labels_lib
from tfds_ma52 import mma82
from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError, report
from tfds_ma52.files import write_atomically
from tfds_ma52.folder import Folder
from tfds_ma52.splits import DOMAIN_SPLITS

_LINE = re.compile(r"(?P<name>\S.*?)\s+(?P<label>\d{1,9})")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_ma52.k_shot", description=__doc__)
    parser.add_argument("dir", type=pathlib.Path, help="a folder in the layout of MMA-82, or of MA-52")
    parser.add_argument("--k", type=int, required=True, help="clips of each class")
    parser.add_argument("--split", required=True, help="where to draw from, such as psychiatric_train")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the list to write, '<name> <label>' a line")
    parser.add_argument("--seed", type=int, default=0, help="fixes the clips (0)")
    parser.add_argument("--list_file", default="", help="as of python -m tfds_ma52")
    options = vars(parser.parse_args(arguments))
    return run_command("tfds_ma52.k_shot", functools.partial(_run, options))


def _run(options: dict[str, Any]) -> int:
    root, split, out = options["dir"], options["split"], options["out"]
    module = mma82 if split in DOMAIN_SPLITS else folder_lib
    folder = module.read_folder(root.expanduser(), list_file=options["list_file"])
    if folder.problems:
        raise UserError(report(f"the lists of {root} cannot be used", folder.problems))
    drawn = draw(folder, split, options["k"], options["seed"])
    try:
        write_atomically(out, "".join(f"{name} {label}\n" for name, label in drawn))
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written ({error.strerror})") from error
    labels = [label for _, label in drawn]
    print(f"{out}: {len(drawn)} clips of {len(set(labels))} classes")
    if note := _short_classes(folder.labels, labels, options["k"]):
        print(note, file=sys.stderr)
    return 0


def draw(folder: Folder, split: str, k: int, seed: int) -> list[tuple[str, int]]:
    """Draws k clips of each class, all where there are fewer.

    Args:
      folder: of clips of one label each.
      split: to draw from.
      k: clips of a class.
      seed: fixes the clips, of each class on its own.

    Returns:
      Name and class of each clip drawn, in the order of the list.

    Raises:
      UserError: there is no such split with public labels, or a number is out of range.
    """
    if k < 1:
        raise UserError(f"--k is {k}; it must be at least 1")
    if seed < 0:
        raise UserError(f"--seed is {seed}; it must be at least 0")
    known = sorted({clip.split for clip in folder.clips if clip.labels is not None})
    if split not in known:
        raise UserError(f"--split: there is no split {split!r} with public labels; there are {', '.join(known)}")
    clips = [(clip.video_id, clip.labels[0]) for clip in folder.clips if clip.split == split and clip.labels]
    rows: list[int] = []
    for label in range(len(folder.labels.names)):
        members = [row for row, (_, other) in enumerate(clips) if other == label]
        rows += np.random.default_rng([seed, label]).permutation(members)[:k].astype(int).tolist()
    return [clips[row] for row in sorted(rows)]


def _short_classes(labels: labels_lib.LabelSet, drawn: Sequence[int], k: int) -> str:
    """A sentence on the classes with fewer than k clips; "" where there is none."""
    counts = {name: drawn.count(i) for i, name in enumerate(labels.names)}
    short = [f"{name} ({count or 'none'})" for name, count in counts.items() if count < k]
    return f"{len(short)} of {len(counts)} classes have fewer than {k} clips: {', '.join(short)}" if short else ""


def read_list(path: pathlib.Path) -> dict[str, int]:
    """Reads a list that the command wrote: the class of each clip by its name.

    Raises:
      UserError: the file is missing, empty or malformed; its field is "train_list".
    """
    found: dict[str, int] = {}
    problems: list[str] = []
    try:
        lines = labels_lib.read_lines(path)
    except UserError as error:
        raise UserError(f"{{flag}}: {error}", field="train_list") from error
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line.strip())
        if not line.strip():
            continue
        if match is None:
            problems.append(f"{path}:{number}: expected '<name> <label>', got {line!r}")
        elif match["name"] in found:
            problems.append(f"{path}:{number}: {match['name']} is listed more than once")
        else:
            found[match["name"]] = int(match["label"])
    if problems or not found:
        raise UserError(report("{flag} cannot be used", problems or [f"{path}: the list is empty"]), field="train_list")
    return found


if __name__ == "__main__":
    sys.exit(main())
