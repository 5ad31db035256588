import numpy as np
import pytest

from tfds_ma52.synthetic import mesh

ORIGIN = np.zeros((2, 3))
X, Y, Z = (np.broadcast_to(axis, (2, 3)).astype(float) for axis in np.eye(3))


def corners(surface):
    """The places of the faces' corners, [t, f, 4, 3]."""
    return np.einsum("tikf->tfki", surface.points[:, :, surface.faces])


def normals(surface):
    first, second = (corners(surface)[:, :, i + 2] - corners(surface)[:, :, i] for i in (0, 1))
    return mesh.unit(np.cross(first, second))


def outwards(surface, center):
    return np.einsum("tfi,tfi->tf", normals(surface), mesh.unit(corners(surface).mean(2) - center))


def area(surface):
    first, second = (corners(surface)[:, :, i + 2] - corners(surface)[:, :, i] for i in (0, 1))
    return 0.5 * np.linalg.norm(np.cross(first, second), axis=-1).sum(1)


def test_ellipsoid_faces_outwards_and_has_its_area():
    axes = np.stack([X, Y, Z], axis=1)
    ball = mesh.Shapes().ellipsoid(ORIGIN, np.array((1.0, 1.0, 1.0)), axes, (1, 2, 3), rows=40, sides=60)
    assert outwards(ball, 0).min() > 0.9
    np.testing.assert_allclose(area(ball), 4 * np.pi, rtol=0.01)
    egg = mesh.Shapes().ellipsoid(ORIGIN, np.array((1.0, 2.0, 3.0)), axes, (1, 2, 3), rows=40, sides=60)
    np.testing.assert_allclose(np.abs(corners(egg)).max((0, 1, 2)), (1, 2, 3), rtol=0.01)


@pytest.mark.parametrize("direction", [X, Y, Z, -Z, mesh.unit(X + Y - 2 * Z)])
def test_tube_has_its_radii_and_faces_outwards(direction):
    tube = mesh.Shapes().tube([ORIGIN, 10 * direction], (1.0, 1.5, 2.0), (1, 2, 3), sides=32)
    along = np.einsum("tfki,ti->tfk", corners(tube), direction)
    radius = np.linalg.norm(corners(tube) - along[..., None] * direction[:, None, None], axis=-1)
    for position, expected in ((0, 1.0), (5, 1.5), (10, 2.0)):
        there = np.abs(along - position) < 1e-6
        assert there.any()
        np.testing.assert_allclose(radius[there], expected, rtol=1e-6)
    assert along.min() < -0.9  # round ends
    assert along.max() > 11.8
    middle = corners(tube).mean(2)
    axis = np.einsum("tfi,ti->tf", middle, direction)[..., None] * direction[:, None]
    sides = (along.min(-1) > -0.01) & (along.max(-1) < 10.01)
    assert np.einsum("tfi,tfi->tf", normals(tube), mesh.unit(middle - axis))[sides].min() > 0.9


def test_disc_and_ring_face_their_front():
    disc = mesh.disc(ORIGIN, X, Y, (1, 2, 3))
    np.testing.assert_allclose(normals(disc), np.broadcast_to(Z[:, None], normals(disc).shape), atol=1e-9)
    np.testing.assert_allclose(area(disc), 2 * np.sqrt(2), rtol=1e-6)  # a regular octagon in the unit circle
    ring = mesh.ring(ORIGIN, X, Y, 0.5, (1, 2, 3), nearer=0.1)
    np.testing.assert_allclose(normals(ring), np.broadcast_to(Z[:, None], normals(ring).shape), atol=1e-9)
    np.testing.assert_allclose(area(ring), 0.75 * 2 * np.sqrt(2), rtol=1e-6)


def test_join_keeps_faces_and_repeats_still_meshes():
    moving, still = mesh.disc(ORIGIN, X, Y, (1, 2, 3)), mesh.disc(Z[:1], X[:1], Y[:1], (4, 5, 6), nearer=0.5)
    both = mesh.join([moving, still])
    assert corners(both).shape == (2, 6, 4, 3)
    assert both.colors[0].tolist() == [1, 1, 1, 4, 4, 4]
    assert both.nearer.tolist() == [0.012] * 3 + [0.5] * 3
    np.testing.assert_array_equal(corners(both)[:, :3], corners(moving))
    for frame in range(2):
        np.testing.assert_array_equal(corners(both)[frame, 3:], corners(still)[0])


def test_faces_share_the_points_of_their_rings():
    # A tube of two radii has three rings of caps at either end.
    tube = mesh.Shapes().tube([ORIGIN, X], (1.0, 1.0), (1, 2, 3), sides=5)
    assert tube.points.shape == (2, 3, 8 * 5)
    assert np.bincount(tube.faces.ravel()).tolist() == [2] * 5 + [4] * 30 + [2] * 5


def test_cross_is_the_cross_product():
    first, second = np.random.default_rng(0).normal(size=(2, 7, 3))
    np.testing.assert_array_equal(mesh.cross(first, second), np.cross(first, second))
    np.testing.assert_array_equal(mesh.cross(X, Y), Z)


def test_coarse_shapes_have_half_the_faces_and_the_same_extent():
    ends, axes = [ORIGIN, 10 * X], np.stack([X, Y, Z], axis=1)
    fine, coarse = (shapes.tube(ends, (1.0, 1.5), (1, 2, 3), sides=10) for shapes in (mesh.Shapes(), mesh.COARSE))
    assert coarse.faces.shape[1] < 0.5 * fine.faces.shape[1]
    np.testing.assert_allclose(coarse.points.max((0, 2)), fine.points.max((0, 2)), rtol=0.15)
    ball = mesh.COARSE.ellipsoid(ORIGIN, np.array((1.0, 2.0, 3.0)), axes, (1, 2, 3))
    assert outwards(ball, 0).min() > 0.5
    np.testing.assert_allclose(np.abs(corners(ball)).max((0, 1, 2)), (1, 2, 3), rtol=0.15)
