"""Pages of drawn videos: a person who does one micro-action after the other, and a model that finds most of them.

The pictures in the docs: PYTHONPATH=. python tests/player_examples.py docs/analysts
"""

import pathlib
import shutil
import sys
import tempfile

import numpy as np
from PIL import Image

from manet_jax.detection.grouping import group
from manet_jax.report.player import index, video_page
from manet_jax.report.player.video_page import VideoPage
from tfds_ma52.encoding import encode_h264
from tfds_ma52.labels import MA52
from tfds_ma52.synthetic import motions, render, skeleton, writer

FPS, REST = 15, 0.6  # frames a second; seconds of a pause
FLAGS = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"]
FLAGS += ["disable-sync", "no-sandbox"]
INTERVIEWS = {  # their actions, MA-52's ids
    "interview_1.mp4": (9, 41, 13, 28, 9, 15, 47, 10, 21, 24, 5, 49, 7, 22, 41, 31, 38, 9),
    "interview_2.mp4": (8, 22, 43, 9, 25, 22, 14, 6, 36),
    "interview_3.mp4": (24, 2, 20, 24, 8, 45, 51),
}


def draw_video(path, actions, *, short_side=240, seed=0):
    """Writes a video of one person and returns the start and the end of each action."""
    rng = np.random.default_rng(seed)
    body, looks, scene = skeleton.draw_body(rng), render.draw_looks(rng, 0), render.draw_scene(rng)
    frames, times = [], []
    for class_id in actions:
        points = skeleton.pose_trajectory(class_id, body, motions.draw_variation(rng))
        points = {name: point[::2] for name, point in points.items()}
        clip = render.render_frames(points, body, looks, scene, writer.frame_size(short_side), rng)
        times.append((len(frames) / FPS, (len(frames) + len(clip)) / FPS))
        frames += [*clip, *[clip[-1]] * round(REST * FPS)]
    path.write_bytes(encode_h264(frames, preset="veryfast", frame_rate=FPS)[0])
    return times, len(frames) / FPS


def simulate(times, actions, duration, *, spacing=0.25, seed=0, labels=MA52):
    """Probabilities as of a model that sees windows of two seconds, and confuses actions of a group now and then."""
    rng = np.random.default_rng(seed)
    moments = np.arange(spacing / 2, duration, spacing)
    scores = rng.gamma(0.4, 0.03, (len(moments), len(labels.names)))
    for (start, end), class_id in zip(times, actions, strict=True):
        inside = np.clip(np.minimum(moments - start + 0.3, end + 0.3 - moments) / 0.8, 0, 1)
        others = [i for i, each in enumerate(labels.groups) if each == labels.groups[class_id] and i != class_id]
        scores[:, class_id] += inside * rng.uniform(0.5, 0.95)
        if others:
            scores[:, rng.choice(others)] += inside * rng.uniform(0.0, 0.35)
    smooth = np.apply_along_axis(lambda column: np.convolve(column, [0.25, 0.5, 0.25], "same"), 0, scores)
    return moments, np.clip(smooth, 0, 1)


def drawn_page(path, actions, *, short_side=240, seed=0, title=""):
    """The page of a drawn video, which is written to `path`."""
    times, duration = draw_video(path, actions, short_side=short_side, seed=seed)
    moments, probabilities = simulate(times, actions, duration, seed=seed)
    segments = group(probabilities, moments, duration)
    return VideoPage(path, duration, float(FPS), MA52, moments, probabilities, segments, title)


def long_page(path, *, minutes=30, spacing=0.25, seed=0):
    """The page of a video of half an hour with all 52 classes, of which there is no file."""
    rng, duration = np.random.default_rng(seed), 60.0 * minutes
    starts = np.arange(2.0, duration - 4, 3.0)
    actions = rng.integers(0, 52, len(starts)).tolist()
    times = [(start, start + rng.uniform(0.5, 4)) for start in starts]
    moments, probabilities = simulate(times, actions, duration, spacing=spacing, seed=seed)
    return VideoPage(path, duration, 25.0, MA52, moments, probabilities, group(probabilities, moments, duration))


def start_chromium(playwright):
    """The browser of this machine, without a window."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "install chromium: apt-get install chromium"
    return playwright.chromium.launch(executable_path=path, args=[f"--{flag}" for flag in FLAGS])


def write_interviews(folder):
    """Writes the pages of three drawn videos, and their overview."""
    drawn = [drawn_page(folder / name, actions, seed=i) for i, (name, actions) in enumerate(INTERVIEWS.items())]
    pages = [(data, data.video.with_suffix(".html")) for data in drawn]
    for data, path in pages:
        video_page.write_page(data, path, index="index.html")
    index.write_index(pages, folder / "index.html")


def take_pictures(folder):
    """Takes the pictures of the docs."""
    from playwright.sync_api import sync_playwright

    sizes = {
        "page": ("interview_1", 1400, 900),
        "page_narrow": ("interview_1", 400, 1500),
        "index": ("index", 1000, 260),
    }
    with tempfile.TemporaryDirectory() as pages, sync_playwright() as playwright:
        write_interviews(pathlib.Path(pages))
        browser = start_chromium(playwright)
        for name, (page, width, height) in sizes.items():
            tab = browser.new_page(viewport={"width": width, "height": height})
            tab.goto((pathlib.Path(pages) / f"{page}.html").as_uri())
            if page != "index":
                tab.evaluate(
                    "new Promise((done) => { if (video.readyState > 1) done(); else video.oncanplay = done; })"
                )
                tab.evaluate("choose(shownSegments[7]); seek(selected.start + 0.8); scroller.scrollTop = 0")
                tab.wait_for_timeout(500)
            path = folder / f"{name}.png"
            tab.screenshot(path=path)
            Image.open(path).convert("RGB").save(path, optimize=True)
        browser.close()


if __name__ == "__main__":
    take_pictures(pathlib.Path(sys.argv[1]))
