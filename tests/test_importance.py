"""Weighted draws of densities whose moments are known."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_capacity.protocols import Floats
from pytest_capacity.search.importance import ENOUGH, ImportanceSampler


def effective(weight: Floats) -> float:
    return 1 / float((weight**2).sum())


def bent(points: Floats) -> Floats:
    """A banana: the second coordinate follows the square of the first, as a slope and a decay may."""
    x, y = points[:, 0], points[:, 1]
    density: Floats = -0.5 * (x / 2) ** 2 - 0.5 * ((y - 0.25 * x**2) / 0.5) ** 2
    return density


class TestImportanceSampler:
    def test_a_normal_density_needs_one_proposal_and_has_its_moments(self) -> None:
        precision = np.array([[2.0, 0.6], [0.6, 1.0]])
        mode = np.array([3.0, -1.0])
        points, weight = ImportanceSampler(2, 4096, 1).draw(
            lambda p: -0.5 * np.einsum("ij,jk,ik->i", p - mode, precision, p - mode), mode, precision
        )

        assert len(points) == 4096
        assert weight.sum() == pytest.approx(1)
        assert weight @ points == pytest.approx(mode, abs=0.02)
        away = points - mode
        assert (weight[:, None] * away).T @ away == pytest.approx(np.linalg.inv(precision), abs=0.05)

    def test_a_bent_density_is_learnt_where_the_curvature_at_its_mode_misleads(self) -> None:
        """The second coordinate has mean 0.25 x 4 = 1 and variance 0.5^2 + 0.25^2 x 2 x 16 = 2.25."""
        precision = np.diag([1 / 4, 1 / 0.5**2])
        sampler = ImportanceSampler(2, 4096, 1)

        points, weight = sampler.draw(bent, np.zeros(2), precision)

        assert effective(weight) > ENOUGH
        mean = weight @ points
        assert mean == pytest.approx([0.0, 1.0], abs=0.4)
        assert weight @ (points[:, 1] - mean[1]) ** 2 == pytest.approx(2.25, rel=0.3)

    def test_a_proposal_that_is_far_off_finds_the_density_in_the_end(self) -> None:
        def density(points: Floats) -> Floats:
            value: Floats = -0.5 * ((points - 6.0) ** 2).sum(axis=1)
            return value

        points, weight = ImportanceSampler(3, 512, 1).draw(density, np.zeros(3), np.eye(3) / 4)

        assert weight @ points == pytest.approx([6.0, 6.0, 6.0], abs=0.15)
        assert effective(weight) > ENOUGH

    def test_the_same_density_gives_the_same_draws(self) -> None:
        one, other = (ImportanceSampler(2, 64, 7).draw(bent, np.zeros(2), np.eye(2)) for _ in range(2))

        assert (one[0] == other[0]).all()
        assert (one[1] == other[1]).all()
