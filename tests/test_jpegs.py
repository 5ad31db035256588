"""Clips stored as a JPEG a frame."""

import contextlib
import dataclasses
import io
import itertools
import shutil
import struct

import numbered
import numpy as np
import PIL.Image
import PIL.JpegImagePlugin
import pytest
import tensorflow_datasets as tfds
from helpers import ROOT, outcome, write_clip, write_folder

from manet_jax import metrics
from manet_jax.data import decoding, input_pipeline
from manet_jax.data.dataset import Source, open_dataset
from manet_jax.models import ClipSpec
from manet_jax.studies.small_runs import command, losses
from tfds_ma52 import annotations, jpegs, ma52_dataset_builder, transcode
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.encoding import VideoInfo, encode_jpegs
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_NAMES
from tfds_ma52.video import DamagedVideoError


def psnr(left, right):
    return 10 * np.log10(255**2 / np.mean((left.astype(float) - right) ** 2))


@pytest.fixture(scope="module")
def frames():
    return np.stack([numbered.picture(i) for i in range(20)])


@pytest.fixture(scope="module")
def content(frames):
    return encode_jpegs(frames)[0]


def decode(content, indices):
    return decoding.decode_jpegs(jpegs.split(content), indices)


def test_join_and_split_by_hand():
    joined = jpegs.join([b"ab", b"cde"])
    assert joined == struct.pack("<4Q", 2, 32, 34, 37) + b"abcde"
    assert [bytes(jpeg) for jpeg in jpegs.split(joined)] == [b"ab", b"cde"]


def test_frames_come_back_in_order(frames, content):
    decoded = decode(content, np.arange(20))
    assert [numbered.number_of(image) for image in decoded] == list(range(20))
    assert decoded.shape == frames.shape


def test_frames_are_near_to_what_was_stored():
    ramp = np.linspace(20, 235, 96)[None, :, None]
    noisy = np.clip(ramp + np.random.default_rng(0).normal(0, 12, (64, 96, 1)), 0, 255).astype(np.uint8)
    image = noisy.repeat(3, axis=2)
    content, _ = encode_jpegs([image])
    (decoded,) = decode(content, np.arange(1))
    assert 32 < psnr(decoded, image) < 35  # 33.1; 36.3 at quality 90


def test_frames_are_the_same_in_any_order(content):
    whole = decode(content, np.arange(20))
    indices = np.array([19, 3, 3, 0, 12])
    np.testing.assert_array_equal(decode(content, indices), whole[indices])


def test_encode_jpegs_has_chroma_at_half_the_resolution_and_is_deterministic(frames, content):
    again, info = encode_jpegs(iter(frames))
    assert again == content
    assert info == VideoInfo(20, numbered.HEIGHT, numbered.WIDTH)
    for jpeg in jpegs.split(content):
        with PIL.Image.open(io.BytesIO(jpeg)) as image:
            assert PIL.JpegImagePlugin.get_sampling(image) == 2  # 4:2:0
            assert image.size == (numbered.WIDTH, numbered.HEIGHT)


def test_no_truncated_content_is_decoded(frames):
    content, _ = encode_jpegs(frames[:1])
    for length in range(len(content)):
        with pytest.raises(DamagedVideoError):
            decode(content[:length], np.arange(1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "it does not begin as a row of JPEGs does, or is cut off"),
        (lambda content: bytes(16), "it does not begin as a row of JPEGs does, or is cut off"),
        (lambda content: b"not a video" * 50, "it does not begin as a row of JPEGs does, or is cut off"),
        (lambda content: content[:-1], "{last} bytes are there, where its header announces {length}"),
        (lambda content: content + b"a", "{next} bytes are there, where its header announces {length}"),
        (
            lambda content: content[:176] + bytes(len(content) - 176),
            "frame 0 is damaged (tjDecompressHeader3(): Could not determine subsampling level of JPEG image)",
        ),
        (
            lambda content: jpegs.join([bytes(jpegs.split(content)[0])[:-20]]),
            "frame 0 is damaged (Premature end of JPEG file)",
        ),
    ],
)
def test_decode_jpegs_reports_damage(content, damage, message):
    lengths = {"last": len(content) - 1, "length": len(content), "next": len(content) + 1}
    with pytest.raises(DamagedVideoError) as error:
        decode(damage(content), np.arange(1))
    assert str(error.value) == message.format(**lengths)


def test_decode_jpegs_refuses_frames_of_two_sizes(content):
    widths = numbered.WIDTH + 16, numbered.WIDTH - 16
    others = [np.zeros((numbered.HEIGHT, width, 3), np.uint8) for width in widths]
    frames = [*jpegs.split(content)[:2], *(jpegs.split(encode_jpegs([each])[0])[0] for each in others)]
    with pytest.raises(DamagedVideoError, match=r"^frame 2 is damaged \(18432 byte buffer is too small"):
        decoding.decode_jpegs(frames, np.array([1, 2]))
    with pytest.raises(DamagedVideoError, match=r"^frame 3 has another size than frame 1$"):
        decoding.decode_jpegs(frames, np.array([1, 3]))


def test_decode_jpegs_refuses_a_frame_after_the_end(content):
    with pytest.raises(DamagedVideoError, match=r"^it ends before frame 20$"):
        decode(content, np.array([0, 20]))


def test_transcode_stores_the_frames_of_the_other_form(tmp_path):
    write_clip(tmp_path / "in.mp4", num_frames=9, height=120, width=80, audio=True)
    (h264, h264_info), (jpeg, jpeg_info) = (
        transcode.transcode(ClipFrames(tmp_path / "in.mp4"), 40, form) for form in ("h264", "jpeg")
    )
    assert h264_info == jpeg_info == VideoInfo(9, 60, 40)
    images = (decoding.decode_h264(h264, np.arange(9)), decode(jpeg, np.arange(9)))
    assert psnr(*images) > 30


