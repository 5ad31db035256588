"""Whatever a file holds, it is read or refused in words: no crash, no hang, no reading elsewhere, nothing left out.

`pytest --hypothesis-profile=thorough` draws anew, and fifty times as much.
"""

import contextlib
import io
import json
import math
import pathlib
import string
import struct
import sys
import tempfile

import av
import corpus
import numpy as np
import pytest
from helpers import outcome, read_video, shrink, write_clip
from hypothesis import example, given
from hypothesis import strategies as st

from configs import ma52, ma52_pro, ma52_synthetic, mma52, mma52_synthetic
from manet_jax import configuration, label_vectors
from manet_jax.data import clips, decoding
from manet_jax.models import ClipSpec
from tfds_ma52 import annotations, folder, labels, transcode, video
from tfds_ma52 import mma52 as mma52_lib
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.video import DamagedVideoError

PYTHON = (sys.executable, "-m")

# Text as people and programs write it: letters, what separates fields, and whatever else Unicode has.
TEXT = st.text(st.one_of(st.sampled_from("ab ./\\;,\t\"'01٣²é名\0"), st.characters(codec="utf-8")), max_size=30)
NAMES = st.one_of(
    st.sampled_from(["a.mp4", "b c.mp4", "é/名.mp4", "../a.mp4", "/etc/passwd", "x/../../y.mp4", "~/a.mp4"]),
    TEXT.map(lambda text: text + ".mp4"),
    st.just("n" * 300 + ".mp4"),
)
NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.sampled_from(["1", "25", "-1", "1e400", "nan", "9" * 5000, "0x1", "", "٣"]),
)
CELLS = st.one_of(NAMES, TEXT, NUMBERS.map(str), st.sampled_from(["nodding", "9;43", "nodding;nodding", "joy", "val"]))


