"""Clips as folders of images, and crops to boxes, in the build and in prediction."""

import json
import re

import cv2
import numpy as np
import PIL.Image
import pytest
from helpers import outcome, read_video
from numbered import HEIGHT, WIDTH, number_of, picture, write
from saved_models import save, small

import tfds_ma52.__main__
from configs import ma52
from manet_jax import predict
from manet_jax.data import clips as clips_lib
from manet_jax.models import ClipSpec
from tfds_ma52 import box_file, image_folder, ma52_dataset_builder, transcode
from tfds_ma52.boxes import Box
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.video import DamagedVideoError

INPUTS = {"video": ClipSpec(num_frames=4, short_side=HEIGHT, crop_size=HEIGHT)}


def write_images(folder, numbers, pattern="img_{:05d}.png"):
    folder.mkdir(parents=True)
    for number in numbers:
        PIL.Image.fromarray(picture(number)).save(folder / pattern.format(number))
    return folder


def numbers(clip):
    return [number_of(frame.picture.image()) for frame in clip.read()]


@pytest.mark.parametrize("pattern", ["img_{:05d}.png", "{}.jpg", "frame{:d}.webp"])
def test_images_come_in_the_order_of_their_numbers(tmp_path, pattern):
    folder = write_images(tmp_path / "a", range(3, 15), pattern)
    (folder / "notes.txt").write_text("")
    (folder / "._img_00003.png").write_bytes(b"")
    assert numbers(ClipFrames(folder)) == list(range(3, 15))
    assert numbers(ClipFrames(folder, frame_pattern=pattern, num_frames=12)) == list(range(3, 15))
    frames = list(ClipFrames(folder, frame_rate=4.0).read())
    assert [frame.start for frame in frames] == [i / 4 for i in range(12)]
    assert frames[-1].end == 3


def test_times_as_names_may_have_any_step(tmp_path):
    folder = write_images(tmp_path / "a", [0])
    for time, number in ((33, 1), (66, 2), (100, 3)):
        PIL.Image.fromarray(picture(number)).save(folder / f"img_{time}.png")
    assert numbers(ClipFrames(folder)) == [0, 1, 2, 3]


def damage_images(folder, damage):
    """Returns the expected error."""
    match damage:
        case "gap":
            (folder / "img_00004.png").unlink()
            return "the folder has image 3 and 5, but none between"
        case "another count":
            return "the folder has 8 images, but the list says 9"
        case "several kinds":
            write_images(folder / "x", [1], "flow_x_{}.png")
            (folder / "x" / "flow_x_1.png").rename(folder / "flow_x_1.png")
            return "the folder has images of several names (flow_x_*.png, img_*.png): say which with a frame_pattern"
        case "cut off":
            path = folder / "img_00002.png"
            path.write_bytes(path.read_bytes()[:200])
            return "img_00002.png cannot be read as an image (image file is truncated"
        case "sixteen bits":
            cv2.imwrite(str(folder / "img_00000.png"), np.full((8, 8), 40_000, np.uint16))
            return "img_00000.png has more than 8 bits a channel: save it with 8"
        case "twice":
            PIL.Image.fromarray(picture(1)).save(folder / "img_1.png")
            return "the folder has img_00001.png and img_1.png, of one number"
        case "none":
            for path in folder.iterdir():
                path.unlink()
            return "the folder has no images"


@pytest.mark.parametrize(
    "damage", ["gap", "another count", "several kinds", "cut off", "sixteen bits", "twice", "none"]
)
def test_damaged_folders_are_reported_with_the_image(tmp_path, damage):
    folder = write_images(tmp_path / "a", range(8))
    expected = damage_images(folder, damage)
    clip = ClipFrames(folder, num_frames=9 if damage == "another count" else None)
    with pytest.raises(DamagedVideoError) as error:
        numbers(clip)
    assert str(error.value).startswith(expected)