def build(root, config):
    return ma52_dataset_builder.build(root, config=config, num_processes=1)


def assert_numbered(builder, expected):
    """A split's clips show these numbers."""
    assert ma52_dataset_builder.stored_form(builder) == "jpeg"
    source = Source(
        builder.as_data_source("train"),
        "train",
        builder.data_path,
        decoding.decode_jpegs,
        jpegs.frames_path(builder.data_path, "train"),
    )
    assert len(source) == len(expected)
    for example in (source[i] for i in range(len(source))):
        numbers = expected[example["video_id"].decode()]
        assert example["num_frames"] == len(numbers)
        images = example["video"].frames(np.arange(len(numbers)))
        assert [numbered.number_of(image) for image in images] == numbers


def write_numbered(root, *names, count=12):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        numbered.write(root / name, range(count))


def test_pro_jpeg_256_builds(tmp_path):
    write_numbered(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "annotations.csv").write_text("video,labels,split\na.mp4,nodding;waving,train\nb.mp4,waving,val\n")
    assert annotations.read_folder(tmp_path).problems == ()
    assert_numbered(build(tmp_path, "pro_jpeg_256"), {"a.mp4": list(range(12))})


def test_mma52_jpeg_256_builds(tmp_path):
    write_numbered(tmp_path, "train/a.mp4", "val/c.mp4", count=60)
    header = "id,video_id,start_frame,end_frame,class,total_frames,fps\n"
    (tmp_path / "train.csv").write_text(f"{header}0,a,0,30,nodding,60,30\n")
    (tmp_path / "val.csv").write_text(f"{header}0,c,0,30,nodding,60,30\n")
    builder = ma52_dataset_builder.build(tmp_path, config="mma52_jpeg_256", window=1.0, num_processes=1)
    assert_numbered(builder, {"a@0.00-1.00": list(range(30)), "a@1.00-2.00": list(range(30, 60))})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Classes and devices are those of test_main.py, so that the compiled programs are, too.
    per_split = (("train", 8), ("val", 4))
    return write_folder(tmp_path_factory.mktemp("data"), per_split=per_split, names=MA52_NAMES[:6])


@pytest.mark.slow
def test_main_builds_and_trains_on_jpeg_256(folder, run_command, tmp_path):
    fields = {"data.builder_config": "jpeg_256", "num_epochs": 3.0}
    with contextlib.chdir(ROOT):
        result = run_command(command(tmp_path, folder, **fields), num_devices=2)
    assert result.returncode == 0, result.stderr
    assert (folder / "tfds/ma52/jpeg_256/1.1.0/dataset_info.json").exists()
    assert not (folder / "tfds/ma52/h264_256").exists()
    assert len(losses(tmp_path)) == 3
    assert np.isfinite(losses(tmp_path)).all()
    assert result.stdout.splitlines()[-9].split()[0] == metrics.NAMES[0]


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset({"manual_dir": folder, "config": "jpeg_256", "num_processes": 1})


def test_a_damaged_frame_is_the_users_error(dataset):
    examples = [dict(each) for each in itertools.islice(dataset.source("val"), 4)]
    video = examples[3]["video"]
    frames = [frame[:-20] for frame in itertools.islice(video.content, video.num_frames)]
    examples[3]["video"] = decoding.StoredVideo(frames, video.num_frames, video.decode)
    inputs = {"video": ClipSpec(num_frames=4, short_side=40, crop_size=32)}
    with pytest.raises(UserError) as error:
        list(input_pipeline.eval_batches(examples, inputs, batch_size=4))
    middle = video.num_frames // 8
    assert str(error.value) == (
        f"clip {examples[3]['video_id'].decode()} of the built data set cannot be decoded (frame {middle} is damaged "
        "(Premature end of JPEG file)): build the set again with python -m tfds_ma52 --overwrite"
    )


def test_a_video_reads_its_own_frames_alone(dataset):
    source = dataset.source("train")
    for i in range(len(source)):
        video = source[i]["video"]
        assert len(video.content) == video.num_frames
        for outside in (-1, video.num_frames):
            with pytest.raises(IndexError):
                video.content[outside]


@pytest.fixture
def copied(dataset, tmp_path):
    """A copy of the built set, and the file of its training frames."""
    target = tmp_path / "jpeg_256" / "1.1.0"
    shutil.copytree(dataset.location, target)
    builder = tfds.builder_from_directory(target)
    return dataclasses.replace(dataset, builder=builder), jpegs.frames_path(target, "train")


def read_frames(dataset):
    source = dataset.source("train")
    return [source[i]["video"].frames(np.arange(source[i]["num_frames"])) for i in range(len(source))]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95, None])
def test_source_reports_a_cut_file_of_frames(copied, share):
    dataset, path = copied
    content = path.read_bytes()
    path.unlink()
    if share is not None:
        path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"split 'train' of .* cannot be read \(.*\): its files are damaged; build the"):
        read_frames(dataset)


def test_source_reports_flipped_bytes_of_frames_or_reads_the_same(copied):
    dataset, path = copied
    whole, rng, reported = bytearray(path.read_bytes()), np.random.default_rng(0), 0
    expected = read_frames(dataset)
    for offset in rng.integers(len(bytes(whole).rstrip(b"\0")), size=20):
        damaged = whole.copy()
        damaged[offset] ^= 0x10
        path.write_bytes(damaged)
        found, error = outcome(lambda: read_frames(dataset))
        if error:
            assert "its files are damaged" in error
            reported += 1
        else:
            assert all((left == right).all() for left, right in zip(found, expected, strict=True))
    assert reported