@contextlib.contextmanager
def folder_with(files):
    """A folder with some files of bytes, or of text as UTF-8."""
    with tempfile.TemporaryDirectory() as root:
        for name, content in files.items():
            path = pathlib.Path(root, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        yield pathlib.Path(root)


def read_mma52(root):
    return mma52_lib.read_folder(root, window=60.0, stride=30.0, min_overlap=0.5)


def check_folder(read, root):
    """Reads a folder: all clips lie inside it and are sound, and problems are a line each; or there is an error."""
    found, error = outcome(lambda: read(root))
    if error:
        return None
    for clip in found.clips:
        assert ".." not in clip.path.relative_to(root).parts
        clip.path.is_file()  # raises where the system cannot have such a name
        assert all(0 <= label < len(found.labels.names) for label in clip.labels or ())
        assert clip.emotion == folder.HIDDEN_LABEL or 0 <= clip.emotion < len(found.emotions)
        assert clip.span is None or 0 <= clip.span[0] < clip.span[1] < math.inf
    assert all(len(problem.splitlines()) == 1 for problem in found.problems)
    return found


LIST_LINES = st.one_of(
    st.tuples(NAMES, st.sampled_from([" ", "\t", "", "  "]), st.one_of(NUMBERS, st.integers(0, 60))).map(
        lambda parts: "".join(map(str, parts))
    ),
    TEXT,
)


@given(st.lists(LIST_LINES, max_size=8))
def test_read_folder_takes_or_reports_every_line(lines):
    text = "\n".join(lines)
    files = {"train_list_videos.txt": text, "val_list_videos.txt": "a.mp4 0\n", "train/x": b"", "val/x": b""}
    with folder_with(files) as root:
        found = check_folder(folder.read_folder, root)
        path = f"{root}/train_list_videos.txt:"
        numbers = {clip.location.removeprefix(path) for clip in found.clips if clip.split == "train"}
        numbers |= {line.removeprefix(path).partition(":")[0] for line in found.problems if line.startswith(path)}
        if "\0" in text:
            assert found.problems[0].startswith(f"{root}/train_list_videos.txt holds the character NUL")
            return
    wanted = {str(number) for number, line in enumerate(text.splitlines(), 1) if line.strip()}
    assert numbers - {" the list is empty"} == wanted


@given(st.binary(max_size=200))
def test_read_folder_survives_any_bytes(content):
    lists = {f"{split}_list_videos.txt": content for split in ("train", "val")}
    with folder_with(lists | {"label_name.txt": content, "train/x": b"", "val/x": b""}) as root:
        check_folder(folder.read_folder, root)
    with folder_with({"train.csv": content, "val.csv": content, "emotion_name.txt": content}) as root:
        check_folder(annotations.read_folder, root)
        check_folder(read_mma52, root)
    with folder_with({"annotations.json": content}) as root:
        check_folder(read_mma52, root)


@given(st.lists(st.one_of(st.tuples(NUMBERS.map(str), TEXT, TEXT).map("\t".join), CELLS), max_size=6))
def test_read_labels_takes_or_reports_any_text(lines):
    with folder_with({"label_name.txt": "\n".join(lines)}) as root:
        found, error = outcome(lambda: labels.read_labels(root / "label_name.txt"))
    if error:
        assert "label_name.txt" in error
    else:
        assert len(found.names) == len(found.groups) == len(set(found.names)) > 0
        assert set(found.groups) == set(range(len(found.group_names)))


@given(
    st.lists(st.lists(CELLS, min_size=2, max_size=5).map(",".join), max_size=6),
    st.sampled_from(["video,labels,emotion", "video,labels", "labels", 'vid"eo,labels', '"', ""]),
)
def test_annotations_are_read_or_reported(rows, header):
    text = "\n".join([header, *rows])
    with folder_with({"train.csv": text, "val.csv": "video,labels\na.mp4,nodding\n"}) as root:
        check_folder(annotations.read_folder, root)
    with folder_with({"annotations.csv": text.replace("video", "video,split", 1)}) as root:
        check_folder(annotations.read_folder, root)


# No class, which would be taken for a label behind a ';' without quotes.
EMOTIONS = st.one_of(NUMBERS.map(str), st.sampled_from(["joy", "Joy ", "-", "3.0", 'a;b,"c"', " "]))


@given(st.lists(st.tuples(CELLS, CELLS, EMOTIONS), max_size=4), st.sampled_from([",", ";", "\t"]))
@example([("a\\b.mp4", "nodding;9", "3.0")], ";")
def test_annotations_mean_the_same_in_every_table(cells, delimiter):
    """Each cell in quotes, with any delimiter, in UTF-16, with an index: the same clips and the same problems."""
    rows = [["video", "labels", "emotion"], *(row for row in cells if any(cell.strip() for cell in row))]
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
    plain = "\n".join(map(",".join, quoted)).encode()
    other = "\n".join(delimiter.join(["" if i == 0 else str(i), *row]) for i, row in enumerate(quoted)).encode("utf-16")
    found = []
    for content in (plain, other):
        with folder_with({"train.csv": content, "val.csv": "video,labels\na.mp4,nodding\n"}) as root:
            read = check_folder(annotations.read_folder, root)
            clips = [(clip.video_id, clip.labels, clip.location.removeprefix(str(root))) for clip in read.clips]
            found.append((clips, [line.replace(str(root), "") for line in read.problems], read.emotions))
    assert found[0] == found[1]


@given(st.lists(st.tuples(NAMES, NUMBERS, NUMBERS, CELLS, NUMBERS, NUMBERS), max_size=6))
@example([("a.mp4", 0, 0, "nodding", 1e-200, 1e200)])
def test_mma52_annotations_are_read_or_reported(rows):
    header = "id,video_id,start_frame,end_frame,class,total_frames,fps"
    text = "\n".join([header, *(",".join(map(str, (i, *row))) for i, row in enumerate(rows))])
    with folder_with({"train.csv": text, "val.csv": f"{header}\n0,v,0,9,1,30,30\n"}) as root:
        check_folder(read_mma52, root)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.integers(10**300, 10**400), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {
        "subset": st.one_of(st.sampled_from(["train", "val", "testing"]), JSON),
        "duration": st.one_of(st.floats(0, 100), NUMBERS, JSON),
        "actions": st.one_of(st.lists(st.lists(st.one_of(NUMBERS, JSON), max_size=4), max_size=3), JSON),
    }
)


@given(st.one_of(JSON, st.dictionaries(NAMES, st.one_of(ENTRIES, JSON), max_size=3)))
def test_mma52_annotations_as_json_are_read_or_reported(content):
    with folder_with({"annotations.json": json.dumps(content)}) as root:
        check_folder(read_mma52, root)


CONFIGS = {module.__name__: module.get_config() for module in (ma52, ma52_pro, ma52_synthetic, mma52, mma52_synthetic)}
FIELDS = sorted((name, *field) for name in CONFIGS for field in configuration.flatten(CONFIGS[name].to_dict()))
VALUES = {
    bool: st.booleans(),
    int: st.one_of(st.integers(-3, 3), st.integers()),
    float: st.one_of(st.floats(), st.floats(0, 1)),
    str: st.one_of(TEXT, st.sampled_from(["", "step", "float32", "fused"])),
    list: st.lists(st.one_of(st.floats(), st.integers(-2, 2), TEXT), max_size=5).map(tuple),
}


