"""The TFDS data set `ma52`: Micro-Action-52, or any data set in its layout, as ArrayRecord files."""

import dataclasses
import fcntl
import functools
import hashlib
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_ma52 import (
    annotated,
    annotations,
    box_file,
    built_set,
    image_folder,
    jpegs,
    metadata,
    mma52,
    mma82,
    splits,
    transcode,
)
from tfds_ma52 import folder as folder_lib
from tfds_ma52 import labels as labels_lib
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.encoding import VideoInfo
from tfds_ma52.errors import UserError, report
from tfds_ma52.pool import check_not_importing_main

_log = logging.getLogger(__name__)

# A clip, and the file of its bytes or the number of its first frame.
_Row = tuple[folder_lib.ListedClip, VideoInfo, pathlib.Path | int]
_Shard = Callable[[], Iterator[tuple[str, dict[str, Any]]]]
_LAYOUTS = (  # see `Config`; of its configs' names; in words
    ("ma52", "", "MA-52's lists"),
    ("pro", "pro_", "annotation files"),
    ("mma52", "mma52_", "MMA-52's windows"),
    ("mma82", "mma82_", "MMA-82's domains"),
    ("annotated", "annotated_", "windows of videos annotated with ELAN or BORIS"),
)
_LAYOUT_MODULES = {"ma52": folder_lib, "pro": annotations, "mma52": mma52, "mma82": mma82, "annotated": annotated}
_WINDOWED = ("mma52", "annotated")  # layouts whose clips are windows of videos
_FORMS: tuple[tuple[str, transcode.Form, str], ...] = (
    ("h264_256", "h264", "H.264, short side 256, no sound"),
    ("jpeg_256", "jpeg", "a JPEG a frame, short side 256, no sound"),
    ("original", "original", "the original files, byte for byte"),
)
_ONE_LABEL = ("ma52", "mma82")  # layouts whose clips have one
_SHORT_SIDE = 256  # of transcoded clips
_SHARD_BYTES = 128 * 2**20  # a shard is held in memory while it is written
_DESCRIPTION = """\
Short clips of seated people, filmed whole-body in psychological interviews, each with one of 52 micro-actions in 7 body
groups (Guo et al., "Benchmarking Micro-action Recognition", IEEE TCSVT 2024), or another data set in the same layout;
clips with several micro-actions and an emotion from annotation files; windows of untrimmed videos, MMA-52's or those
that people annotated with ELAN or BORIS; or MMA-82's clips of several domains.
"""


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """A layout to read and a form to store.

    Attributes:
      name: of the config.
      description: in words.
      form: of stored clips, see `transcode`.
      layout: of the folder: "ma52", "pro" (`annotations`), "mma52", "mma82" or "annotated".
    """

    name: str
    description: str
    form: transcode.Form
    layout: str = "ma52"


