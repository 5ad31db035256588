"""Corrects what a model found in drawn videos, file by file of ELAN, as a person would who sees everything.

python -m manet_jax.studies.correct FOLDER --truth data/mma52_study

FOLDER holds the files that `manet_jax.predict --elan` wrote. Each gets the actions that were drawn, in the same tiers;
what a person would have had to do is counted. So the way from predictions to better ones can be shown without a person:
docs/annotation_tools.md.
"""

import argparse
import collections
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import tqdm

from manet_jax.annotation_files import write_eaf
from manet_jax.detection.metric import temporal_iou
from manet_jax.detection.segments import Segment
from manet_jax.studies.study import markdown_table
from tfds_ma52 import elan, mma52
from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError, report
from tfds_ma52.labels import LabelSet
from tfds_ma52.untrimmed import Action

_SAME = 0.5  # temporal IoU from which on a predicted action is the drawn one
_CLOSE = 0.25  # seconds by which a start or an end may differ and be left as it is
KINDS = ("left as it is", "moved in time", "deleted", "added")


def run(folder: pathlib.Path, truth: pathlib.Path) -> dict[str, collections.Counter[str]]:
    """Corrects the files of a folder; returns for each split how many annotations were of each of `KINDS`.

    Raises:
      UserError: there is no file to correct, or one cannot be read, is of no drawn video, or of one whose actions are
        hidden, or has another class; then no file is changed.
    """
    labels, videos = mma52.read_videos(truth)
    by_name = {pathlib.PurePath(video.name).stem: video for video in videos}
    paths = sorted(folder.glob("*.eaf"))
    problems = [f"{path}: {truth} has no video {path.stem}" for path in paths if path.stem not in by_name]
    hidden = mma52.hidden_splits(videos)
    problems += [
        f"{path}: the actions of split {by_name[path.stem].split} are hidden"
        for path in paths
        if path.stem in by_name and by_name[path.stem].split in hidden
    ]
    found = {path: elan.read_eaf(path, problems) for path in paths}
    problems += [
        f"{each.location}: {truth} has no class {each.value!r}"
        for observation in found.values()
        if observation is not None
        for each in observation.annotations
        if each.value not in labels.names
    ]
    if problems or not paths:
        raise UserError(report(f"{folder} cannot be corrected", problems or ["it has no .eaf file"]))
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for path, observation in tqdm.tqdm(found.items(), "correcting", unit="file", dynamic_ncols=True):
        video = by_name[path.stem]
        if observation is not None:
            counts[video.split].update(compare(_segments(observation, labels), video.actions))
        drawn = [Segment(action.start, action.end, action.class_id, 1.0) for action in video.actions]
        write_eaf(path, mma52.find_video(truth, video), video.duration, drawn, labels)
    return dict(counts)


def table(counts: dict[str, collections.Counter[str]]) -> str:
    """A row for each of `KINDS`, a column for each split."""
    rows = [[kind, *(str(of_split[kind]) for of_split in counts.values())] for kind in KINDS]
    return markdown_table(["", *counts], rows)


def compare(predicted: Sequence[Segment], actions: Sequence[Action]) -> list[str]:
    """What must be done with each predicted segment, and for each action that none of them is: one of `KINDS` each.

    Pairs are made by falling temporal IoU, and each segment and action is in one.
    """
    spans = np.array([(action.start, action.end) for action in actions]).reshape(-1, 2)
    pairs = [
        (overlap, i, j)
        for i, segment in enumerate(predicted)
        for j, overlap in enumerate(temporal_iou((segment.start, segment.end), spans).tolist())
        if segment.class_id == actions[j].class_id and overlap >= _SAME
    ]
    of_segment: dict[int, int] = {}
    for _, i, j in sorted(pairs, reverse=True):
        if i not in of_segment and j not in of_segment.values():
            of_segment[i] = j
    moved = [
        max(abs(predicted[i].start - actions[j].start), abs(predicted[i].end - actions[j].end)) > _CLOSE
        for i, j in of_segment.items()
    ]
    return (
        ["moved in time" if each else "left as it is" for each in moved]
        + ["deleted"] * (len(predicted) - len(moved))
        + ["added"] * (len(actions) - len(moved))
    )


def _segments(observation: elan.Observation, labels: LabelSet) -> list[Segment]:
    return [Segment(each.start, each.end, labels.names.index(each.value), 1.0) for each in observation.annotations]


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.studies.correct",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=pathlib.Path, help="of the .eaf files, which are written anew")
    parser.add_argument("--truth", type=pathlib.Path, required=True, help="the drawn, untrimmed videos")
    arguments = parser.parse_args(argv)

    def correct() -> int:
        print(table(run(arguments.folder, arguments.truth)))
        return 0

    return run_command("manet_jax", correct)


if __name__ == "__main__":
    sys.exit(main())
