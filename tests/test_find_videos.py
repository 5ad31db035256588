"""The videos that files, folders and globs stand for."""

import os

import pytest

from manet_jax import video_files
from tfds_ma52.errors import UserError


def test_find_videos_takes_files_folders_and_globs(tmp_path):
    for name in ("a.mp4", "b.AVI", "deep/c.mov", "note.txt", "odd [1].mp4"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    def names(*patterns):
        return [str(path.relative_to(tmp_path / "in")) for path in video_files.find_videos(patterns)]

    root = str(tmp_path / "in")
    assert names(root) == ["a.mp4", "b.AVI", "deep/c.mov", "odd [1].mp4"]
    assert names(f"{root}/*.mp4") == ["a.mp4", "odd [1].mp4"]
    assert names(f"{root}/**/c.*", f"{root}/deep") == ["deep/c.mov"]
    assert names(f"{root}/odd [1].mp4", f"{root}/note.txt", f"{root}/gone.mp4") == [
        "odd [1].mp4",
        "note.txt",
        "gone.mp4",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no videos: there is no file ending in \.mp4, \.m4v"):
        video_files.find_videos([str(tmp_path / "empty")])
    with pytest.raises(UserError, match=r"no file matches .*/x\*\.mp4"):
        video_files.find_videos([f"{root}/x*.mp4"])
    with pytest.raises(UserError, match=r"~nobody_here/a.mp4 cannot be found \(.*home"):
        video_files.find_videos(["~nobody_here/a.mp4"])
    with pytest.raises(UserError, match=r"is no glob|no file matches"):  # an error before Python 3.13
        video_files.find_videos([f"{root}/a**b/*.mp4"])


def test_find_videos_counts_what_it_passes_over_in_a_folder(tmp_path, capsys):
    folder = tmp_path / "clips"
    names = ["a.mp4", "b.TS", "c.GIF", "1.txt", "2.TXT", "3.json", "README", "._a.mp4", "._1.txt", ".b.mp4"]
    for name in [*names, ".trash/c.mp4", "deep/4.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    assert [path.name for path in video_files.find_videos([str(folder)])] == ["a.mp4", "b.TS", "c.GIF"]
    assert capsys.readouterr().err == (
        f"manet_jax: {folder}: files passed over, by their names no videos: 3 .txt, 2 companions of macOS, 2 hidden, "
        "1 .json, 1 without suffix; give a file itself to have it read\n"
    )
    # A folder without others is not worth a line; a hidden one that is named is read.
    assert [path.name for path in video_files.find_videos([str(folder / ".trash")])] == ["c.mp4"]
    assert capsys.readouterr().err == ""
    for i in range(9):
        (folder / f"{i}.s{i}").write_bytes(b"")
    video_files.find_videos([str(folder)])
    assert "1 .json, 1 .s0, 1 .s1, 1 .s2, 1 .s3, 6 others; give a file" in capsys.readouterr().err  # 8 of 14 kinds


def test_find_videos_follows_links_once(tmp_path):
    for name in ("in/a.mp4", "in/deep/b.mp4", "elsewhere/c.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    root = tmp_path / "in"
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "deep" / "up").symlink_to(root)  # an endless loop
    (root / "z.mp4").symlink_to(root / "a.mp4")
    (root / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")

    def names(*patterns):
        return [str(path.relative_to(root)) for path in video_files.find_videos(patterns)]

    # The one that leads nowhere is kept: that it is missing is reported where it is read.
    assert names(str(root)) == ["a.mp4", "again/c.mp4", "deep/b.mp4", "gone.mp4"]
    assert names(f"{root}/z.mp4", str(root), f"{root}/a.mp4") == ["z.mp4", "again/c.mp4", "deep/b.mp4", "gone.mp4"]


def test_find_videos_refuses_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"folder .*/closed cannot be read \(Permission denied\)"):
        video_files.find_videos([str(tmp_path)])
