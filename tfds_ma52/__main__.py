"""Builds the TFDS data set `ma52` from a folder with clips and lists: python -m tfds_ma52 --manual_dir DIR."""

import argparse
import sys


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_ma52", description=__doc__)
    parser.add_argument("--manual_dir", required=True, help="the folder with the clips and the lists")
    parser.add_argument("--data_dir", default="", help="where to write the set (empty: <manual_dir>/tfds)")
    parser.add_argument(
        "--config",
        default="h264_256",
        help="h264_256 (default: short side 256, quick to read) or original (the files as they are) for MA-52's "
        "layout; pro_h264_256 or pro_original for annotation files; mma52_h264_256 for MMA-52",
    )
    parser.add_argument("--video_folder", default="", help="a split's clips, e.g. 'clips_{split}' (empty: the usual)")
    parser.add_argument("--list_file", default="", help="a split's list, e.g. 'lists/{split}.txt' (empty: the usual)")
    parser.add_argument("--allow_damaged", type=_count, default=0, help="leave out up to this many damaged clips")
    parser.add_argument("--window", type=float, default=2.0, help="MMA-52: seconds of a clip (2)")
    parser.add_argument(
        "--stride", type=float, default=1.0, help="MMA-52: seconds from one clip's start to the next (1)"
    )
    parser.add_argument(
        "--min_overlap",
        type=float,
        default=0.5,
        help="MMA-52: share of the shorter of clip and action from which a label counts (0.5)",
    )
    parser.add_argument("--num_processes", type=_count, default=0, help="clips transcoded at once (0: all cores)")
    parser.add_argument("--overwrite", action="store_true", help="build again even if the set is there")
    arguments = vars(parser.parse_args(argv))

    # Late, because the help text should not wait for it.
    from tfds_ma52 import ma52_dataset_builder
    from tfds_ma52.errors import UserError

    try:
        builder = ma52_dataset_builder.build(**arguments)
    except UserError as error:
        print(f"tfds_ma52: {error}", file=sys.stderr)
        return 2
    print(_summary(builder))
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _summary(builder) -> str:
    splits = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    num_bytes = sum(split.num_bytes for split in builder.info.splits.values())
    lines = [f"{builder.data_dir}: {splits} clips, {num_bytes / 2**20:.1f} MiB"]
    if "labels" in builder.info.features:
        metadata, splits = builder.info.metadata, builder.info.splits
        means = [
            f"{name} {sum(counts) / splits[name].num_examples:.1f}"
            for name, counts in metadata["label_counts"].items()
            if name not in metadata["hidden"]
        ]
        lines.append(f"labels a clip: {', '.join(means)}; emotions: {', '.join(metadata['emotions']) or 'none'}")
    left_out = builder.info.metadata["left_out"]
    if left_out:
        lines += [f"left out {len(left_out)} damaged clips:", *left_out]
    return "\n  ".join(lines)


if __name__ == "__main__":
    sys.exit(main())
