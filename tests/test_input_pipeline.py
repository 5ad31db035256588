import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest

from manet_jax.data import input_pipeline
from manet_jax.data.dataset import open_dataset
from manet_jax.data.input_pipeline import Reading
from manet_jax.models import ClipSpec
from tfds_ma52.errors import UserError

INPUTS = {"video": ClipSpec(num_frames=4, short_side=40, crop_size=32, crop_scales=(1.0, 0.75))}


@pytest.fixture(scope="module")
def source(folder):
    return open_dataset({"manual_dir": folder}).source("train")  # 12 clips


@pytest.fixture(scope="module")
def val_source(folder):
    return open_dataset({"manual_dir": folder}).source("val")  # 5 clips


def take(dataset, count):
    iterator = iter(dataset)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def ids(batches):
    return [str(name) for batch in batches for name in batch["video_id"]]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for key in ("video", "label", "video_id"):
            np.testing.assert_array_equal(a[key], b[key])


def test_train_batches_have_the_documented_form(source):
    (batch,) = take(input_pipeline.train_batches(source, INPUTS, batch_size=4, seed=0), 1)
    assert {key: (value.shape, value.dtype.name[:3]) for key, value in batch.items()} == {
        "video": ((4, 4, 32, 32, 3), "uin"),
        "label": ((4,), "int"),
        "video_id": ((4,), "str"),
    }
    labels = {example["video_id"].decode(): example["label"] for example in source}
    assert [labels[name] for name in ids([batch])] == batch["label"].tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_clips_become_an_array_of_a_cpu_without_a_copy(source, batch_size):
    (batch,) = take(input_pipeline.train_batches(source, INPUTS, batch_size=batch_size, seed=0), 1)
    video = jax.device_put(batch["video"], jax.devices("cpu")[0])
    assert video.unsafe_buffer_pointer() == batch["video"].ctypes.data


@pytest.mark.parametrize("batch_size", [4, 8])  # 8 does not divide 12: a batch spans two passes
def test_train_batches_have_every_clip_once_a_pass_in_new_order(source, batch_size):
    names = ids(take(input_pipeline.train_batches(source, INPUTS, batch_size=batch_size, seed=0), 24 // batch_size))
    assert len(set(names[:12])) == len(set(names[12:])) == 12
    assert names[:12] != names[12:]


def test_train_batches_depend_on_the_seed_not_on_threads(source):
    reference = take(input_pipeline.train_batches(source, INPUTS, batch_size=4, seed=0), 6)
    threaded = input_pipeline.train_batches(
        source, INPUTS, batch_size=4, seed=0, reading=Reading(num_threads=4, num_prefetch=3)
    )
    assert_same(reference, take(threaded, 6))
    other = take(input_pipeline.train_batches(source, INPUTS, batch_size=4, seed=1), 6)
    assert ids(other) != ids(reference)


def test_train_batches_augment_anew_in_each_pass(source):
    videos = collections.defaultdict(list)
    for batch in take(input_pipeline.train_batches(source, INPUTS, batch_size=4, seed=0), 6):
        for name, video in zip(batch["video_id"], batch["video"], strict=True):
            videos[str(name)].append(video)
    assert all(len(pair) == 2 and (pair[0] != pair[1]).any() for pair in videos.values())


def test_train_batches_resume_in_the_middle_of_a_pass(source):
    reference = take(input_pipeline.train_batches(source, INPUTS, batch_size=4, seed=0), 5)
    assert_same(
        reference[2:], take(input_pipeline.train_batches(source, INPUTS, batch_size=4, seed=0, start_step=2), 3)
    )


def test_train_batches_are_shared_by_processes(source):
    reference = take(input_pipeline.train_batches(source, INPUTS, batch_size=4, seed=0), 4)
    parts = [
        take(input_pipeline.train_batches(source, INPUTS, batch_size=4, seed=0, reading=reading), 4)
        for reading in (Reading(process_index=i, process_count=2) for i in range(2))
    ]
    for whole, *halves in zip(reference, *parts, strict=True):
        # In the whole batch's order: its first half is what the first process's devices get in either case.
        together = {key: np.concatenate([half[key] for half in halves]) for key in whole}
        assert_same([whole], [together])


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_eval_batches_have_every_clip_once(val_source, process_count):
    readings = [Reading(process_index=i, process_count=process_count) for i in range(process_count)]
    parts = [list(input_pipeline.eval_batches(val_source, INPUTS, batch_size=4, reading=each)) for each in readings]
    assert [len(part) for part in parts] == [2] * process_count  # equal numbers, or a process would wait for ever
    names = [
        str(name)
        for part in parts
        for batch in part
        for name, index in zip(batch["video_id"], batch["index"], strict=True)
        if index >= 0
    ]
    assert sorted(names) == sorted(example["video_id"].decode() for example in val_source)
    for batch in itertools.chain(*parts):
        for name, index in zip(batch["video_id"], batch["index"], strict=True):
            assert name == ("" if index < 0 else val_source[int(index)]["video_id"].decode())
    padding = [batch["video"][batch["index"] < 0] for part in parts for batch in part]
    assert sum(map(len, padding)) == 3
    assert not any(video.any() for video in padding)


def test_eval_batches_keep_hidden_labels(val_source):
    hidden = [dict(example, label=-1) for example in val_source]
    for batch in input_pipeline.eval_batches(hidden, INPUTS, batch_size=4):
        assert (batch["label"] == -1).all()


def test_eval_batches_report_a_broken_record(val_source):
    broken = [dict(example) for example in val_source]
    broken[3]["video"] = dataclasses.replace(broken[3]["video"], content=b"not a video")
    with pytest.raises(UserError, match=r"clip 0103_01_0003.mp4 of the built data set cannot be decoded"):
        list(input_pipeline.eval_batches(broken, INPUTS, batch_size=4))


def test_train_batches_must_divide_among_processes(source):
    with pytest.raises(UserError, match="batch size 5 does not divide among 2 processes"):
        input_pipeline.train_batches(source, INPUTS, batch_size=5, seed=0, reading=Reading(process_count=2))


def test_train_batches_may_hold_one_clip(source):
    names = ids(take(input_pipeline.train_batches(source, INPUTS, batch_size=1, seed=0), 12))
    assert len(set(names)) == 12
