import itertools

import matplotlib.text
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from manet_jax.report import figures
from tfds_ma52.labels import MA52, MA52_COUNTS, LabelSet

THREE = LabelSet(("nodding", "waving", "bowing"), ("head", "hand"), (0, 1, 0))


def texts_of(figure):
    """All texts that are drawn: not the labels of ticks beyond an axis's limits, or of an axis that is off."""
    texts = {text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not axes.axison or not low <= tick.get_loc() <= high:
                    texts -= {tick.label1, tick.label2}
    return texts


def assert_nothing_is_clipped(figure):
    """All texts lie inside the picture, and are at least 6 points high."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = texts_of(figure)
    assert texts
    for text in texts:
        box, inside = text.get_window_extent(canvas.get_renderer()), figure.bbox.padded(1)
        assert inside.contains(box.x0, box.y0), text
        assert inside.contains(box.x1, box.y1), text
        assert text.get_fontsize() >= 6, text


def test_confusion_is_in_shares_and_ordered_by_group():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 6]])
    figure = figures.plot_confusion(confusion, THREE.names, THREE.groups, "title")
    axes = figure.axes[0]
    expected = [[75, 0, 25], [25, 75, 0], [np.nan] * 3]
    np.testing.assert_allclose(np.ma.filled(axes.images[0].get_array(), np.nan), expected)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["nodding (4)", "bowing (8)", "waving (0)"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["nodding", "bowing", "waving"]
    assert [line.get_ydata()[0] for line in axes.lines[::2]] == [1.5]  # between head and hand
    assert sorted(text.get_text() for text in axes.texts) == ["25", "25", "75", "75"]
    assert_nothing_is_clipped(figure)


def test_f1_is_ordered_from_frequent_to_rare_classes():
    figure = figures.plot_class_f1(np.array([0.5, np.nan, 0.9]), np.array([5, 0, 7]), THREE)
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["bowing", "nodding", "waving"]
    assert [bar.get_width() for bar in right.patches] == [90, 50, 0]
    assert [bar.get_width() for bar in left.patches][:2] == [7, 5]
    assert [text.get_text() for text in right.texts] == ["does not occur"]
    assert right.get_xlabel() == "F1, % (dotted: mean 70.0)"
    assert_nothing_is_clipped(figure)


def test_calibration_is_drawn_bin_by_bin():
    confidence = np.array([0.1, 0.15, 0.55, 0.95, 1.0])
    correct = np.array([False, True, True, True, False])
    upper, lower = figures.plot_calibration(confidence, correct, "actions").axes
    assert [round(bar.get_height()) for bar in upper.patches] == [0, 100, 0, 0, 0, 100, 0, 0, 0, 50]
    assert [bar.get_height() for bar in lower.patches] == [1, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    # |0.1 - 0| + |0.15 - 1| + |0.55 - 1| + 2 * |0.975 - 0.5|, over 5
    assert upper.get_title(loc="left") == "actions (expected calibration error 47.0 points)"


def test_embedding_lies_on_its_principal_components():
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(5, 2)))[0].T
    flat = rng.normal(size=(40, 2)) * (5, 1)
    target = np.eye(3, dtype=bool)[rng.integers(3, size=40)]
    target[0], target[1] = False, True  # none, and of two groups
    figure = figures.plot_embedding(flat @ plane + 7, target, THREE, np.array([[0, 0], [3, 0], [0, 0.5]]) @ plane + 7)
    axes = figure.axes[0]
    points = axes.collections[0].get_offsets()
    gaps = np.linalg.norm(flat[:, None] - flat, axis=-1)  # two components hold all of it
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points, axis=-1), gaps, atol=1e-6)
    assert np.ptp(points[:, 0]) > 2 * np.ptp(points[:, 1])
    colors = axes.collections[0].get_facecolors()
    assert len(np.unique(colors, axis=0)) == 3  # two groups, and grey
    np.testing.assert_array_equal(colors[0], colors[1])
    assert "100 %" not in axes.get_xlabel()
    assert [text.get_text() for text in axes.texts if text.get_text().isdecimal()] == ["0", "1", "2"]
    assert_nothing_is_clipped(figure)


def test_move_apart_separates_numbers_that_overlap():
    points = np.random.default_rng(0).normal(size=(52, 2))
    points[:4] = points[0]
    moved = figures.move_apart(points, 0.16)
    gaps = np.linalg.norm(moved[:, None] - moved, axis=-1)[~np.eye(52, dtype=bool)]
    assert gaps.min() > 0.15
    far = [i for i in range(52) if np.sort(np.linalg.norm(points - points[i], axis=1))[1] > 0.3]
    assert far
    np.testing.assert_allclose(moved[far], points[far], atol=0.02)


def test_figures_of_52_classes_are_legible():
    rng = np.random.default_rng(0)
    counts = np.array([train for train, _, _ in MA52_COUNTS])
    confusion = rng.integers(0, 9, (52, 52)) + np.diag(counts)
    drawn = [
        figures.plot_confusion(confusion, MA52.names, MA52.groups),
        figures.plot_class_f1(rng.random(52), counts, MA52),
        figures.plot_embedding(
            rng.normal(size=(99, 8)), np.eye(52, dtype=bool)[rng.integers(52, size=99)], MA52, np.eye(52, 8)
        ),
    ]
    for figure in drawn:
        assert_nothing_is_clipped(figure)
        names = {text.get_text() for text in figure.findobj(matplotlib.text.Text)}
        assert all(any(name in text for text in names) for name in MA52.names)
        width, height = figure.get_size_inches() * 100
        assert max(width, height) < 1400
    # Names do not lie on each other.
    for axes in (drawn[0].axes[0], drawn[1].axes[0]):
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        boxes.sort(key=lambda box: box.y0)
        assert all(lower.y1 <= upper.y0 + 1 for lower, upper in itertools.pairwise(boxes))


def test_group_color_differs_from_group_to_group():
    assert len({figures.group_color(group) for group in range(7)}) == 7
    assert figures.group_color(7) == figures.group_color(0)


def test_overlay_lays_a_map_over_grey_frames():
    frames = np.full((2, 8, 8, 3), (90, 120, 150), np.uint8)
    maps = np.full((2, 2, 2), -3.0)
    maps[1, 0, 0] = 5.0
    pictures = figures.overlay(frames, maps)
    # 0.55 of the grey, 120, and 0.45 of the first and last colour of the map: nearly black, pale yellow.
    np.testing.assert_allclose(pictures[0], np.broadcast_to([66, 66, 67], (8, 8, 3)), atol=2)
    np.testing.assert_allclose(pictures[1, 0, 0], [0.55 * 120 + 0.45 * c for c in (252, 255, 164)], atol=2)
    np.testing.assert_allclose(pictures[1, 7, 7], pictures[0, 0, 0], atol=2)
    assert np.ptp(figures.overlay(frames, np.zeros((2, 2, 2)))[..., 0]) == 0  # no location has more than another


def test_plot_frames_draws_eight_of_a_long_clip_with_the_maps_moments():
    frames = np.zeros((32, 8, 8, 3), np.uint8) + np.arange(32, dtype=np.uint8)[:, None, None, None]
    maps = np.zeros((4, 2, 2))
    maps[2] = 1.0
    figure = figures.plot_frames([("a clip", frames, None), ("its map", frames, maps)])
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    assert [int(picture[0, 0, 0]) for picture in drawn[:8]] == [2, 6, 10, 14, 18, 22, 26, 30]
    assert [picture[0, 0].max() > 100 for picture in drawn[8:]] == [False] * 4 + [True] * 2 + [False] * 2


def test_plot_frames_draws_clips_frame_by_frame():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    figure = figures.plot_frames([("a clip", frames, None), ("its map", frames[:2], rng.random((2, 2, 2)))])
    drawn = [axes.images[0].get_array() if axes.images else None for axes in figure.axes]
    assert [picture is not None for picture in drawn] == [True] * 5 + [False]
    np.testing.assert_array_equal(drawn[2], frames[2])
    assert [axes.get_title(loc="left") for axes in figure.axes[::3]] == ["a clip", "its map"]
    assert_nothing_is_clipped(figure)
