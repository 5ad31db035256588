"""Class names and body groups, of MA-52 or of another data set."""

import codecs
import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tfds_ma52.errors import UserError

# Relative to the folder of a data set.
LABEL_FILES = ("label_name.txt", "annotations/label_name.txt")
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# Index = the integer id of the annotation lists. The paper's figure orders the classes A1..G4 differently.
MA52_NAMES = (
    "shaking body",
    "sitting straightly",
    "shrugging",
    "turning around",
    "rising up",
    "bowing head",
    "head up",
    "tilting head",
    "turning head",
    "nodding",
    "shaking head",
    "scratching arms",
    "playing objects",
    "putting hands together",
    "rubbing hands",
    "pointing oneself",
    "clenching fist",
    "stretching arms",
    "retracting arms",
    "waving",
    "spreading hands",
    "hands touching fingers",
    "other finger movements",
    "illustrative gestures",
    "shaking legs",
    "curling legs",
    "spread legs",
    "closing legs",
    "crossing legs",
    "stretching feet",
    "retracting feet",
    "tiptoe",
    "scratching or touching neck",
    "scratching or touching chest",
    "scratching or touching back",
    "scratching or touching shoulder",
    "arms akimbo",
    "crossing arms",
    "playing or tidying hair",
    "scratching or touching hindbrain",
    "scratching or touching forehead",
    "scratching or touching face",
    "rubbing eyes",
    "touching nose",
    "touching ears",
    "covering face",
    "covering mouth",
    "pushing glasses",
    "patting legs",
    "touching legs",
    "scratching legs",
    "scratching feet",
)
MA52_GROUP_NAMES = ("body", "head", "upper limb", "lower limb", "body-hand", "head-hand", "leg-hand")
_MA52_GROUP_SIZES = (5, 6, 13, 8, 6, 10, 4)
# Clips of each class in train, val and test.
MA52_COUNTS = (
    *((309, 153, 153), (150, 74, 74), (20, 9, 9), (9, 3, 3)),
    *((156, 76, 76), (337, 168, 168), (242, 121, 121), (456, 228, 228)),
    *((962, 480, 480), (1283, 641, 641), (1193, 595, 595), (227, 112, 112)),
    *((112, 56, 56), (95, 47, 47), (42, 21, 21), (82, 41, 41)),
    *((76, 37, 37), (355, 176, 176), (87, 43, 43), (277, 138, 138)),
    *((147, 73, 73), (356, 177, 177), (373, 186, 186), (397, 197, 197)),
    *((238, 119, 119), (66, 33, 33), (92, 46, 46), (97, 48, 48)),
    *((60, 30, 30), (231, 115, 115), (259, 128, 128), (398, 198, 198)),
    *((63, 30, 30), (82, 40, 40), (53, 25, 25), (33, 16, 16)),
    *((43, 21, 21), (43, 20, 20), (89, 44, 44), (82, 40, 40)),
    *((58, 28, 28), (126, 63, 63), (66, 33, 33), (147, 72, 72)),
    *((52, 25, 25), (6, 2, 2), (25, 12, 12), (68, 34, 34)),
    *((421, 209, 209), (497, 248, 248), (92, 45, 45), (20, 10, 10)),
)


