"""The metadata of a built set: labels, counts, sources, and the clips that were left out."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from tfds_ma52 import sources, video
from tfds_ma52.encoding import VideoInfo
from tfds_ma52.folder import Folder, ListedClip


def of_set(
    root: pathlib.Path,
    folder: Folder,
    kept: dict[str, list[ListedClip]],
    infos: Sequence[VideoInfo | str],
    left_out: list[str],
) -> dict[str, Any]:
    """The metadata of a set.

    Args:
      root: the folder that it was built from.
      folder: what was read there.
      kept: each split's clips.
      infos: of each of the folder's clips, what the build found or why the clip cannot be read.
      left_out: a line for each damaged clip.
    """

    def count(ids: Iterable[int], num_ids: int) -> list[int]:
        counted = collections.Counter(ids)
        return [counted[i] for i in range(num_ids)]

    num_classes, num_emotions = len(folder.labels.names), len(folder.emotions)
    return {
        "labels": dataclasses.asdict(folder.labels),
        "emotions": list(folder.emotions),
        "label_counts": {
            split: count((i for clip in clips for i in clip.labels or ()), num_classes) for split, clips in kept.items()
        },
        "emotion_counts": {
            split: count((clip.emotion for clip in clips), num_emotions) for split, clips in kept.items()
        },
        "hidden": [split for split, clips in kept.items() if all(clip.labels is None for clip in clips)],
        "fingerprint": folder.fingerprint,
        "sources": sources.describe(root, (clip.path for clip in folder.clips)),
        "left_out": left_out,
        "left_out_ids": _missing(folder, kept),
        "unchecked": _unchecked(folder, infos),
    }


def difference(root: pathlib.Path, folder: Folder, metadata: Mapping[str, Any]) -> str:
    """In what a folder differs from what a set with this metadata was built from; "" where it does not."""
    if metadata["fingerprint"] != folder.fingerprint:
        return "lists (or windows, or boxes)"
    recorded = metadata.get("sources")  # sets of before have none
    changed = sources.difference(root, (clip.path for clip in folder.clips), recorded) if recorded else ""
    return changed and f"videos ({changed})"


def _unchecked(folder: Folder, infos: Sequence[VideoInfo | str]) -> list[str]:
    """The files that do not say how long they are."""
    pairs = zip(folder.clips, infos, strict=True)
    unknown = [clip for clip, info in pairs if isinstance(info, VideoInfo) and not info.announces_length]
    return list(dict.fromkeys(str(clip.path) for clip in unknown))


def _missing(folder: Folder, kept: dict[str, list[ListedClip]]) -> dict[str, list[str]]:
    """The clips of each split that are in its list, but not in the built set."""
    ids = {split: {clip.video_id for clip in clips} for split, clips in kept.items()}
    return {
        split: [clip.video_id for clip in folder.clips if clip.split == split and clip.video_id not in ids[split]]
        for split in kept
    }


def summary(builder: tfds.core.DatasetBuilder) -> str:
    """A text for people: the splits, size and labels of a built set, and the clips left out."""
    splits = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    num_bytes = sum(file.stat().st_size for file in pathlib.Path(builder.data_dir).iterdir())
    lines = [f"{builder.data_dir}: {splits} clips, {num_bytes / 2**20:.1f} MiB"]
    if "labels" in builder.info.features:
        metadata = builder.info.metadata
        means = [
            f"{name} {sum(counts) / builder.info.splits[name].num_examples:.1f}"
            for name, counts in metadata["label_counts"].items()
            if name not in metadata["hidden"]
        ]
        lines.append(f"labels a clip: {', '.join(means)}; emotions: {', '.join(metadata['emotions']) or 'none'}")
    left_out = builder.info.metadata["left_out"]
    if left_out:
        lines += [f"left out {len(left_out)} damaged clips:", *left_out]
    if unchecked := builder.info.metadata.get("unchecked"):
        lines.append(video.unchecked(unchecked))
    return "\n  ".join(lines)
