"""Builds the TFDS data set `ma52` from a folder with clips and lists: python -m tfds_ma52 --manual_dir DIR."""

import argparse
import functools
import sys
from typing import Any

from tfds_ma52.command import run_command


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_ma52", description=__doc__)
    parser.add_argument("--manual_dir", required=True, help="the folder with the clips and the lists")
    parser.add_argument("--data_dir", default="", help="the folder of built sets (empty: <manual_dir>/tfds)")
    parser.add_argument(
        "--config",
        default="h264_256",
        help="h264_256 (default: short side 256, quick to read), jpeg_256 (likewise, quicker and larger) or original "
        "(the files as they are) for MA-52's layout; pro_h264_256, pro_jpeg_256 or pro_original for annotation files; "
        "mma52_h264_256 or mma52_jpeg_256 for MMA-52; mma82_h264_256, mma82_jpeg_256 or mma82_original for MMA-82; "
        "annotated_h264_256 or annotated_jpeg_256 for videos annotated with ELAN or BORIS",
    )
    parser.add_argument(
        "--video_folder", default="", help="a split's clips, e.g. 'clips_{split}' (empty: the default locations)"
    )
    parser.add_argument(
        "--list_file", default="", help="a split's list, e.g. 'lists/{split}.txt' (empty: the default locations)"
    )
    parser.add_argument(
        "--boxes", default="", help="crop each clip: a csv file with the columns video,x0,y0,x1,y1[,frame]"
    )
    parser.add_argument(
        "--frame_pattern", default="", help="names in folders of images, e.g. 'img_{:05d}.jpg' (empty: all images)"
    )
    parser.add_argument("--allow_damaged", type=_count, default=0, help="leave out up to this many damaged clips")
    parser.add_argument("--window", type=float, default=2.0, help="untrimmed videos: seconds of a clip (2)")
    parser.add_argument(
        "--stride", type=float, default=1.0, help="untrimmed videos: seconds from one clip's start to the next (1)"
    )
    parser.add_argument(
        "--min_overlap",
        type=float,
        default=0.5,
        help="untrimmed videos: share of the shorter of clip and action from which a label counts (0.5)",
    )
    parser.add_argument("--num_processes", type=_count, default=0, help="clips transcoded at once (0: all cores)")
    parser.add_argument("--overwrite", action="store_true", help="build again even if the set is there")
    arguments = vars(parser.parse_args(argv))
    return run_command("tfds_ma52", functools.partial(_build, arguments))


def _build(arguments: dict[str, Any]) -> int:
    from tfds_ma52 import ma52_dataset_builder, metadata  # late, because the help text should not wait for it

    print(metadata.summary(ma52_dataset_builder.build(**arguments)))
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


if __name__ == "__main__":
    sys.exit(main())