@given(st.data())
def test_parse_takes_or_reports_any_value(data):
    """Values of the field's own type, which is all that flags let through."""
    name, field, old = data.draw(st.sampled_from(FIELDS))
    value = data.draw(VALUES[type(old)])
    config = CONFIGS[name].copy_and_resolve_references()
    config.update_from_flattened_dict({field: value})
    _, error = outcome(lambda: configuration.parse(config))
    if error:
        assert field.rpartition(".")[2] in error
    else:
        assert not isinstance(value, float) or math.isfinite(value)


def npy(header, data):
    """A file in NumPy's format, with any text for a header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


HEADERS = st.one_of(
    st.text(string.printable, max_size=80),
    st.builds(
        "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}}}".format,
        st.sampled_from(["<f4", "<f8", "|O", "<i8", "<U4", "V8", "<f16", "x"]),
        st.sampled_from(["False", "True", "2"]),
        st.sampled_from(["(2, 2)", "(2,)", "(2, 0)", "(1000000000000, 2)", "(-2, -2)", "(2, 1)", "()"]),
    ),
)
WORDS = st.one_of(st.sampled_from(["nodding", "waving"]), NUMBERS.map(str), TEXT)


@given(st.one_of(st.binary(max_size=200), st.builds(npy, HEADERS, st.binary(max_size=40))))
@example(npy("0L", b""))
@example(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1)}", struct.pack("<dd", 1.0, 1e300)))
def test_load_label_vectors_takes_or_reports_any_table(content):
    check_vectors("vectors.npy", content)


@given(st.lists(st.lists(WORDS, max_size=5).map(" ".join), max_size=6).map("\n".join))
@example("nodding 3.4028235677973366e+38\nwaving 1")
def test_load_label_vectors_takes_or_reports_any_text(content):
    check_vectors("vectors.txt", content)


def check_vectors(name, content):
    """The vectors of a file are whole and finite, or refused with its name."""
    with folder_with({name: content}) as root:
        source = str(root / name)
        found, error = outcome(lambda: label_vectors.load_label_vectors(source, ["nodding", "waving"]))
    if error:
        assert source in error
    else:
        assert found.shape[0] == 2
        assert found.shape[1] > 0
        assert np.isfinite(found).all()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A data set of whole clips, whose training list also has the corpus."""
    root = tmp_path_factory.mktemp("data")
    found = corpus.write_corpus(root / "train")
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            write_clip(root / split / f"whole {i}.mp4", seed=i)
    lists = {"train": [video.path.name for video in found] + [f"whole {i}.mp4" for i in range(4)]}
    lists["val"] = [f"whole {i}.mp4" for i in range(2)]
    for split, names in lists.items():
        lines = [f"{name} {i % 3}\n" for i, name in enumerate(names)]
        (root / f"{split}_list_videos.txt").write_text("".join(lines))
    (root / "label_name.txt").write_text("0\tnodding\n1\twaving\n2\ttiptoe\n")
    return root, found


def reasons(videos, text):
    """A text's reason for each video: the rest of the line after its path, "" where there is none."""
    found = {}
    for each in videos:
        lines = [line.partition(f"{each.path}: ")[2] for line in text.splitlines() if f"{each.path}: " in line]
        found[each.path.name] = lines[0] if lines else ""
    return found


def check_reasons(videos, found):
    for each in videos:
        if each.refused is not None:
            assert bool(found[each.path.name]) == each.refused, (each, found)
            assert each.reason in found[each.path.name]


@pytest.fixture(scope="module")
def built(videos, tmp_path_factory, run_command):
    """The set, built without what is damaged; the build's messages."""
    root, found = videos
    target = tmp_path_factory.mktemp("built")
    refused = run_command([*PYTHON, "tfds_ma52", "--manual_dir", root, "--data_dir", target, "--config", "original"])
    assert refused.returncode == 2, refused.stderr
    assert "Traceback" not in refused.stderr
    num_damaged = sum(bool(reason) for reason in reasons(found, refused.stderr).values())
    assert f": {num_damaged} problems" in refused.stderr
    flags = ("--manual_dir", root, "--data_dir", target, f"--allow_damaged={num_damaged}")
    result = run_command([*PYTHON, "tfds_ma52", *flags, "--config", "original"])
    assert result.returncode == 0, result.stderr
    assert reasons(found, result.stdout) == reasons(found, refused.stderr)
    return target, num_damaged, result.stdout


