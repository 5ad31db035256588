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
    ("text", "message"),
    [
        ("0 left\n", r"label_name.txt:1: expected '<id><TAB><name>' or"),
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
