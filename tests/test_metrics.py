"""Metrics against closed forms, small cases by hand and torch-fidelity; pictures of samples."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

from reed.cache.schema import Field
from reed.errors import ReedError
from reed.metrics import mmd
from reed.metrics.frechet import Gaussian, Moments, frechet_distance
from reed.metrics.inception_score import inception_score
from reed.metrics.kid import kid, unbiased_mmd
from reed.metrics.mmd import cmmd
from reed.metrics.precision_recall import PrecisionRecall, _distances, precision_recall
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


def tensors(seed, counts=(60, 80), width=12):
    """Two overlapping sets of features, float32."""
    a, b = (features(seed + i, count, width) for i, count in enumerate(counts))
    return torch.tensor(a, dtype=torch.float32), torch.tensor(b - 1, dtype=torch.float32)


def test_moments_of_parts_are_those_of_the_whole():
    x = features(1, 50) + 1e4  # a mean far from zero loses no digits
    moments = Moments()
    for part in (x[:1], x[1:20], x[20:]):
        moments.add(part)
    found = moments.gaussian()
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-7, atol=1e-9)


def test_the_frechet_distance_is_that_of_torch_fidelity():
    a, b = tensors(1, (300, 400))
    said = [metric_fid.fid_features_to_statistics(x) for x in (a, b)]
    theirs = metric_fid.fid_statistics_to_metric(*said, verbose=False)
    ours = frechet_distance(*(Gaussian.of(x.numpy()) for x in (a, b)))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)


def test_the_inception_score_of_known_predictions():
    one_hot = np.log(np.eye(5) + 1e-300).repeat(2, 0)
    assert inception_score(np.zeros((7, 5))) == pytest.approx(1)
    assert inception_score(one_hot) == pytest.approx(5)
    two = np.log([[0.9, 0.1], [0.1, 0.9]])
    known = 2 * 0.9**0.9 * 0.1**0.1  # exp(log 2 - entropy)
    assert inception_score(two + 3) == pytest.approx(known)
    # ten predictions in splits of four: two of two classes, one of one
    assert inception_score(one_hot, split=4) == pytest.approx((2 + 2 + 1) / 3)


def test_the_inception_score_is_that_of_torch_fidelity():
    logits = tensors(3)[0]
    theirs = metric_isc.isc_features_to_metric(logits, splits=3, shuffle=False)
    ours = inception_score(logits.numpy(), split=20)
    assert ours == pytest.approx(theirs["inception_score_mean"], rel=1e-6)


def test_the_unbiased_mmd_by_hand():
    """k(0,1) = k(0,2) = 1 within each; between them 1, 1, 1 and 27."""
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    assert unbiased_mmd(x, y) == pytest.approx(1 + 1 - 2 * 30 / 4)


def test_kid_is_that_of_torch_fidelity_where_a_subset_is_the_whole():
    a, b = tensors(5, (60, 60))
    theirs = metric_kid.kid_features_to_metric(
        a, b, kid_subsets=1, kid_subset_size=60, verbose=False
    )
    ours = kid(a.numpy(), b.numpy(), subsets=2)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert (ours.size, ours.subsets, ours.std) == (60, 2, pytest.approx(0, abs=1e-9))


def test_kid_is_unbiased_and_a_function_of_its_seed():
    x = features(1, 600)
    same = kid(x[:300], x[300:], subsets=50, size=100)
    assert abs(same.mean) < 2 * same.std
    assert kid(x, x + 1, size=50) == kid(x, x + 1, size=50) != kid(x, x + 1, size=50, seed=1)
    with pytest.raises(ReedError, match="at least 2 of each, got 1 and 600"):
        kid(x[:1], x)


def test_cmmd_by_hand():
    """Two directions at a right angle are sqrt(2) apart, whatever their length."""
    x, y = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    assert cmmd(x, y) == pytest.approx(1000 * (2 - 2 * np.exp(-0.01)))
    assert cmmd(x, x) == 0


def test_cmmd_in_parts_is_the_definition(monkeypatch):
    monkeypatch.setattr(mmd, "ROWS", 7)
    a, b = tensors(1)
    x, y = (t.double().numpy() for t in (a, b))
    x, y = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in (x, y))

    def mean(p, q):
        return np.exp(-np.square(p[:, None] - q).sum(-1) / 200).mean()

    assert cmmd(a, b) == pytest.approx(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), rel=1e-9)
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)


def test_precision_and_recall_on_a_line():
    """The real balls reach from -3 to 6; the samples' cover everything."""
    real, drawn = (torch.tensor(x)[:, None] for x in ([0.0, 1, 2, 3], [1.5, 5.9, 6.1, 100]))
    assert precision_recall(drawn, real) == PrecisionRecall(0.5, 1.0)
    assert precision_recall(real, drawn) == PrecisionRecall(1.0, 0.5)
    assert precision_recall(real, real + 1000) == PrecisionRecall(0, 0)
    with pytest.raises(ReedError, match="more than 3 images of each, got 3"):
        precision_recall(drawn[:3], real)


