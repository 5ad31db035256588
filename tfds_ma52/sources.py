"""The videos and folders of images that a set was built from, so that a later run notices when they are others."""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_BLOCK = 4096  # bytes read at the start, middle and end of a file whose time alone has changed

# Of each file, by its path in the data set's folder: size, time of change in nanoseconds, and a digest of three blocks;
# None for a file that was missing.
Sources = dict[str, Sequence[Any] | None]


def describe(root: pathlib.Path, paths: Iterable[pathlib.Path]) -> Sources:
    """Describes files in a folder."""
    return {_name(root, path): _describe(path) for path in dict.fromkeys(paths)}


def difference(root: pathlib.Path, paths: Iterable[pathlib.Path], recorded: Mapping[str, Any]) -> str:
    """How a folder's files differ from those that a set was built from, in words; "" where they do not.

    A file that is not there any more is no difference: a built set does not need it. A file of the same size and
    another time is compared by its content, for copies of a data set have other times.
    """
    for path in dict.fromkeys(paths):
        name, now = _name(root, path), state(path)
        if name not in recorded:
            first = next(iter(recorded), "none")
            return f"{name} is none of its videos, such as {first}" if now else f"{path} is missing"
        if now is None:
            continue
        if recorded[name] is None:
            return f"{name} was missing then"
        size, time, digest = recorded[name]
        if now[0] != size or (now[1] != time and _digest(path) != digest):
            return f"{name} has been replaced"
    return ""


def state(path: pathlib.Path) -> tuple[int, int] | None:
    """Size and time of change in nanoseconds of a file, or of all files in a folder; None where there is neither."""
    if path.is_dir():
        found = [each.stat() for each in path.iterdir()]
        return sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _name(root: pathlib.Path, path: pathlib.Path) -> str:
    return os.path.relpath(path, root)


def _describe(path: pathlib.Path) -> Sequence[Any] | None:
    found = state(path)
    return None if found is None else (*found, _digest(path))


def _digest(path: pathlib.Path) -> str:
    """Of blocks of a file's content; of a folder's, of the sizes of its files."""
    digest = hashlib.sha1()
    if path.is_dir():
        digest.update(repr(sorted((each.name, each.stat().st_size) for each in path.iterdir())).encode())
        return digest.hexdigest()[:16]
    size = path.stat().st_size
    with path.open("rb") as file:
        for offset in (0, size // 2, max(0, size - _BLOCK)):
            file.seek(offset)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]
