"""`python -m tfds_ma52.synthetic DIR`."""

import argparse
import functools
import pathlib
import sys
from typing import Any

from tfds_ma52.command import run_command
from tfds_ma52.synthetic.preview import write_preview
from tfds_ma52.synthetic.writer import FRAME_RATES, SUBJECTS, write_synthetic


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: the command line without the program's name; None takes the process's own.

    Returns:
      The exit status: 0, or 2 for a user's mistake.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tfds_ma52.synthetic",
        description="Writes a synthetic stand-in for MA-52, in its layout: a drawn, seated figure does each of the 52 "
        "micro-actions. An interrupted run resumes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("dir", type=pathlib.Path, help="the folder to write; made where it does not exist")
    parser.add_argument(
        "--size",
        type=float,
        default=0.1,
        help="clips as a share of MA-52's 11,250 + 5,586; of untrimmed videos, as a share of 200 + 100, 90 s each",
    )
    parser.add_argument("--pro", action="store_true", help="several micro-actions and an emotion in every clip")
    parser.add_argument(
        "--untrimmed", action="store_true", help="videos of a minute or two with many micro-actions, as MMA-52's"
    )
    parser.add_argument("--subjects", choices=SUBJECTS, default="shared", help="whether train and val share people")
    parser.add_argument("--test", action="store_true", help="write a test split too, its labels hidden")
    parser.add_argument("--short_side", type=int, default=256, help="width of the portrait frames in pixels, even")
    parser.add_argument("--frame_rate", type=int, choices=FRAME_RATES, default=FRAME_RATES[0], help="frames a second")
    parser.add_argument("--seed", type=int, default=0, help="fixes everything: the same seed gives the same clips")
    parser.add_argument("--processes", type=int, default=0, help="processes to draw with; 0 takes all cores")
    parser.add_argument(
        "--preview", action="store_true", help="write a contact sheet and a GIF of each class instead of clips"
    )
    options = vars(parser.parse_args(arguments))
    for name in ("size", "pro", "untrimmed", "subjects", "test", "frame_rate", "processes"):
        if options["preview"] and options[name] != parser.get_default(name):
            parser.error(f"--preview takes no --{name}: it draws one clip of each class")
    return run_command("tfds_ma52.synthetic", functools.partial(_write, options))


def _write(options: dict[str, Any]) -> int:
    root = options.pop("dir")
    if options.pop("preview"):
        write_preview(root, short_side=options["short_side"], seed=options["seed"])
    else:
        write_synthetic(root, **options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