@pytest.mark.parametrize("values", [1, 400, 10**6])
def test_precision_and_recall_are_those_of_torch_fidelity(values, monkeypatch):
    monkeypatch.setattr("reed.metrics.precision_recall.VALUES", values)
    a, b = tensors(7, (120, 90), 4)
    theirs = metric_prc.prc_features_to_metric(
        a, b, prc_neighborhood=3, prc_batch_size=50, save_cpu_ram=True, verbose=False
    )
    ours = precision_recall(a, b)
    assert ours.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours.recall == pytest.approx(theirs["recall"], abs=1e-6)
    assert 0.1 < ours.precision < 0.95 and 0.1 < ours.recall < 0.95


def test_half_precision_rounds_each_term_and_gives_way_to_overflow():
    """The ADM suite's distances: norms, products and their sums, each in float16."""
    real, drawn = torch.tensor([[0.0], [1], [2], [3]]), torch.tensor([[100.03], [0], [1], [2]])
    half = np.float16(100.03)
    # its distance to 3 is 97.03 squared = 9,415, of terms whose spacing in float16 is 8
    near = np.float16(half * half) - 2 * np.float16(half * 3) + np.float16(9)
    centre = torch.zeros(1, dtype=torch.float64)
    assert float(_distances(drawn, real, centre, half=True)[0, 3]) == near
    plain = _distances(drawn, real, centre, half=False)
    assert float(plain[0, 3]) == pytest.approx(97.03**2, rel=1e-5)
    large = drawn * 100  # 1e8 is no float16
    exact = _distances(large, real, centre, half=False)
    assert torch.equal(_distances(large, real, centre, half=True), exact)
    assert exact.isfinite().all()


@pytest.mark.parametrize("half", [False, True])
def test_an_offset_of_the_features_does_not_change_precision_and_recall(half):
    """Without a mean subtracted, an offset of 1e4 leaves no digit of a distance near 1."""
    a, b = (torch.from_numpy(features(seed)) for seed in (7, 8))
    a, b = (((x - x.mean(0)) / x.std()).float() for x in (a, b))
    near, far = (precision_recall(a + at, b + at, half=half) for at in (0.0, 1e4))
    assert 0.1 < near.precision < 0.95 and 0.1 < near.recall < 0.95
    assert far.precision == pytest.approx(near.precision, abs=0.02)
    assert far.recall == pytest.approx(near.recall, abs=0.02)


def test_groups_of_features_far_apart_keep_the_digits_of_their_distances():
    """The mean of two groups is far from both, and one far feature moves the mean."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(200, 8, generator=draw), 1.1 * torch.randn(200, 8, generator=draw)
    far = torch.where(torch.arange(200) % 2 == 0, 1e4, -1e4)[:, None]
    a, b = ((x.double() + far).float() for x in (a, b))
    pairs = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
    within = [
        torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
        for x in (a, b)
    ]
    of_a, of_b = (x.kthvalue(4).values for x in within)
    found = precision_recall(a, b)
    assert found.precision == float((pairs <= of_b).any(1).double().mean()) < 0.95
    assert found.recall == float((pairs.T <= of_a).any(1).double().mean()) < 0.95


def test_other_distances_keep_their_digits_far_from_zero():
    """Moments are about a point among the features; kernels are computed in float64."""
    x, y = features(1), features(2)
    moved = [Gaussian.of(rows + 1e4) for rows in (x, y)]
    plain = [Gaussian.of(rows) for rows in (x, y)]
    assert frechet_distance(*moved) == pytest.approx(frechet_distance(*plain), rel=1e-6)

    def kernel(p, q):
        return (p @ q.T / p.shape[1] + 1) ** 3

    far = [rows.astype(np.longdouble) + 1e4 for rows in (x, y)]
    same = [(kernel(r, r).sum() - np.trace(kernel(r, r))) / (len(r) * (len(r) - 1)) for r in far]
    exact = float(sum(same) - 2 * kernel(*far).mean())
    assert unbiased_mmd(*(rows.astype(np.float64) for rows in far)) == pytest.approx(
        exact, rel=1e-6
    )


def test_a_gaussian_of_many_features_is_fitted_in_parts(monkeypatch):
    x = features(3)
    whole = Gaussian.of(x)
    monkeypatch.setattr("reed.metrics.frechet.ROWS", 7)
    parts = Gaussian.of(x)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=0, atol=1e-11)
