"""The Fréchet distance against closed forms, and pictures of samples."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from reed.cache.schema import Field
from reed.errors import ReedError
from reed.metrics.frechet import Gaussian, frechet_distance
from reed.picture import grid, save_png, to_uint8


def features(seed, count=200, width=8):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, width)) @ rng.standard_normal((width, width)) + seed


def reference(a, b):
    """The definition, with scipy's matrix square root."""
    root = sqrtm(a.covariance @ b.covariance).real
    trace = np.trace(a.covariance + b.covariance - 2 * root)
    return np.square(a.mean - b.mean).sum() + trace


def test_the_gaussian_is_mean_and_covariance():
    x = features(1)
    found = Gaussian.of(x.astype(np.float32))
    np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), atol=1e-4)
    assert found.mean.dtype == found.covariance.dtype == np.float64


def test_equal_sets_are_at_distance_zero():
    a = Gaussian.of(features(1))
    assert 0 <= frechet_distance(a, Gaussian.of(features(1)[::-1])) < 1e-9


@pytest.mark.parametrize("width", [1, 2, 8, 40])
def test_two_sets_have_the_distance_of_the_definition(width):
    a, b = (Gaussian.of(features(seed, width=width)) for seed in (1, 2))
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_gaussians_with_diagonal_covariance_have_the_closed_form():
    s, t = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 2.0])
    a = Gaussian(np.array([0.0, 1.0, 2.0]), np.diag(s**2))
    b = Gaussian(np.array([4.0, 1.0, -1.0]), np.diag(t**2))
    assert frechet_distance(a, b) == pytest.approx(25 + np.square(s - t).sum())


def test_a_shift_is_its_square():
    x = features(3)
    a, b = Gaussian.of(x), Gaussian.of(x + np.array([3.0, 4.0] + [0] * 6))
    assert frechet_distance(a, b) == pytest.approx(25, rel=1e-9)


def test_fewer_samples_than_features_are_fine():
    """Covariances of rank 4 in 30 dimensions: no imaginary part, no noise from the root."""
    x, y = features(1, 5, 30), features(2, 5, 30)
    a, b = Gaussian.of(x), Gaussian.of(y)
    # the non-zero eigenvalues of A B, from the factors and not from the singular products
    left, right = ((z - z.mean(0)) / 2 for z in (x, y))
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    exact = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad):
    x = features(1)
    x[[3, 3, 7], [0, 1, 2]] = bad
    with pytest.raises(ReedError, match="2 of 200 feature vectors are not finite"):
        Gaussian.of(x)


@pytest.mark.parametrize("shape", [(1, 8), (0, 8), (8,), (2, 3, 4)])
def test_what_is_no_set_of_features_is_refused(shape):
    with pytest.raises(ReedError, match=rf"features have shape \({shape[0]},"):
        Gaussian.of(np.zeros(shape))


def test_features_of_different_width_are_refused():
    with pytest.raises(ReedError, match="width 8 and 5"):
        frechet_distance(Gaussian.of(features(1)), Gaussian.of(features(1, width=5)))


def test_stored_bytes_survive_the_way_to_the_net_and_back():
    stored = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16)
    field = Field("pixels", "data", (1, 16, 16), scale=(1 / 127.5,), shift=(127.5,))
    image = to_uint8(stored, field)
    assert image.dtype == np.uint8 and image.shape == (1, 16, 16, 1)
    assert image.flatten().tolist() == list(range(256))


def test_values_are_scaled_per_channel_rounded_and_clipped():
    field = Field("pixels", "data", (2, 1, 3), scale=(0.125, 1.0), shift=(8.0, 0.0))
    x = np.array([[[[0.0, 8.0, 16.0]], [[-9.0, 0.007, 9.0]]]])
    assert to_uint8(x, field)[0, 0].T.tolist() == [[0, 128, 255], [0, 128, 255]]


def test_a_grid_goes_row_by_row_on_white():
    images = np.stack([np.full((2, 3, 1), i, np.uint8) for i in range(5)])
    picture = grid(images, columns=2)
    assert picture.shape == (3 * 3 + 1, 2 * 4 + 1, 1)
    assert picture[1::3, 1::4, 0].tolist() == [[0, 1], [2, 3], [4, 255]]
    assert picture[2::3, 3::4, 0].tolist() == [[0, 1], [2, 3], [4, 255]]
    assert (picture[::3] == 255).all() and (picture[:, ::4] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_written_as_png(tmp_path, channels):
    from PIL import Image

    picture = np.arange(6 * channels, dtype=np.uint8).reshape(2, 3, channels)
    save_png(picture, tmp_path / "new" / "p.png", enlarge=4)
    with Image.open(tmp_path / "new" / "p.png") as image:
        pixels = np.asarray(image).reshape(8, 12, channels)
    assert np.array_equal(pixels[::4, ::4], picture) and np.array_equal(pixels[3::4, 3::4], picture)
