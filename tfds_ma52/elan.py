"""Annotation files of ELAN (.eaf), read with pympi."""

import collections
import pathlib
from xml.etree import ElementTree

import pympi

from tfds_ma52.observations import Annotation, Media, Observation, check_times, file_name

SUFFIX = ".eaf"
CONFIDENCE_TYPE = "manet_jax confidence"  # the type of tiers that say how sure a model was; they hold no actions


def read_eaf(path: pathlib.Path, problems: list[str]) -> Observation | None:
    """Reads a file of ELAN; adds its errors to `problems`.

    Each annotation of each tier counts, but for those of tiers of `CONFIDENCE_TYPE`. An annotation of a dependent tier
    that stands for a whole other one has the other's times.

    Returns:
      What was coded; None where the file cannot be read.
    """
    try:
        eaf = pympi.Eaf(path, suppress_version_warning=True)
        num_annotations = sum(1 for _ in ElementTree.parse(path).iter("ANNOTATION"))
    except Exception as error:  # pympi has no error of its own, but raises what it meets: KeyError, ValueError, ...
        problems.append(f"{path}: not readable as a file of ELAN ({_one_line(repr(error))}): save it with ELAN again")
        return None
    units = eaf.header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        problems.append(f"{path}: its times are in {units}; only milliseconds can be read")
        return None
    if num_annotations != sum(len(aligned) + len(dependent) for aligned, dependent, _, _ in eaf.tiers.values()):
        problems.append(f"{path}: tiers or annotations of one name would be lost: save it with ELAN again")
        return None
    media = _media(path, eaf, problems)
    annotations = _annotations(path, eaf, problems)
    return Observation(str(path), path.stem, media, tuple(annotations))


def _media(path: pathlib.Path, eaf: pympi.Eaf, problems: list[str]) -> tuple[Media, ...]:
    media: list[Media] = []
    for each in eaf.media_descriptors:
        name = file_name(each.get("MEDIA_URL") or each.get("RELATIVE_MEDIA_URL") or "")
        try:
            origin = int(each.get("TIME_ORIGIN", 0)) / 1000
        except ValueError:
            problems.append(f"{path}: the time origin of {name!r} is {each['TIME_ORIGIN']!r}; expected milliseconds")
            continue
        if name and not each.get("MIME_TYPE", "").startswith("audio/"):
            media.append(Media(name, origin))
    return tuple(media)


def _annotations(path: pathlib.Path, eaf: pympi.Eaf, problems: list[str]) -> list[Annotation]:
    annotations: list[Annotation] = []
    for tier, (aligned, dependent, attributes, _) in eaf.tiers.items():
        if attributes.get("LINGUISTIC_TYPE_REF") == CONFIDENCE_TYPE:
            continue
        siblings = collections.Counter(parent for parent, *_ in dependent.values())
        values = {name: value for name, (_, _, value, _) in aligned.items()}
        values |= {name: value for name, (_, value, _, _) in dependent.items()}
        for name, value in values.items():
            location = f"{path}: tier {tier!r}, annotation {name}"
            try:
                if name in dependent and siblings[dependent[name][0]] > 1:
                    raise ValueError("it is one of several parts of an annotation, which have no times of their own")
                start, end = _times(eaf, name)
                location = f"{path}: tier {tier!r} at {start:.3f} s"
                check_times(start, end)
                annotations.append(Annotation(location, tier, " ".join(value.split()), start, end))
            except ValueError as error:
                problems.append(f"{location}: {error}")
    return annotations


def _times(eaf: pympi.Eaf, name: str) -> tuple[float, float]:
    """Start and end of an annotation in seconds: its own, or those of the one that it depends on.

    Raises:
      ValueError: it has none.
    """
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        aligned, dependent, _, _ = eaf.tiers.get(eaf.annotations.get(name), ({}, {}, {}, 0))
        if name in aligned:
            start, end = (eaf.timeslots.get(slot) for slot in aligned[name][:2])
            if start is None or end is None:
                raise ValueError("its start or end has no time: drag it to its place in ELAN")
            return start / 1000, end / 1000
        name = dependent[name][0] if name in dependent else name
    raise ValueError("the annotation that it depends on is not there")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
