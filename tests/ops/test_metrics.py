"""J against the official evaluator's numbers."""

from pathlib import Path

import numpy as np

from oclr_jax.ops.metrics import assign, jaccard

GOLDEN = Path(__file__).parents[1] / "golden" / "davis_metrics.npz"


def test_official_numbers():
    golden = np.load(GOLDEN)
    assert np.array_equal(jaccard(golden["pred"], golden["gt"]), golden["J"])


def test_official_numbers_at_480p():
    golden = np.load(GOLDEN)
    masks = [
        np.unpackbits(golden[f"big_{name}"], axis=-1)[..., :854].astype(bool)
        for name in ("pred", "gt")
    ]
    assert np.array_equal(jaccard(*masks), golden["big_J"])


def test_empty_masks():
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    assert jaccard(empty, empty) == 1
    assert jaccard(empty, full) == jaccard(full, empty) == 0
    assert jaccard(np.stack([empty, full]), np.stack([empty, full])).tolist() == [1, 1]


def test_assignment_takes_the_best_total_not_the_best_pair():
    assert assign(np.array([[0.9, 0.8], [0.8, 0.0]])) == [(0, 1), (1, 0)]
    assert assign(np.zeros((0, 2))) == []
