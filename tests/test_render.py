import dataclasses

import numpy as np
import pytest
from helpers import id_of, pose, stack

from tfds_ma52.synthetic import camera, mesh, motions, render, skeleton


@pytest.fixture(scope="module")
def drawn_person():
    rng = np.random.default_rng(0)
    body, looks, scene = skeleton.draw_body(rng), render.draw_looks(rng, 0), render.draw_scene(rng)
    return body, looks, dataclasses.replace(scene, noise=0.0, yaw=0.0, light_from=0.0)


def draw(person, points, **scene_changes):
    body, looks, scene = person
    scene = dataclasses.replace(scene, **scene_changes)
    return render.render_frames(points, body, looks, scene, (308, 256), np.random.default_rng(0))


def test_camera_has_the_whole_figure_in_the_frame():
    outside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        points = pose(9, seed)
        pixels, _ = camera.Camera(render.draw_scene(rng), 308, 256).project(
            stack(points, ["crown", "left toe", "right toe"])
        )
        # Inside the released test crop, the middle 224 x 224.
        outside += bool(np.any(pixels < (16, 42)) or np.any(pixels > (240, 266)))
        assert np.ptp(pixels[..., 1]) > 0.6 * 256
    assert outside <= 6  # of 60; somewhat taller people lose some hair or a toe


def test_camera_projects_in_perspective(drawn_person):
    # From (0, 1, 3) to (0, 1, 0.12): zoom 0.9 and 256 pixels make 0.9 * 256 / 1.62 pixels of a metre at 2.88 m.
    _, _, scene = drawn_person
    scene = dataclasses.replace(scene, height=1.0, distance=3.0, aim=(0.0, 1.0), zoom=0.9)
    points = np.array([(0, 1, 0.12), (1, 1, 0.12), (0, 0.5, 0.12), (1, 1, 1.56)])
    pixels, depth = camera.Camera(scene, 308, 256).project(points)
    scale = 0.9 * 256 / 1.62
    expected = [(128, 154), (128 + scale, 154), (128, 154 + 0.5 * scale), (128 + 2 * scale, 154)]
    np.testing.assert_allclose(pixels, expected, atol=1e-9)
    np.testing.assert_allclose(depth, (2.88, 2.88, 2.88, 1.44))


def test_render_hides_the_farther_behind_the_nearer(drawn_person):
    # Seen from the front, a hand that covers the face hides eyes and mouth; one behind the head is hidden itself.
    body, looks, scene = drawn_person
    person = (body, dataclasses.replace(looks, long_hair=False, glasses=False), scene)

    rest = dict.fromkeys(motions.REST, 0.0)

    def face(target):
        points = pose(id_of("nodding"), 1, frames=45, hold=target, crossed=False, rest=rest)
        pixels, _ = camera.Camera(scene, 308, 256).project(points["nose"][:1])
        x, y = pixels[0].astype(int)
        return draw(person, points)[0, y - 8 : y + 14, x - 9 : x + 9].astype(float)

    assert np.abs(face("mouth") - face("")).mean() > 8
    assert np.abs(face("back of the head") - face("")).mean() < 1


def test_render_lights_the_side_of_the_light(drawn_person):
    points = pose(id_of("nodding"), 1, frames=45, hold="")
    left, right = (draw(drawn_person, points, light_from=side)[0].astype(float) for side in (-1.0, 1.0))
    difference = (right - left).mean(2)
    assert difference[:, 160:].mean() > difference[:, :96].mean() + 5


def test_render_shades_faces_by_their_angle_to_the_light(drawn_person):
    # Two grey squares that face up, the second turned over: the light comes from above and from the camera.
    _, _, scene = drawn_person
    scene = dataclasses.replace(scene, height=1.0, distance=3.0, aim=(0.0, 1.0), light=1.0)
    viewer = camera.Camera(scene, 308, 256)
    np.testing.assert_allclose(viewer.light, np.array((0, 0.5, 0.6)) / np.sqrt(0.61), atol=1e-12)
    up, front = np.array([[0, 0, 1.0], [0, 0, 0], [1, 0, 0], [1, 0, 1]]), np.array([[0, 1.0, 0], [0, 0, 0], [1, 0, 0]])
    points = np.concatenate([up, front, [[1, 1.0, 0]]]).T
    faces = np.array([(3, 2, 1, 0), (0, 1, 2, 3), (4, 5, 6, 7)]).T
    for flat, expected in ((False, [84, 52, 90]), (True, [95, 95, 95])):
        squares = mesh.Mesh(points[None], faces, np.full((3, 3), 100.0), np.full(3, flat), np.zeros(3))
        shaded = render.shade(points, squares, np.arange(3), viewer, scene)
        np.testing.assert_array_equal(shaded, [expected] * 3)