_HEADERS = ("name", "names", "class", "classes", "label", "labels", "class_name", "label_name", "emotion", "emotions")


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """The classes of a data set and the coarser groups they belong to.

    Attributes:
      names: class names; the index is the class id.
      group_names: names of the groups.
      groups: for each class, the index of its group.
    """

    names: tuple[str, ...]
    group_names: tuple[str, ...]
    groups: tuple[int, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LabelSet":
        """The label set of what JSON leaves of `dataclasses.asdict`: lists become tuples."""
        return cls(**{name: tuple(items) for name, items in value.items()})


MA52 = LabelSet(
    names=MA52_NAMES,
    group_names=MA52_GROUP_NAMES,
    groups=tuple(group for group, size in enumerate(_MA52_GROUP_SIZES) for _ in range(size)),
)


def read_labels(path: pathlib.Path) -> LabelSet:
    """Reads a `label_name.txt`: one `<id><TAB><name>[<TAB><group>]` a line, ids 0, 1, 2, ...

    In a file without any tab, every line may be `<id> <name>` or `<id>,<name>`, or else a name, in the ids' order.

    Without group names, a file that names MA-52's classes, a few perhaps in another spelling, gets MA-52's groups; in
    any other set every class is a group of its own, so that the body metrics equal the action metrics.

    Raises:
      UserError: a malformed, missing or repeated id or name; every such line is reported.
    """
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    if not any("\t" in line for _, line in lines):
        lines = _with_tabs(path, lines)
    rows: dict[int, list[str]] = {}
    problems: list[str] = []
    for number, line in lines:
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) not in (2, 3) or not re.fullmatch(r"\d{1,9}", fields[0]) or not all(fields[1:]):
            problems.append(
                f"{path}:{number}: expected '<id><TAB><name>' or '<id><TAB><name><TAB><group>', got {line!r}"
            )
        elif int(fields[0]) in rows:
            problems.append(f"{path}:{number}: id {int(fields[0])} occurs twice")
        else:
            rows[int(fields[0])] = fields[1:]
    ids = sorted(rows)
    names = [rows[i][0] for i in ids]
    if not problems:
        problems += _wrong_ids(path, ids)
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            problems.append(f"{path}: names given to more than one id: {', '.join(repeated)}")
        if len({len(row) for row in rows.values()}) > 1:
            problems.append(f"{path}: either every class names its group in a third column or none does")
    if problems:
        raise UserError("\n".join(problems))

    if len(rows[0]) == 2:
        group_names = list(dict.fromkeys(rows[i][1] for i in ids))
        return LabelSet(tuple(names), tuple(group_names), tuple(group_names.index(rows[i][1]) for i in ids))
    if _is_ma52(names):
        return LabelSet(tuple(names), MA52.group_names, MA52.groups)
    return LabelSet(tuple(names), tuple(names), tuple(range(len(names))))


def _with_tabs(path: pathlib.Path, lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The lines of a file without tabs in the form that has them; as they are where they have neither other form.

    Raises:
      UserError: the lines are names, but perhaps more than names.
    """
    # No other comma, which may stand before a group; no name that begins with a digit, which may be a second id.
    forms = [re.fullmatch(r"(\d{1,9})(?:\s*,\s*|\s+)([^\W\d][^,;]*)", line.strip()) for _, line in lines]
    if all(forms):
        return [(number, f"{form[1]}\t{form[2]}") for (number, _), form in zip(lines, forms, strict=True) if form]
    if not all(line.strip()[0].isalpha() for _, line in lines):  # a number, a comment, ...
        return lines
    number, first = lines[0]
    if first.strip().lower() in _HEADERS:
        raise UserError(f"{path}:{number}: {first!r} looks like a header rather than a name: remove the line")
    if any(re.search("[,;]", line) for _, line in lines) or all(re.search(r"\W\d+\s*$", line) for _, line in lines):
        raise UserError(f"{path}: its lines are more than names: write '<id><TAB><name>' a line")
    return [(number, f"{i}\t{line}") for i, (number, line) in enumerate(lines)]


def _wrong_ids(path: pathlib.Path, ids: list[int]) -> list[str]:
    if ids and ids == list(range(1, len(ids) + 1)):
        return [f"{path}: the ids run from 1 to {len(ids)}; they must start at 0, here and where clips have them"]
    if not ids or ids != list(range(len(ids))):
        return [f"{path}: the ids must run from 0 without gaps, got {ids}"]
    return []


def same_classes(left: LabelSet, right: LabelSet) -> bool:
    """Whether two data sets have the same classes; downloads of MA-52 may spell a few of its names differently."""
    return left.names == right.names or (_is_ma52(left.names) and _is_ma52(right.names))


def read_lines(path: pathlib.Path) -> list[str]:
    """Reads the lines of a text file in UTF-8, with or without byte order mark, or in UTF-16 with one.

    Raises:
      UserError: the file cannot be read, or is no such text.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as such") from error
    if "\0" in text:  # as UTF-16 without the mark has it
        raise UserError(f"{path} holds the character NUL, as no UTF-8 text does: save it as such")
    return text.splitlines()


def _is_ma52(names: Sequence[str]) -> bool:
    same = sum(ours == " ".join(name.lower().split()) for ours, name in zip(MA52_NAMES, names, strict=False))
    return len(names) == len(MA52_NAMES) and same > len(names) // 2