def test_a_pattern_must_have_a_place_for_the_number(tmp_path):
    for pattern in ("img_%05d.jpg", "a.jpg", "{:05d}/{}.jpg", "{name}.jpg"):
        _, error = outcome(lambda pattern=pattern: image_folder.check_pattern(pattern))
        assert error == (
            f"frame_pattern is {pattern!r}; give a file's name with {{}} or {{:05d}} for its number, such as "
            "img_{:05d}.jpg"
        )
    folder = write_images(tmp_path / "a", range(3))
    with pytest.raises(DamagedVideoError, match=r"^the folder has no images named as x_\{\}.jpg$"):
        numbers(ClipFrames(folder, frame_pattern="x_{}.jpg"))


def test_lists_of_folders_build_and_predict(tmp_path, capsys):
    """`<folder> <num_frames> <label>`, as TSN's lists have it; two kinds of images in a folder."""
    root = tmp_path / "data"
    for split, count in (("train", 3), ("val", 2)):
        lines = []
        for i in range(count):
            folder = write_images(root / split / "set 1" / f"clip.{i}", range(1, 7 + i), "img_{:05d}.jpg")
            PIL.Image.fromarray(picture(0)).save(folder / "flow_x_00001.jpg")
            lines.append(f"set 1/clip.{i} {6 + i} {i}\n")
        (root / f"{split}_list_videos.txt").write_text("".join(lines))
    (root / "label_name.txt").write_text("0\tnodding\n1\twaving\n2\ttiptoe\n")
    options = {"num_processes": 1, "frame_pattern": "img_{:05d}.jpg"}
    _, error = outcome(lambda: ma52_dataset_builder.build(root, config="original", **options))
    assert error == ("config original stores files as they are; boxes and folders of images need a config of h264_256")
    built = ma52_dataset_builder.build(root, **options)
    examples = list(built.as_data_source("train"))
    assert [(int(each["num_frames"]), int(each["height"]), each["label"]) for each in examples] == [
        (6, HEIGHT, 0),
        (7, HEIGHT, 1),
        (8, HEIGHT, 2),
    ]
    assert not outcome(lambda: ma52_dataset_builder.build(root, **options))[1]
    (root / "val" / "set 1" / "clip.1" / "img_00003.jpg").write_bytes(b"other")
    _, error = outcome(lambda: ma52_dataset_builder.build(root, **options))
    assert "val/set 1/clip.1 has been replaced" in error

    workdir = save(tmp_path / "run", small(ma52.get_config()))
    capsys.readouterr()
    flags = ["--workdir", str(workdir), "--json", "--frame_pattern", "img_{:05d}.jpg"]
    assert predict.main([*flags, "--frame_rate", "3", str(root / "train")]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["video"] for each in found] == [str(root / "train" / "set 1" / f"clip.{i}") for i in range(3)]
    assert [each["end"] for each in found] == [2, 2.333, 2.667]
    assert predict.main([*flags, str(root / "train")]) == 2
    assert "to read folders of images, give --frame_rate" in capsys.readouterr().err
    assert predict.main([*flags, "--frame_rate", "0", str(root / "train")]) == 2
    assert capsys.readouterr().err == "manet_jax: frame_rate is 0.0; give 0.1 to 10000 frames a second\n"
    assert predict.main([*flags, "--frame_rate", "3", str(root / "label_name.txt")]) == 2
    assert "is no folder of images: give videos without --frame_rate" in capsys.readouterr().err


def test_a_long_folder_is_read_in_windows(tmp_path):
    folder = write_images(tmp_path / "a", range(24), "{:03d}.jpg")
    loaded = list(read_video(ClipFrames(folder, frame_rate=2.0), INPUTS, 4.0, 3.0, num_threads=1))
    assert [each.span for each in loaded] == [(0, 4), (3, 7), (6, 10), (8, 12)]
    assert all(each.announces_length and not each.error for each in loaded)


