"""`python -m tfds_ma52.synthetic DIR`."""

import argparse
import pathlib
import sys

from tfds_ma52.errors import UserError
from tfds_ma52.synthetic.writer import write_synthetic


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
        "micro-actions. An interrupted run goes on where it stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("dir", type=pathlib.Path, help="the folder to write; made where it does not exist")
    parser.add_argument("--train_per_class", type=int, default=14, help="train clips of each of the 52 classes")
    parser.add_argument("--val_per_class", type=int, default=5, help="val clips of each class")
    parser.add_argument(
        "--test_per_class", type=int, default=0, help="test clips of each class; 0 leaves the split out"
    )
    parser.add_argument("--short_side", type=int, default=128, help="height and width of the frames in pixels, even")
    parser.add_argument("--seed", type=int, default=0, help="fixes everything: the same seed gives the same clips")
    parser.add_argument("--processes", type=int, default=0, help="processes to encode with; 0 takes all cores")
    options = vars(parser.parse_args(arguments))
    try:
        write_synthetic(options.pop("dir"), **options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