class Builder(tfds.core.ShardBasedBuilder):
    """Builds `ma52` from a folder in MA-52's layout."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {  # noqa: RUF012 (the form TFDS asks for)
        "1.0.0": "First version.",
        "1.1.0": "Several labels a clip, emotions; labels and counts in the metadata.",
    }
    BUILDER_CONFIGS = [  # noqa: RUF012
        Config(name=f"{prefix}{name}", description=f"{source}: {stored}", form=form, layout=layout)
        for layout, prefix, source in _LAYOUTS
        for name, form, stored in _FORMS
        if layout not in _WINDOWED or form != "original"  # a window is no file
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = folder_lib.MISSING_DATA.format(
        reason="The clips cannot be downloaded automatically."
    ).replace("{flag}", "manual_dir")

    def __init__(
        self,
        *,
        folder: folder_lib.Folder | None = None,
        allow_damaged: int = 0,
        num_processes: int = 0,
        frame_pattern: str = "",
        **kwargs: Any,
    ):
        """Makes a builder.

        Args:
          folder: the data set to build; by default MA-52 in the manual_dir of TFDS.
          allow_damaged: how many damaged clips may be left out.
          num_processes: how many clips are transcoded at once; 0 stands for all cores.
          frame_pattern: of the names in folders of images, see `image_folder.find_images`.
          **kwargs: those of `tfds.core.ShardBasedBuilder`.
        """
        self._folder = folder
        self._allow_damaged = allow_damaged
        self._num_processes = num_processes
        self._frame_pattern = frame_pattern
        super().__init__(**{"file_format": "array_record", **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        labels = self._folder.labels if self._folder else labels_lib.MA52
        if self.builder_config.layout in _ONE_LABEL:
            known = {
                "label": tfds.features.ClassLabel(names=labels.names),
                "body_label": tfds.features.ClassLabel(names=labels.group_names),
            }
        else:
            known = {
                "labels": tfds.features.Tensor(shape=(len(labels.names),), dtype=np.uint8),  # 1 for each target
                "emotion": tfds.features.Scalar(np.int32),
            }
        if self.builder_config.form == "jpeg":
            stored = {"first_frame": tfds.features.Scalar(np.int64)}  # its record in `jpegs.frames_path`
        else:
            stored = {"video": tfds.features.Tensor(shape=(), dtype=np.object_)}  # its bytes
        return self.dataset_info_from_configs(
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    **stored,
                    "video_id": tfds.features.Text(),
                    **known,
                    "subject": tfds.features.Text(),
                    "num_frames": tfds.features.Scalar(np.int32),
                    "height": tfds.features.Scalar(np.int32),
                    "width": tfds.features.Scalar(np.int32),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[_Shard]]:
        root = pathlib.Path(dl_manager.manual_dir)
        folder = self._folder or self._read(root)
        form = self.builder_config.form
        targets = [
            self.work_folder / clip.split / hashlib.sha1(clip.video_id.encode()).hexdigest() for clip in folder.clips
        ]
        jobs = [(self._frames(clip), target) for clip, target in zip(folder.clips, targets, strict=True)]
        infos = transcode.prepare_videos(jobs, form=form, short_side=_SHORT_SIDE, num_processes=self._num_processes)
        left_out = self._check(folder, infos)

        shards: dict[str, list[_Shard]] = {}
        kept: dict[str, list[folder_lib.ListedClip]] = {}
        required = splits.required(clip.split for clip in folder.clips)
        for split in splits.ALL_SPLITS:
            rows: list[_Row] = [
                (clip, info, clip.path if form == "original" else transcode.content_path(target))
                for clip, info, target in zip(folder.clips, infos, targets, strict=True)
                if clip.split == split and isinstance(info, VideoInfo)
            ]
            if rows:
                kept[split] = [clip for clip, _, _ in rows]
                if form == "jpeg":
                    rows = _with_frames_apart(rows, jpegs.frames_path(self.data_dir, split))
                shards[split] = _shards(rows, folder.labels, self.builder_config.layout)
            elif split in required:
                raise UserError(report(f"split {split} has no readable clip", left_out))
        self.info.metadata.update(metadata.of_set(root, folder, kept, infos, left_out))
        return shards

    def _frames(self, clip: folder_lib.ListedClip) -> ClipFrames:
        return ClipFrames(clip.path, clip.span, clip.box, frame_pattern=self._frame_pattern, num_frames=clip.num_frames)

    def _read(self, root: pathlib.Path) -> folder_lib.Folder:
        """Reads MA-52 in the manual_dir of plain TFDS, which has fixed the classes already."""
        folder = folder_lib.read_folder(root) if self.builder_config.layout == "ma52" else None
        if folder is None or list(folder.labels.names) != self.info.features["label"].names:
            raise UserError(
                f"{root} names its own classes: build it with python -m tfds_ma52 --manual_dir, which takes them over."
            )
        return folder

    @property
    def work_folder(self) -> pathlib.Path:
        """The folder of finished clips until the set is whole; hidden, so that TFDS takes no notice of it."""
        return pathlib.Path(self._data_dir_root) / f".ma52_{self.builder_config.name}_in_progress"

    def _check(self, folder: folder_lib.Folder, infos: list[VideoInfo | str]) -> list[str]:
        """Returns a line for each damaged clip, or raises UserError with all problems."""
        damaged = [
            f"{clip.location}: {clip.path}: {info}"
            for clip, info in zip(folder.clips, infos, strict=True)
            if isinstance(info, str)
        ]
        if not folder.problems and len(damaged) <= self._allow_damaged:
            return damaged
        title = "the data set cannot be built"
        if damaged:
            title += f"; damaged clips can be repaired, or left out with {{flag}}={len(damaged)}"
        text = report(title, [*folder.problems, *damaged])
        raise UserError(text, field="allow_damaged" if damaged else "")


def _with_frames_apart(rows: list[_Row], path: pathlib.Path) -> list[_Row]:
    """Writes the frames of clips to a file of their own, and puts the number of its first there into each row."""
    firsts = itertools.accumulate((info.num_frames for _, info, _ in rows), initial=0)
    jpegs.write_frames(path, [file for _, _, file in rows if isinstance(file, pathlib.Path)])
    return [(clip, info, first) for (clip, info, _), first in zip(rows, firsts, strict=False)]


def _shards(rows: list[_Row], labels: labels_lib.LabelSet, layout: str) -> list[_Shard]:
    num_bytes = sum(stored.stat().st_size for _, _, stored in rows if isinstance(stored, pathlib.Path))
    num_shards = min(len(rows), num_bytes // _SHARD_BYTES + 1)
    return [functools.partial(_examples, rows[i::num_shards], labels, layout) for i in range(num_shards)]


def _examples(rows: list[_Row], labels: labels_lib.LabelSet, layout: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for clip, info, stored in rows:
        known = _one_label(clip, labels) if layout in _ONE_LABEL else _many_labels(clip, labels)
        content = {"video": stored.read_bytes()} if isinstance(stored, pathlib.Path) else {"first_frame": stored}
        yield (
            clip.video_id,
            {
                **content,
                "video_id": clip.video_id,
                **known,
                "subject": clip.subject,
                "num_frames": info.num_frames,
                "height": info.height,
                "width": info.width,
            },
        )


def _one_label(clip: folder_lib.ListedClip, labels: labels_lib.LabelSet) -> dict[str, int]:
    if clip.labels is None:
        return {"label": folder_lib.HIDDEN_LABEL, "body_label": folder_lib.HIDDEN_LABEL}
    (label,) = clip.labels
    return {"label": label, "body_label": labels.groups[label]}


def _many_labels(clip: folder_lib.ListedClip, labels: labels_lib.LabelSet) -> dict[str, Any]:
    targets = np.zeros(len(labels.names), np.uint8)
    targets[list(clip.labels or ())] = 1
    return {"labels": targets, "emotion": clip.emotion}


def build(
    manual_dir: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] = "",
    *,
    config: str = "h264_256",
    video_folder: str = "",
    list_file: str = "",
    boxes: str | os.PathLike[str] = "",
    frame_pattern: str = "",
    allow_damaged: int = 0,
    num_processes: int = 0,
    window: float = 2.0,
    stride: float = 1.0,
    min_overlap: float = 0.5,
    overwrite: bool = False,
    check_labels: Callable[[labels_lib.LabelSet], object] | None = None,
) -> tfds.core.DatasetBuilder:
    """Builds the data set in `manual_dir`, or opens it if it is there already.

    Args:
      manual_dir: a folder in the config's layout.
      data_dir: the folder of built sets; "" stands for `<manual_dir>/tfds`.
      config: the name of a builder config.
      video_folder: see `read_folder` of the layout's module: `folder`, `annotations`, `mma52`, `mma82` or `annotated`.
      list_file: likewise.
      boxes: a csv file of the part of each clip's picture that is wanted, see `box_file.read_boxes`; "": all of it.
      frame_pattern: of the names in folders of images, see `image_folder.find_images`.
      allow_damaged: how many damaged clips may be left out.
      num_processes: how many clips are transcoded at once; 0 stands for all cores.
      window: of the layouts "mma52" and "annotated", see `mma52.read_folder`.
      stride: likewise.
      min_overlap: likewise.
      overwrite: build again even if it is there.
      check_labels: is given the classes before the clips take their time, and may raise UserError.

    Returns:
      The builder, ready for `as_data_source`.

    Raises:
      UserError: the folder is missing or wrong, clips are damaged, or the set there was built from other lists
        or videos.
    """
    manual_dir = pathlib.Path(manual_dir).expanduser()
    data_dir = pathlib.Path(data_dir).expanduser() if str(data_dir) else manual_dir / "tfds"
    layouts = {known.name: known.layout for known in Builder.BUILDER_CONFIGS}
    if config not in layouts:
        raise UserError(f"there is no builder config {config!r}; known are {', '.join(layouts)}", field="config")
    module = _LAYOUT_MODULES[layouts[config]]
    windowed = layouts[config] in _WINDOWED
    windows = {"window": window, "stride": stride, "min_overlap": min_overlap} if windowed else {}
    locations = {"video_folder": video_folder, "list_file": list_file}
    image_folder.check_pattern(frame_pattern)

    def read() -> folder_lib.Folder:
        folder = module.read_folder(manual_dir, **locations, **windows)
        if frame_pattern:
            folder = dataclasses.replace(folder, fingerprint=f"{folder.fingerprint} {frame_pattern}")
        return box_file.add_boxes(folder, pathlib.Path(boxes).expanduser()) if str(boxes) else folder

    target = data_dir / "ma52" / config / str(Builder.VERSION)
    open_built = functools.partial(
        built_set.open_built, target, manual_dir, read, any((*locations.values(), str(boxes)))
    )
    if not overwrite and built_set.is_built(target):
        return open_built()
    folder = read()
    for warning in folder.warnings:
        _log.warning(warning)
    _check_form(config, folder)
    if check_labels and not folder.problems:
        check_labels(folder.labels)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = (target.parent / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{data_dir} cannot be written ({error.strerror}): name another folder with {{flag}}", field="data_dir"
        ) from error
    check_not_importing_main()
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second run that needs the same set waits here, and then finds it
        if not overwrite and built_set.is_built(target):
            return open_built()
        builder = functools.partial(
            Builder,
            folder=folder,
            allow_damaged=allow_damaged,
            num_processes=num_processes,
            frame_pattern=frame_pattern,
            data_dir=data_dir,
            config=config,
        )
        built_set.build_anew(builder, target, manual_dir)
    return tfds.builder_from_directory(target)


def _check_form(config: str, folder: folder_lib.Folder) -> None:
    if config.endswith("original") and any(clip.box or clip.num_frames for clip in folder.clips):
        raise UserError(
            f"config {config} stores files as they are; boxes and folders of images need a config of h264_256",
            field="config",
        )


def stored_form(builder: tfds.core.DatasetBuilder) -> transcode.Form:
    """How a set stores its clips."""
    return {known.name: known.form for known in Builder.BUILDER_CONFIGS}[builder.info.config_name]