def test_a_list_line_of_a_file_with_a_frame_count_is_a_mistake(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "a.mp4", range(3))
        (tmp_path / f"{split}_list_videos.txt").write_text("a.mp4 3 0\n")
    _, error = outcome(lambda: ma52_dataset_builder.build(tmp_path))
    assert "train_list_videos.txt:1: a.mp4 is a file, not a folder of 3 images" in error


def test_box_edges_have_a_margin_and_end_with_the_picture():
    # 40 x 20 pixels, so a margin of 4 and 2.
    assert Box(10.0, 30.0, 50.0, 50.0, in_shares=False).edges((100, 100)) == (28, 52, 6, 54)
    assert Box(0.1, 0.3, 0.5, 0.5, in_shares=True).edges((100, 100)) == (28, 52, 6, 54)
    assert Box(-20.0, 0.0, 90.0, 200.0, in_shares=False).edges((100, 80)) == (0, 100, 0, 80)
    with pytest.raises(DamagedVideoError, match=r"^its box lies outside of the picture of 80 x 100 pixels$"):
        Box(100.0, 0.0, 140.0, 50.0, in_shares=False).edges((100, 80))


def box_text(rows, header="video,x0,y0,x1,y1"):
    return "\n".join([header, *rows]) + "\n"


def test_boxes_of_frames_are_joined(tmp_path):
    rows = ["a.mp4,0,10,20,30,40", "a.mp4,1,5,25,30,45", "a.mp4,2,,,,", "b/c,0,1,1,2,2"]
    (tmp_path / "b.csv").write_text(box_text(rows, "video,frame,x0,y0,x1,y1"))
    file = box_file.read_boxes(tmp_path / "b.csv")
    assert file.boxes == {"a.mp4": Box(5.0, 20.0, 30.0, 45.0, False), "b/c": Box(1.0, 1.0, 2.0, 2.0, False)}
    paths = [tmp_path / "train" / "a.mp4", tmp_path / "b" / "c.mp4", tmp_path / "c.mp4"]
    assert file.match(paths) == {paths[0]: file.boxes["a.mp4"], paths[1]: file.boxes["b/c"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file .*b.csv of boxes: name another one with --boxes"),
        (box_text(["a,1,1,2,2", "a,1,1,2,3"]), "b.csv:3: a has a box already; several need a column frame"),
        (box_text(["a,3,1,2,2"]), "b.csv:2: expected x0 < x1 and y0 < y1, got 3, 1, 2, 2"),
        (box_text(["a,x,1,2,2"]), "b.csv:2: expected x0 < x1 and y0 < y1, got x, 1, 2, 2"),
        (box_text(["a,0,0,nan,2"]), "b.csv:2: expected x0 < x1 and y0 < y1, got 0, 0, nan, 2"),
        (box_text([",0,0,1,2"]), "b.csv:2: the video is missing"),
        (
            box_text(["a,0,1,1,2,2"], "video,frames,x0,y0,x1,y1"),
            "the header has .frames., which would be ignored",
        ),
        (box_text(["a,1,1,2,2"], "video,x,y,w,h"), "b.csv:1: the header .* lacks x0"),
    ],
)
def test_read_boxes_reports_every_mistake(tmp_path, text, message):
    if text is not None:
        (tmp_path / "b.csv").write_text(text)
    _, error = outcome(lambda: box_file.read_boxes(tmp_path / "b.csv"))
    assert re.search(message, error)


def boxed_set(root):
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for name in ("a.mp4", "b.mp4"):
            write(root / split / f"{split}_{name}", range(12))
        (root / f"{split}_list_videos.txt").write_text(f"{split}_a.mp4 0\n{split}_b.mp4 1\n")
    (root / "label_name.txt").write_text("0\tnodding\n1\twaving\n")
    return root


