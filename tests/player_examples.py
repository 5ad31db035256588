"""Pages of drawn videos: a person who does one micro-action after the other, and a model that finds most of them."""

import numpy as np

from manet_jax.detection.grouping import group
from manet_jax.report.player.video_page import VideoPage
from tfds_ma52.encoding import encode_h264
from tfds_ma52.labels import MA52
from tfds_ma52.synthetic import motions, render, skeleton, writer

FPS, REST = 15, 0.6  # frames a second; seconds of a pause


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