def test_build_reports_every_damaged_video(videos, built):
    check_reasons(videos[1], reasons(videos[1], built[2]))


def test_corpus_trains_and_predicts(videos, built, run_command, tmp_path):
    root, found = videos
    config = shrink(ma52.get_config(), root)
    fields = {
        field: value
        for field, value in configuration.flatten(config.to_dict())
        if field.startswith(("data", "model", "clip"))
    }
    fields |= {"data.data_dir": built[0], "data.builder_config": "original", "data.allow_damaged": built[1]}
    fields |= {"batch_size": 8, "eval.batch_size": 8, "num_epochs": 2.0, "eval.every_epochs": 2.0}
    overrides = [
        f"--config.{field}={tuple(value) if isinstance(value, list) else value}" for field, value in fields.items()
    ]
    flags = ["--config", "configs/ma52.py", "--workdir", tmp_path, "--noreport", *overrides]
    trained = run_command([*PYTHON, "manet_jax.main", *flags])
    assert trained.returncode == 0, trained.stderr

    found = [video for video in found if not video.path.is_dir()]
    result = run_command(
        [*PYTHON, "manet_jax.predict", "--workdir", tmp_path, "--json", *(video.path for video in found)]
    )
    assert result.returncode == 1, result.stderr
    predicted = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["video"] for each in predicted] == [str(video.path) for video in found]
    check_reasons(found, {video.path.name: each.get("error", "") for video, each in zip(found, predicted, strict=True)})
    for each in predicted:
        assert ("error" in each) != ("top" in each)
        assert all(0 <= action["probability"] <= 1 for action in each.get("top", ()))


def test_build_original_and_prediction_see_the_same_frames_at_the_same_times(videos):
    """Of every file that can be read: as the build stores them, as training decodes originals, as prediction does."""
    inputs = {"video": ClipSpec(num_frames=8, short_side=32, crop_size=32)}
    num_read, spans = 0, set()
    for each in videos[1]:
        try:
            frames = list(video.read_frames(each.path))
        except DamagedVideoError:
            with pytest.raises(DamagedVideoError):
                transcode.transcode(ClipFrames(each.path), 256)
            continue
        num_read += 1
        images = np.stack([frame.picture.image() for frame in frames])
        assert each.refused is None or len(images) == each.num_frames, each
        starts = np.array([frame.start for frame in frames])
        assert starts[0] == 0
        assert (np.diff(starts) > 0).all()
        assert_stored(transcode.transcode(ClipFrames(each.path), 256), images, each)

        content = each.path.read_bytes()
        np.testing.assert_array_equal(decoding.decode_original(content, np.arange(len(images))), images)
        expected = clips.eval_clip(decoding.StoredVideo(content, len(images), decoding.decode_original), inputs)
        loaded = list(read_video(ClipFrames(each.path), inputs, 2.0, 1.0, num_threads=2))
        assert not any(part.error for part in loaded), each
        if not loaded[0].windowed:
            np.testing.assert_array_equal(loaded[0].clips[0][0]["video"], expected["video"])

        start, end = 0.31 * frames[-1].end, 0.79 * frames[-1].end  # on no middle
        inside = [i for i, frame in enumerate(frames) if start <= frame.middle < end]
        halfway = [i for i, frame in enumerate(frames) if frame.start <= (start + end) / 2][-1:]
        chosen = [frame.start for frame in video.frames_between(video.read_frames(each.path), start, end)]
        assert chosen == starts[inside or halfway].tolist()
        if each.path.stem in ("gaps", "trimmed", "slowing", "late"):
            assert_stored(transcode.transcode(ClipFrames(each.path, (start, end)), 256), images[inside], each)
            spans.add(each.path.stem)
    assert num_read > 45
    assert len(spans) == 4


def assert_stored(stored, images, each):
    """Stored bytes show some images: their means by quarter, for the encoder loses detail."""
    content, info = stored
    with av.open(io.BytesIO(content)) as container:
        found = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert info.num_frames == len(found) == len(images), each
    np.testing.assert_allclose(quarters(found), quarters(images), atol=4, err_msg=str(each))


def quarters(images):
    rows = np.array_split(images.astype(float), 2, axis=1)
    return np.stack([part.mean((1, 2, 3)) for row in rows for part in np.array_split(row, 2, axis=2)], axis=1)


def test_the_corpus_is_large(videos):
    assert len(videos[1]) >= 90
    assert len({each.path for each in videos[1]}) == len(videos[1])