def test_boxes_crop_the_built_clips(tmp_path, capsys):
    root, boxes = boxed_set(tmp_path / "data"), tmp_path / "boxes.csv"
    quarter = [f"{split}_{name},0.05,0.05,0.45,0.45" for split in ("train", "val") for name in "ab"]
    boxes.write_text(box_text([*quarter, "of_no_clip.mp4,0,0,1,1"]))
    assert tfds_ma52.__main__.main(["--manual_dir", str(root), "--boxes", str(boxes), "--num_processes", "1"]) == 0
    built = ma52_dataset_builder.build(root, boxes=boxes)
    (example, _) = built.as_data_source("train")
    # 0.4 of each side and 0.04 on each side of it: 0.01 to 0.49 of 96 x 64 pixels, made even.
    assert (int(example["height"]), int(example["width"])) == (30, 46)
    (tmp_path / "stored.mp4").write_bytes(example["video"])
    (first, *_) = ClipFrames(tmp_path / "stored.mp4").read()
    image = first.picture.image().astype(int)
    assert image[5, 5, 0] - image[5, 5, 2] > 100  # the red corner
    _, error = outcome(lambda: ma52_dataset_builder.build(root))
    assert "was built from other lists (or windows, or boxes) than those now in" in error

    boxes.write_text(box_text(quarter[1:]))
    _, error = outcome(lambda: ma52_dataset_builder.build(root, boxes=boxes, overwrite=True))
    assert f"{boxes} has no box of {root}/train/train_a.mp4" in error
    boxes.write_text(box_text(["train_a,0,0,.5,.5", "train_a.mp4,0,0,1,1", "a,0,0,1,1"]))
    assert box_file.read_boxes(boxes).match([root / "train" / "train_a.mp4"]).popitem()[1].x1 == 1
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    _, error = outcome(lambda: box_file.read_boxes(boxes).match([tmp_path / "x/a.mp4", tmp_path / "y/a.mp4"]))
    assert f"a name stands for several videos; write more of their paths: 1 problem\n  a = {tmp_path}/x/a.mp4" in error


def test_prediction_sees_what_is_in_the_box(tmp_path, capsys):
    """The model gets the pixels of the box, as of a video that has nothing else."""
    path = write(tmp_path / "a.mp4", range(12))
    box = Box(0.0, 0.5, 0.9, 0.9, in_shares=True)
    (loaded,) = read_video(ClipFrames(path, box=box), INPUTS, 2.0, 1.0, num_threads=1)
    top, bottom, left, right = box.edges((HEIGHT, WIDTH))
    frames = [frame.picture.image()[top:bottom, left:right] for frame in ClipFrames(path).read()]
    expected = [clips_lib.crop_frame(frames[i], INPUTS)["video"][0] for i in (1, 4, 7, 10)]
    np.testing.assert_array_equal(loaded.clips[0][0]["video"], expected)
    _, info = transcode.transcode(ClipFrames(path, box=box), 256)
    assert (bottom - top, right - left) == (31, 95)
    assert (info.height, info.width) == (32, 96)  # even

    write(tmp_path / "b.mp4", range(12))
    (tmp_path / "boxes.csv").write_text(box_text(["a,0,0.5,0.9,0.9"]))
    workdir = save(tmp_path / "run", small(ma52.get_config()))
    flags = ["--workdir", str(workdir), "--json", "--boxes", str(tmp_path / "boxes.csv")]
    assert predict.main([*flags, str(path), str(tmp_path / "b.mp4")]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "top" in first
    assert second["error"] == f"{tmp_path}/boxes.csv has no box of it"


def test_prediction_without_boxes_of_a_model_of_boxes_is_remarked(tmp_path, capsys):
    config = small(ma52.get_config())
    config.data.boxes = "boxes.csv"
    workdir = save(tmp_path / "run", config)
    assert predict.main(["--workdir", str(workdir), str(write(tmp_path / "a.mp4", range(5)))]) == 0
    message = "manet_jax: the model was trained on crops to boxes, but there is no --boxes"
    assert message in capsys.readouterr().err.splitlines()
