"""A built set in its folder: whether it is there, opened, and replaced."""

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import tensorflow_datasets as tfds

from tfds_ma52 import folder as folder_lib
from tfds_ma52 import metadata
from tfds_ma52.errors import UserError, report


def is_built(target: pathlib.Path) -> bool:
    """Whether a set is there, and whole."""
    return (target / "dataset_info.json").exists()


def open_built(
    target: pathlib.Path, manual_dir: pathlib.Path, read: Callable[[], folder_lib.Folder], named: bool
) -> tfds.core.DatasetBuilder:
    """Opens a built set; its source need not be there any more, but what is there must be what it was built from.

    Args:
      target: the set.
      manual_dir: its source.
      read: reads the source.
      named: whether the user names locations in the source, which must then exist.

    Raises:
      UserError: the set was built from other lists or videos than those now there.
    """
    built = tfds.builder_from_directory(target)
    named = named and manual_dir.is_dir()
    try:
        folder = read()
    except UserError:
        if named:
            raise
        return built
    if named and folder.problems:
        raise UserError(report(f"{target} is there, but its source is not", folder.problems))
    if changed := metadata.difference(manual_dir, folder, built.info.metadata):
        raise UserError(
            f"{target} was built from other {changed} than those now in {manual_dir}: build it again with "
            "python -m tfds_ma52 --overwrite, or name another folder with {flag}",
            field="data_dir",
        )
    return built


def build_anew(make_builder: Callable[[], Any], target: pathlib.Path, manual_dir: pathlib.Path) -> None:
    """Builds, and only then removes what was in `target` before.

    Args:
      make_builder: returns a `ma52_dataset_builder.Builder`.
      target: the set.
      manual_dir: its source.
    """
    for unfinished in target.parent.glob(f"incomplete.*_{target.name}"):  # of a build that was killed
        shutil.rmtree(unfinished)
    replaced = target.with_name(target.name + ".replaced")
    if replaced.exists():  # likewise
        shutil.rmtree(replaced) if target.exists() else replaced.rename(target)
    if target.exists():
        target.rename(replaced)
    try:
        builder = make_builder()
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    except BaseException:
        if replaced.exists():
            replaced.rename(target)
        raise
    for leftover in (replaced, builder.work_folder):
        shutil.rmtree(leftover, ignore_errors=True)
