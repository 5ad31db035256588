"""The TFDS data set `ma52`: Micro-Action-52, or any data set in its layout, as ArrayRecord files."""

import collections.abc
import dataclasses
import functools
import os
import pathlib
import shutil

import numpy as np
import tensorflow_datasets as tfds

from tfds_ma52 import folder as folder_lib
from tfds_ma52 import labels as labels_lib
from tfds_ma52 import transcode
from tfds_ma52.errors import UserError

_SHARD_BYTES = 128 * 2**20  # a shard is held in memory while it is written
_DESCRIPTION = """\
Short clips of seated people, filmed whole-body in psychological interviews, each with one of 52 micro-actions in 7 body
groups (Guo et al., "Benchmarking Micro-action Recognition", IEEE TCSVT 2024), or another data set in the same layout.
"""


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """What is stored: clips transcoded to a short side, or with None the original files' bytes."""

    short_side: int | None = None


class Builder(tfds.core.ShardBasedBuilder):
    """Builds `ma52` from a folder in MA-52's layout.

    Attributes:
      left_out: after a build, one line for each damaged clip that it left out.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (the form TFDS asks for)
    BUILDER_CONFIGS = [  # noqa: RUF012
        Config(name="h264_256", description="H.264, short side 256, no sound", short_side=256),
        Config(name="original", description="the original files, byte for byte"),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = folder_lib.MISSING_DATA.format(
        reason="The clips cannot be downloaded automatically.", how="manual_dir"
    )

    def __init__(
        self,
        *,
        folder: folder_lib.Folder | None = None,
        allow_damaged: int = 0,
        num_processes: int = 0,
        **kwargs,
    ):
        """Makes a builder.

        Args:
          folder: the data set to build; by default MA-52 in the manual_dir of TFDS.
          allow_damaged: how many damaged clips may be left out.
          num_processes: how many clips are transcoded at once; 0 stands for all cores.
          **kwargs: those of `tfds.core.ShardBasedBuilder`.
        """
        self._folder = folder
        self._allow_damaged = allow_damaged
        self._num_processes = num_processes
        self.left_out: list[str] = []
        super().__init__(**{"file_format": "array_record", **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        labels = self._folder.labels if self._folder else labels_lib.MA52
        return self.dataset_info_from_configs(
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Tensor(shape=(), dtype=np.object_),  # the bytes of an mp4 file
                    "video_id": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=labels.names),
                    "body_label": tfds.features.ClassLabel(names=labels.group_names),
                    "subject": tfds.features.Text(),
                    "num_frames": tfds.features.Scalar(np.int32),
                    "height": tfds.features.Scalar(np.int32),
                    "width": tfds.features.Scalar(np.int32),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[collections.abc.Callable]]:
        folder = self._folder or folder_lib.read_folder(pathlib.Path(dl_manager.manual_dir))
        if list(folder.labels.names) != self.info.features["label"].names:
            raise UserError(
                f"{dl_manager.manual_dir} names its own classes: build it with python -m tfds_ma52 --manual_dir, "
                "which takes them over."
            )
        short_side = self.builder_config.short_side
        work = self.work_folder
        jobs = [(clip.path, work / clip.split / clip.video_id) for clip in folder.clips]
        infos = transcode.prepare_videos(jobs, short_side=short_side, num_processes=self._num_processes)
        self._refuse_damaged(folder.clips, infos)
        self.info.metadata.update(
            fingerprint=folder.fingerprint, groups=list(folder.labels.groups), left_out=self.left_out
        )

        shards = {}
        for split in folder_lib.SPLITS:
            rows = [
                (clip, info, source if short_side is None else target.with_name(target.name + ".mp4"))
                for clip, info, (source, target) in zip(folder.clips, infos, jobs, strict=True)
                if clip.split == split and isinstance(info, transcode.VideoInfo)
            ]
            if rows:
                shards[split] = _shards(rows, folder.labels.groups)
        return shards

    @property
    def work_folder(self) -> pathlib.Path:
        """Where finished clips wait until the set is whole; hidden, so that TFDS does not take it for a data set."""
        return pathlib.Path(self._data_dir_root) / f".ma52_{self.builder_config.name}_in_progress"

    def _refuse_damaged(self, clips: tuple[folder_lib.Clip, ...], infos: list[transcode.VideoInfo | str]) -> None:
        self.left_out = [
            f"{clip.place}: {clip.path}: {info}"
            for clip, info in zip(clips, infos, strict=True)
            if isinstance(info, str)
        ]
        if len(self.left_out) > self._allow_damaged:
            title = (
                f"damaged clips (repair or remove them, or leave them out with --allow_damaged={len(self.left_out)})"
            )
            raise UserError(folder_lib.report(title, self.left_out))


def _shards(rows: list, groups: tuple[int, ...]) -> list[collections.abc.Callable]:
    num_bytes = sum(file.stat().st_size for _, _, file in rows)
    num_shards = min(len(rows), num_bytes // _SHARD_BYTES + 1)
    return [functools.partial(_examples, rows[i::num_shards], groups) for i in range(num_shards)]


def _examples(rows: list, groups: tuple[int, ...]) -> collections.abc.Iterator[tuple[str, dict]]:
    for clip, info, file in rows:
        yield (
            clip.video_id,
            {
                "video": file.read_bytes(),
                "video_id": clip.video_id,
                "label": clip.label,
                "body_label": groups[clip.label] if clip.label >= 0 else folder_lib.HIDDEN_LABEL,
                "subject": clip.subject,
                "num_frames": info.num_frames,
                "height": info.height,
                "width": info.width,
            },
        )


def build(
    manual_dir: str | os.PathLike,
    data_dir: str | os.PathLike = "",
    *,
    config: str = "h264_256",
    video_folder: str = "",
    list_file: str = "",
    allow_damaged: int = 0,
    num_processes: int = 0,
    overwrite: bool = False,
) -> tfds.core.DatasetBuilder:
    """Builds the data set in `manual_dir`, or opens it if it is there already.

    Args:
      manual_dir: a folder in MA-52's layout.
      data_dir: where built sets are kept; "" stands for `<manual_dir>/tfds`.
      config: the name of a builder config.
      video_folder: see `folder.read_folder`.
      list_file: see `folder.read_folder`.
      allow_damaged: how many damaged clips may be left out.
      num_processes: how many clips are transcoded at once; 0 stands for all cores.
      overwrite: build again even if it is there.

    Returns:
      The builder, ready for `as_data_source`.

    Raises:
      UserError: the folder is missing or wrong, clips are damaged, or the set there was built from other lists.
    """
    manual_dir = pathlib.Path(manual_dir).expanduser()
    data_dir = pathlib.Path(data_dir).expanduser() if str(data_dir) else manual_dir / "tfds"
    names = [known.name for known in Builder.BUILDER_CONFIGS]
    if config not in names:
        raise UserError(f"there is no builder config {config!r}; known are {', '.join(names)}")
    if not manual_dir.is_dir() and not overwrite:  # a built set stands on its own
        built = _open(_version_dir(data_dir, config))
        if built is not None:
            return built
    folder = folder_lib.read_folder(manual_dir, video_folder=video_folder, list_file=list_file)
    built = None if overwrite else _open(_version_dir(data_dir, config))
    if built is not None:
        if built.info.metadata["fingerprint"] != folder.fingerprint:
            raise UserError(
                f"{built.data_dir} was built from other lists than those now in {manual_dir}: build it again with "
                f"python -m tfds_ma52 --manual_dir {manual_dir} --data_dir {data_dir} --config {config} --overwrite, "
                "or name another data_dir."
            )
        return built

    target = _version_dir(data_dir, config)
    replaced = target.with_name(target.name + ".replaced")  # comes back if the new build fails
    if target.exists():
        target.rename(replaced)
    try:
        builder = Builder(
            folder=folder, allow_damaged=allow_damaged, num_processes=num_processes, data_dir=data_dir, config=config
        )
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    except BaseException:
        if replaced.exists():
            replaced.rename(target)
        raise
    for leftover in (replaced, builder.work_folder):
        shutil.rmtree(leftover, ignore_errors=True)
    return tfds.builder_from_directory(target)


def _version_dir(data_dir: pathlib.Path, config: str) -> pathlib.Path:
    return data_dir / "ma52" / config / str(Builder.VERSION)


def _open(version_dir: pathlib.Path) -> tfds.core.DatasetBuilder | None:
    return tfds.builder_from_directory(version_dir) if (version_dir / "dataset_info.json").exists() else None
