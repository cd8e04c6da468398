"""Selection, statistics, NPZ files and plots of reference sets."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from backend.errors import InputError
from backend.reference.dataset import ReferenceSet, load_reference
from backend.reference.export import feature_figure, plot_features, save_features_npz, save_images_npz
from backend.reference.selection import STEP, maximin, medoid, medoids, quantise, squared_distances, standardised
from backend.reference.statistics import describe_features, describe_images, effective_rank, spectral_slope, view_features

SHIPPED = Path(__file__).resolve().parents[2] / "reference_data"


@pytest.fixture(scope="module")
def small():
    whole = load_reference(SHIPPED)
    keep = list(range(0, 73, 9))
    manifest = {**whole.manifest, "images": [whole.manifest["images"][index] for index in keep]}
    return ReferenceSet(whole.images[keep], [whole.captions[index] for index in keep], manifest, True, whole.folder)


def points(seed, count=40, dimension=5):
    return quantise(np.random.default_rng(seed).normal(size=(count, dimension)))


def test_squared_distances_are_exact_integers():
    a, b = points(0), points(1)
    exact = ((a[:, None].astype(np.int64) - b[None].astype(np.int64)) ** 2).sum(-1)
    assert np.array_equal(squared_distances(a, b), exact)


def test_each_maximin_step_takes_the_farthest_point():
    cloud = points(2)
    chosen = maximin(cloud, 12)
    distances = cdist(cloud, cloud)
    assert chosen[0] == medoid(cloud) == int(np.argmin(((cloud - cloud.mean(0)) ** 2).sum(1)))
    for step in range(1, 12):
        nearest = distances[:, chosen[:step]].min(1)
        assert nearest[chosen[step]] == pytest.approx(nearest.max())


def test_maximin_spread_is_at_least_half_of_the_best():
    """Gonzalez' guarantee, against brute force over all subsets; the free choice of the first point included."""
    cloud = points(3, count=14, dimension=2)
    distances = cdist(cloud, cloud)
    best = max(min(distances[i, j] for i, j in combinations(subset, 2)) for subset in combinations(range(14), 4))
    chosen = maximin(cloud, 4)
    assert min(distances[i, j] for i, j in combinations(chosen, 2)) >= best / 2


def test_medoids_find_separate_clusters_and_are_locally_optimal():
    rng = np.random.default_rng(4)
    centres = np.array([[0, 0], [60, 0], [0, 60], [60, 60]])
    cloud = quantise(np.concatenate([centre + rng.normal(size=(25, 2)) for centre in centres]))
    chosen = medoids(cloud, 4)
    assert sorted(index // 25 for index in chosen) == [0, 1, 2, 3]
    for cluster, index in enumerate(chosen):
        members = cloud[cluster * 25 : (cluster + 1) * 25]
        assert index == cluster * 25 + int(cdist(members, members).sum(1).argmin())


def test_noise_in_the_last_bits_does_not_change_the_choice():
    features = np.random.default_rng(5).normal(size=(400, 24)).astype(np.float32)
    noisy = features * (1 + 1e-6 * np.random.default_rng(6).normal(size=features.shape))
    assert medoids(quantise(features), 20) == medoids(quantise(noisy), 20)


@pytest.mark.parametrize("count", [0, 41])
def test_counts_out_of_bounds(count):
    with pytest.raises(ValueError, match="out of bounds"):
        maximin(points(0), count)


def test_standardised_columns_and_a_column_that_hardly_varies():
    features = np.random.default_rng(7).normal(3, 2, (200, 4))
    features[:, 3] = 5 + 1e-9 * features[:, 3]
    result = standardised(features)
    assert np.allclose(result[:, :3].std(0), 1)
    assert np.allclose(result.mean(0), 0)
    assert np.abs(result[:, 3]).max() < 1e-6
    assert np.array_equal(quantise(features), np.round(result / STEP))


def test_effective_rank_of_known_spectra():
    basis = np.linalg.qr(np.random.default_rng(8).normal(size=(50, 50)))[0]
    centred = basis - basis.mean(0)
    assert effective_rank(np.concatenate([np.eye(4), -np.eye(4)])) == pytest.approx(4)
    assert effective_rank(np.outer(np.arange(9.0), [1, 2, 3])) == pytest.approx(1)
    assert effective_rank(np.ones((5, 3))) == 0
    assert 1 < effective_rank(centred) <= 50


def test_spectral_slope_of_noise_made_with_a_known_slope():
    rng = np.random.default_rng(9)
    k = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None]) * 128
    k[0, 0] = 1
    fields = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(128, 128))) * k**-1.5).real for _ in range(40)]
    images = np.repeat(np.stack(fields)[..., None], 3, -1)
    assert spectral_slope(images) == pytest.approx(3.0, abs=0.1)


