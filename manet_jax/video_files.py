"""The videos that files, folders and globs on a command line stand for."""

import collections
import glob
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator

from manet_jax.report import figures
from tfds_ma52 import image_folder, video
from tfds_ma52.errors import UserError

_KINDS = 8  # of files that were passed over, listed one by one


def find_videos(patterns: Iterable[str]) -> list[pathlib.Path]:
    """The video files that files, folders (searched in depth) and globs stand for, each once.

    A file is taken whatever its suffix, even if it is missing: `inference.predict` reports that. The files of a folder
    that are no videos by their names are counted on stderr.

    Raises:
      UserError: a folder or a glob has no videos, a folder cannot be read, or a home folder is not known.
    """
    found: dict[str, pathlib.Path] = {}  # by the path without links
    for pattern in patterns:
        path = _expand(pattern)
        if path.is_dir():
            paths, passed_over = _search(path)
            if passed_over:
                print(f"manet_jax: {pattern}: {_format_passed_over(passed_over)}", file=sys.stderr)
            if not paths:
                images = any(suffix in image_folder.SUFFIXES for suffix in passed_over)
                hint = "; to read folders of images, give --frame_rate" if images else ""
                raise UserError(
                    f"{pattern} has no videos: there is no file ending in {', '.join(video.SUFFIXES)}{hint}"
                )
        elif not path.exists() and glob.has_magic(pattern):
            anchor = pathlib.Path(path.anchor)
            try:
                paths = sorted(p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file())
            except ValueError as error:
                raise UserError(f"{pattern} is no glob ({error})") from error
            if not paths:
                raise UserError(f"no file matches {pattern}")
        else:
            paths = [path]
        for each in paths:
            found.setdefault(os.path.realpath(each), each)
    return list(found.values())


def find_image_folders(patterns: Iterable[str]) -> list[pathlib.Path]:
    """The folders of images that folders, searched in depth, stand for.

    Raises:
      UserError: a path is no folder, or has no images.
    """
    found: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        path = _expand(pattern)
        if not path.is_dir():
            raise UserError(f"{pattern} is no folder of images: give videos without {{flag}}", field="frame_rate")
        images = (each for each in _walk(path) if each.suffix.lower() in image_folder.SUFFIXES)
        folders = sorted({image.parent for image in images if not image.name.startswith(".")})
        if not folders:
            raise UserError(f"{pattern} has no images: no file ends in {', '.join(image_folder.SUFFIXES)}")
        found |= dict.fromkeys(folders)
    return list(found)


def _expand(pattern: str) -> pathlib.Path:
    try:
        return pathlib.Path(pattern).expanduser()
    except RuntimeError as error:  # ~somebody
        raise UserError(f"{pattern} cannot be found ({error})") from error


def _search(folder: pathlib.Path) -> tuple[list[pathlib.Path], collections.Counter[str]]:
    """The videos in a folder by their names, sorted, and how many files of each other kind there are."""
    paths, passed_over = [], collections.Counter()
    for path in _walk(folder):
        suffix = path.suffix.lower()
        if path.name.startswith("._"):  # what macOS writes beside a file, with the same suffix
            passed_over["companions of macOS"] += 1
        elif any(part.startswith(".") for part in path.relative_to(folder).parts):
            passed_over["hidden"] += 1
        elif suffix in video.SUFFIXES:
            paths.append(path)
        else:
            passed_over[figures.printable(suffix) or "without suffix"] += 1
    return sorted(paths), passed_over


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files in a folder, in depth; linked folders are followed, each folder once."""

    def fail(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be read ({error.strerror})") from error

    seen = set()
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # so that the same one of two ways to a folder is taken
        yield from (pathlib.Path(root, name) for name in names)


def _format_passed_over(counts: collections.Counter[str]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{count} {kind}" for kind, count in ordered[:_KINDS]]
    if others := sum(count for _, count in ordered[_KINDS:]):
        listed.append(f"{others} others")
    return f"files passed over, by their names no videos: {', '.join(listed)}; give a file itself to have it read"
