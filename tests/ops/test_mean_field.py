"""Mean field inference against published numbers and a direct computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops.mean_field import exact_filter, mean_field, spatial_filter


def bilateral_features(image: np.ndarray, sigma: float, color_sigma: float) -> np.ndarray:
    y, x = np.indices(image.shape[:2])
    features = [x / sigma, y / sigma, *np.moveaxis(image / color_sigma, -1, 0)]
    return np.stack(features).reshape(5, -1)


@pytest.mark.parametrize(
    "case, dtype, tolerance",
    [*((case, np.float64, 1e-9) for case in "abcd"), *((case, np.float32, 1e-4) for case in "ac")],
)
def test_the_published_marginals(shared_dir, case, dtype, tolerance):
    golden = np.load(shared_dir / "reference" / "later" / "golden" / "crf_exact.npz")
    height, width, _ = golden["image"].shape
    spatial, spatial_weight, sigma, color_sigma, weight, iterations = golden[f"{case}/params"]
    probability = golden["prob3"]
    if case != "c":
        probability = np.stack([1 - golden["prob2"], golden["prob2"]])
    features = bilateral_features(golden["image"], sigma, color_sigma).astype(dtype)
    unary = -np.log(probability).reshape(len(probability), -1).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        for count in (1, int(iterations)):

            @jax.jit
            def infer(unary, features, count=count):
                kernels = [(weight, exact_filter(features))]
                if spatial:
                    kernels.append((spatial_weight, spatial_filter(height, width, spatial)))
                return mean_field(unary, kernels, count)

            found = infer(jnp.asarray(unary), jnp.asarray(features))
            assert found.dtype == dtype
            expected = golden[f"{case}/q_it{count}"].reshape(found.shape)
            np.testing.assert_allclose(found, expected, atol=tolerance)


def direct_mean_field(unary, kernels, iterations):
    """The definition with full matrices: Q <- softmax(-U + sum of w N K N Q)."""

    def softmax(energy):
        exponential = np.exp(-energy - (-energy).max(axis=0))
        return exponential / exponential.sum(axis=0)

    matrices = []
    for weight, kernel in kernels:
        scale = 1 / np.sqrt(kernel.sum(axis=1) + 1e-20)
        matrices.append(weight * scale[:, None] * kernel * scale)
    q = softmax(unary)
    for _ in range(iterations):
        q = softmax(unary - sum(q @ matrix for matrix in matrices))
    return q


@pytest.mark.parametrize("labels, iterations", [(2, 0), (2, 3), (4, 2)])
def test_the_definition_with_matrices(labels, iterations):
    rng = np.random.default_rng(labels)
    height, width = 5, 7
    image = rng.integers(0, 60, (height, width, 3))
    unary = rng.exponential(2, (labels, height * width))
    features = bilateral_features(image, 3, 20)
    place = bilateral_features(image, 1.5, np.inf)
    kernels = [
        (weight, np.exp(-((one[:, :, None] - one[:, None]) ** 2).sum(axis=0) / 2))
        for weight, one in ((4, features), (2, place))
    ]

    @jax.jit
    def infer(unary, features):
        ours = [(4.0, exact_filter(features)), (2.0, spatial_filter(height, width, 1.5))]
        return mean_field(unary, ours, iterations)

    found = infer(jnp.asarray(unary, jnp.float32), jnp.asarray(features, jnp.float32))
    np.testing.assert_allclose(found, direct_mean_field(unary, kernels, iterations), atol=1e-5)
