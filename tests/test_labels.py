import collections
import dataclasses
import json

import pytest

from tfds_ma52 import labels
from tfds_ma52.errors import UserError


def write(tmp_path, text):
    path = tmp_path / "label_name.txt"
    path.write_bytes(text.encode())
    return path


def test_ma52_has_52_classes_in_7_groups_by_id():
    assert len(labels.MA52.names) == len(set(labels.MA52.names)) == 52
    bounds = {"body": (0, 4), "head": (5, 10), "upper limb": (11, 23), "lower limb": (24, 31)}
    bounds |= {"body-hand": (32, 37), "head-hand": (38, 47), "leg-hand": (48, 51)}
    assert labels.MA52.group_names == tuple(bounds)
    ids = collections.defaultdict(list)
    for label, group in enumerate(labels.MA52.groups):
        ids[labels.MA52.group_names[group]].append(label)
    assert {name: (members[0], members[-1]) for name, members in ids.items()} == bounds
    # The paper's figure calls nodding B1; the lists call it 9.
    assert (labels.MA52.names[9], labels.MA52.names[43], labels.MA52.names[51]) == (
        "nodding",
        "touching nose",
        "scratching feet",
    )


def test_label_set_from_json_reverses_asdict():
    content = json.loads(json.dumps(dataclasses.asdict(labels.MA52)))
    assert labels.LabelSet.from_json(content) == labels.MA52


def test_read_labels_without_groups_makes_each_class_one(tmp_path):
    read = labels.read_labels(write(tmp_path, "0\tleft\r\n1\tright\r\n"))
    assert read == labels.LabelSet(("left", "right"), ("left", "right"), (0, 1))


def test_read_labels_reads_groups_from_a_third_column(tmp_path):
    read = labels.read_labels(write(tmp_path, "0\tnod\thead\n2\tkick\tleg\n1\tshake\thead\n"))
    assert read == labels.LabelSet(("nod", "shake", "kick"), ("head", "leg"), (0, 0, 1))


def test_read_labels_keeps_ma52s_groups_in_other_spelling(tmp_path):
    text = "".join(f"{i}\t{name.title()}\n" for i, name in enumerate(labels.MA52_NAMES)).replace("Nodding", "Nods")
    read = labels.read_labels(write(tmp_path, text))
    assert read.names[9] == "Nods"
    assert (read.groups, read.group_names) == (labels.MA52.groups, labels.MA52.group_names)


@pytest.mark.parametrize(
    "text",
    [
        "0 turning left\n1  turning right\n\n2 hand 3\n",
        "0,turning left\n1 , turning right\n2,hand 3\n",
        "2 hand 3\n0 turning left\n1,turning right\n",
        "turning left\n\n turning right \nhand 3\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_read_labels_reads_ids_without_tabs_and_names_alone(tmp_path, text, encoding, line_end):
    (tmp_path / "label_name.txt").write_bytes(text.replace("\n", line_end).encode(encoding))
    assert labels.read_labels(tmp_path / "label_name.txt").names == ("turning left", "turning right", "hand 3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 left\nright\n", r"label_name.txt:2: expected '<id><TAB><name>' or .*, got 'right'"),
        ("0 left\n2 right\n", r"the ids must run from 0 without gaps, got \[0, 2\]"),
        ("1 left\n2 right\n", r"the ids run from 1 to 2; they must start at 0, here and where clips have them"),
        ("1\tleft\n2\tright\n", r"the ids run from 1 to 2; they must start at 0, here and where clips have them"),
        ("0,left,head\n1,right,head\n", r"label_name.txt:1: expected .*, got '0,left,head'"),
        ("0 0 left\n1 1 right\n", r"label_name.txt:1: expected .*, got '0 0 left'"),
        ("10\n20\n", r"label_name.txt:1: expected .*, got '10'"),
        ("left\n2 hands\n", r"label_name.txt:1: expected .*, got 'left'"),
        ("# ours\nleft\n", r"label_name.txt:1: expected .*, got '# ours'"),
        ("right 1\nleft 0\n", r"label_name.txt: its lines are more than names: write '<id><TAB><name>' a line"),
        ("left,head\nright,head\n", r"label_name.txt: its lines are more than names"),
        ("left;right\n", r"label_name.txt: its lines are more than names"),
        ("Class\nleft\n", r"label_name.txt:1: 'Class' looks like a header rather than a name: remove the line"),
        ("left\nleft\n", r"names given to more than one id: left"),
        ("l\0e\0f\0t\0\n\0", r"label_name.txt holds the character NUL, as no UTF-8 text does: save it as such"),
        ("0\tleft\nx\tright\n", r"label_name.txt:2: expected"),
        ("0\tleft\n0\tright\n", r"label_name.txt:2: id 0 occurs twice"),
        ("0\tleft\n2\tright\n", r"the ids must run from 0 without gaps, got \[0, 2\]"),
        ("", r"the ids must run from 0 without gaps, got \[\]"),
        ("0\tleft\n1\tleft\n", r"names given to more than one id: left"),
        ("0\tleft\thead\n1\tright\n", r"either every class names its group in a third column or none does"),
    ],
)
def test_read_labels_reports_the_bad_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        labels.read_labels(write(tmp_path, text))
