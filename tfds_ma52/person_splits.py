"""The splits of videos: as a table has them, or drawn so that no person is in two."""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from tfds_ma52 import folder as folder_lib
from tfds_ma52.folder import REQUIRED_SPLITS, SPLITS
from tfds_ma52.tables import Row, read_csv

VAL_SHARE = 0.2  # of the persons, where nobody chose the splits


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a video belongs: its split, and the person whom it shows, "" where nobody knows."""

    split: str
    person: str


def assign(
    path: pathlib.Path | None, videos: Sequence[str], problems: list[str], warnings: list[str]
) -> dict[str, Place]:
    """Gives each video its split.

    Args:
      path: a table with the columns `video` and `split`, or `video` and `person`, or all three; None stands for none.
        It names a video by its path, its file's name, or that without the ending.
      videos: their paths in the folder.
      problems: gets a line for each error.
      warnings: gets a sentence on persons in more than one split.

    Returns:
      The place of each video; with problems perhaps not of all.
    """
    if path is None:
        places = _drawn(_persons_of(videos, warnings), problems)
    else:
        listed = _read(path, videos, problems)
        if listed is None:
            return {}
        places = listed if any(place.split for place in listed.values()) else _drawn(_persons(listed), problems)
        if not problems:
            problems += [f"{path}: it lacks {name}" for name in videos if name not in places]
    missing = set(REQUIRED_SPLITS) - {place.split for place in places.values()}
    if path and not problems:
        problems += [f"{path}: no video is in split {split}" for split in REQUIRED_SPLITS if split in missing]
    warnings += _shared(places)
    return places


def _read(path: pathlib.Path, videos: Sequence[str], problems: list[str]) -> dict[str, Place] | None:
    """The places in a table; those of a table without splits have none. None where it cannot be read."""
    rows = read_csv(path, ("video",), problems, optional=("split", "person"))
    if not rows:
        return None
    if not rows[0].fields.keys() & {"split", "person"}:
        problems.append(f"{path}: the header has neither split nor person: add one of them")
        return None
    names = _by_name(videos)
    places: dict[str, Place] = {}
    for row in rows:
        try:
            name = _find(row.fields["video"].strip(), names)
            if name in places:
                raise ValueError(f"{name} is there twice")
            places[name] = _place(row)
        except ValueError as error:
            problems.append(f"{row.location}: {error}")
    return places


def _place(row: Row) -> Place:
    fields = {name: " ".join(field.split()) for name, field in row.fields.items()}
    split = fields.get("split", "").lower()
    if "split" in fields and split not in SPLITS:
        raise ValueError(f"the split is {fields['split']!r}; expected {', '.join(SPLITS)}")
    if "split" not in fields and not fields["person"]:
        raise ValueError("the person is missing")
    return Place(split, fields.get("person", ""))


def _by_name(videos: Iterable[str]) -> dict[str, set[str]]:
    """The videos that each way to name one may mean."""
    names: dict[str, set[str]] = collections.defaultdict(set)
    for video in videos:
        path = pathlib.PurePosixPath(video)
        for name in (video, path.name, path.stem, path.with_suffix("").as_posix()):
            names[name].add(video)
    return names


def _find(name: str, names: Mapping[str, set[str]]) -> str:
    name = folder_lib.slashed(name).removeprefix("./")
    found = sorted(names.get(name, ()))
    if name in found:  # the whole path of one may be the name of another
        return name
    if not found:
        raise ValueError(f"{name!r} is no video with annotations")
    if len(found) > 1:
        raise ValueError(f"{name!r} may be {' or '.join(found)}: write the path")
    return found[0]


def _persons(places: Mapping[str, Place]) -> dict[str, str]:
    return {name: place.person for name, place in places.items()}


def _persons_of(videos: Sequence[str], warnings: list[str]) -> dict[str, str]:
    """The person of each video, by its name; each video's own where a name does not tell."""
    persons = {name: folder_lib.subject_of(name) for name in videos}
    if all(persons.values()):
        return persons
    if len(videos) > 1:
        warnings.append(
            "nothing says who is in which video: train and val are drawn by video, and may show the same person; "
            "splits.csv with the columns video and person keeps persons apart"
        )
    return dict.fromkeys(videos, "")


def _drawn(persons: Mapping[str, str], problems: list[str]) -> dict[str, Place]:
    """Puts a share of the persons into val, always the same, and the others into train."""
    owners = {name: person or name for name, person in persons.items()}
    order = sorted(set(owners.values()), key=lambda owner: hashlib.sha256(owner.encode(errors="replace")).digest())
    if len(order) < 2 and not problems:  # which may be why there is one only
        what = "person" if any(persons.values()) else "video"
        problems.append(f"there is one {what} only, of which none is left for val: add others, or write splits.csv")
    held_out = set(order[: max(1, round(len(order) * VAL_SHARE))])
    return {name: Place("val" if owners[name] in held_out else "train", persons[name]) for name in persons}


def _shared(places: Mapping[str, Place]) -> list[str]:
    """A sentence for each person in more than one split."""
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for place in places.values():
        splits[place.person].add(place.split)
    return [
        f"person {person} is in splits {' and '.join(split for split in SPLITS if split in found)}"
        for person, found in splits.items()
        if person and len(found) > 1
    ]