def test_feature_figures_against_brute_force():
    features = np.random.default_rng(10).normal(size=(12, 6))
    distances = cdist(standardised(features), standardised(features))
    found = describe_features(features)
    off = [distances[i, j] for i, j in combinations(range(12), 2)]
    nearest = [min(distances[i, j] for j in range(12) if j != i) for i in range(12)]
    assert found["pairwise_mean"] == pytest.approx(np.mean(off))
    assert found["nearest_min"] == pytest.approx(min(nearest))
    assert found["nearest_median"] == pytest.approx(np.median(nearest))


def test_pca_agrees_with_sklearn():
    features = np.random.default_rng(11).normal(size=(30, 6)) @ np.diag([5, 3, 1, 1, 1, 1])
    view = view_features(features)
    fitted = PCA(2).fit(standardised(features))
    scores = fitted.transform(standardised(features))
    assert np.allclose(np.abs(view.principal), np.abs(scores), atol=1e-8)
    assert np.allclose(view.explained[:2], fitted.explained_variance_ratio_)
    assert view.neighbours.shape == (30, 2)
    assert view_features(features[:4]).neighbours.shape == (0, 2)


def test_image_figures(small):
    found = describe_images(small)
    grey = small.images.mean(-1) / 255
    assert found["images"] == 9
    assert found["brightness_mean"] == pytest.approx(grey.mean())
    assert found["contrast_mean"] == pytest.approx(np.mean([image.std() for image in grey]))
    assert found["captions"] == 9
    assert found["commonest_words"]["mars"] == 9
    assert found["near_duplicates"] == []


def test_npz_files_hold_what_they_say(small, tmp_path):
    with np.load(save_images_npz(small, tmp_path / "images.npz"), allow_pickle=False) as archive:
        assert np.array_equal(archive["images"], small.images)
        assert archive["captions"].tolist() == small.captions
        assert bool(archive["simulated"])
    with np.load(save_features_npz(small, "efficientnet_lite0", tmp_path / "features.npz"), allow_pickle=False) as archive:
        assert archive["features"].shape == (9, 224)
        assert np.allclose(archive["mean"], archive["features"].mean(0), atol=1e-5)
        assert np.allclose(archive["std"], archive["features"].std(0, ddof=1), atol=1e-4)
        assert str(archive["extractor"]) == "efficientnet_lite0"
        assert len(str(archive["weights_sha256"])) == 64
    with pytest.raises(InputError, match="does not end in .npz"):
        save_images_npz(small, tmp_path / "images.zip")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        save_images_npz(small, tmp_path / "file" / "images.npz")


def test_plots_are_labelled_and_their_captions_escaped(small, tmp_path):
    named = {**small.manifest, "images": [{**entry, "caption": "<script>alert(1)</script>"} for entry in small.manifest["images"]]}
    hostile = ReferenceSet(small.images, small.captions, named, True, small.folder)
    page, png = plot_features(hostile, "efficientnet_lite0", tmp_path)
    assert png.read_bytes()[:4] == b"\x89PNG"
    text = page.read_text()
    assert "9 simulated images" in text
    assert "<script>alert" not in text
    figure = feature_figure(hostile, view_features(np.random.default_rng(0).normal(size=(9, 5))), "x")
    assert "&lt;script&gt;" in str(figure.data[0].text)
    assert sum(len(trace.x) for trace in figure.data if trace.type == "scatter") == 18


def test_a_set_too_small_for_t_sne_is_drawn_without_it(small):
    few = ReferenceSet(small.images[:4], small.captions[:4], {**small.manifest, "images": small.manifest["images"][:4]}, True, small.folder)
    figure = feature_figure(few, view_features(np.random.default_rng(0).normal(size=(4, 5))), "x")
    assert sum(len(trace.x) for trace in figure.data if trace.type == "scatter") == 4
