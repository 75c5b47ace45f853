"""Hosts, axes and satellites from particles: known profiles, ellipsoids and laws."""

import numpy as np
import pytest
from scipy.integrate import trapezoid

from iaemu_training.halos.checks import CRITICAL_DENSITY, virial_overdensity, virial_radius
from iaemu_training.halos.cosmology import BOLSHOI_PLANCK
from iaemu_training.simulate.catalogue import HaloSettings, scattered
from iaemu_training.simulate.halos import MassFunction, find_hosts, sort_particles
from iaemu_training.simulate.shapes import measure_shapes, nfw_radius

LBOX, CELLS = 20.0, 64
RNG = np.random.default_rng(11)


def ball(centre, n, radius, axes=(1.0, 1.0, 1.0), rng=RNG):
    """Particles of an isothermal sphere, stretched along the coordinate axes."""
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return (np.asarray(centre) + direction * (radius * rng.random(n))[:, None] * np.asarray(axes)) % LBOX


def hosts_of(balls, apart, background=40_000):
    points = np.concatenate([*balls, RNG.random((background, 3)) * LBOX]).astype(np.float32)
    particles = sort_particles(np.minimum(points, np.nextafter(np.float32(LBOX), np.float32(0))).T, LBOX, 32)
    overdensity = virial_overdensity(BOLSHOI_PLANCK.Om, 0.0)

    def radius_of(mass):
        return virial_radius(mass, BOLSHOI_PLANCK.Om, 0.0)

    hosts = find_hosts(particles, CELLS, overdensity, radius_of, MassFunction(BOLSHOI_PLANCK, 0.0), apart)
    return hosts, overdensity, len(points)


def test_particles_are_sorted_by_cell_and_none_is_lost():
    position = (RNG.random((3, 5000)) * LBOX).astype(np.float32)
    position[:, 0] = LBOX  # rounding puts a particle on the far face
    sorted_ = sort_particles(position, LBOX, 8)
    assert np.array_equal(np.sort(sorted_.order), np.arange(5000)) and sorted_.start[-1] == 5000
    assert np.array_equal(sorted_.position, position.T[sorted_.order])
    cell = np.repeat(np.arange(8**3), np.diff(sorted_.start))
    wanted = np.minimum((sorted_.position * (8 / LBOX)).astype(int), 7)
    assert np.array_equal(cell, (wanted[:, 0] * 8 + wanted[:, 1]) * 8 + wanted[:, 2])


def test_spheres_are_found_where_they_are_with_the_mass_within_the_overdensity():
    centres = ([5.0, 5.0, 5.0], [12.0, 14.0, 9.0], [19.95, 0.03, 10.0])  # one lies across the faces of the box
    balls = [ball(centre, n, 1.5) for centre, n in zip(centres, (40_000, 20_000, 10_000), strict=True)]
    hosts, overdensity, n = hosts_of(balls, 1.0)
    for centre, size, found, counted in zip(
        centres, (40_000, 20_000, 10_000), hosts.position[:3], hosts.counted_mass[:3], strict=True
    ):
        away = (found - centre + LBOX / 2) % LBOX - LBOX / 2
        assert np.linalg.norm(away) < 0.1
        # M(r) of the isothermal sphere grows as r, so its mean density falls to the threshold where
        # size r / 1.5 = overdensity n / L^3 (4 pi / 3) r^3, or it ends there.
        edge = min(1.5, np.sqrt(size / 1.5 / (overdensity * n / LBOX**3 * 4 * np.pi / 3)))
        assert counted == pytest.approx(size * edge / 1.5, rel=0.05)
    # The n-th heaviest host has the mass above which the mass function has n - 1/2 halos.
    above = MassFunction(BOLSHOI_PLANCK, 0.0).above(hosts.mass) * LBOX**3
    assert above == pytest.approx(np.arange(len(hosts.mass)) + 0.5, rel=1e-3)
    assert np.all(np.diff(hosts.mass) < 0)


def test_a_host_near_a_heavier_one_is_none():
    near = [10.0 + 1.25, 10.0, 10.0]
    balls = [ball([10.0] * 3, 30_000, 1.0), ball(near, 1_500, 0.15)]
    edge = virial_radius(MassFunction(BOLSHOI_PLANCK, 0.0).mass(np.array([0.5 / LBOX**3]))[0], BOLSHOI_PLANCK.Om, 0.0)
    for apart, kept in ((0.5, True), (1.6 / edge, False)):
        hosts = hosts_of(balls, apart)[0]
        assert np.any(np.linalg.norm(hosts.position - near, axis=1) < 0.1) == kept


def test_axes_are_those_of_an_ellipsoid_and_satellites_its_particles():
    points = ball([10.0, 10.0, 10.0], 20_000, 1.0, axes=(1.0, 0.6, 0.5)).astype(np.float32)
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    points = ((points - 10.0) @ turn.T + 10.0).astype(np.float32)
    particles = sort_particles(points.T, LBOX, 32)
    momentum = np.tile(np.array([[1.0], [2.0], [3.0]], np.float32), len(points))
    found = measure_shapes(
        particles, momentum, np.array([[10.0, 10.0, 10.0]]), np.array([1.0]), np.array([300]), np.random.default_rng(2)
    )
    assert abs(found.axis[0] @ turn[:, 0]) > 0.999
    assert found.momentum[0] == pytest.approx([1.0, 2.0, 3.0])
    assert np.linalg.norm(found.direction, axis=1) == pytest.approx(1.0)
    # Directions of particles of such an ellipsoid lie along its axis more often than not; shares are uniform.
    assert np.mean((found.direction @ turn[:, 0]) ** 2) > 0.42
    assert np.mean(found.fraction) == pytest.approx(0.5, abs=0.06) and 0 <= found.fraction.min() < 0.02
    again = measure_shapes(
        particles, momentum, np.array([[10.0, 10.0, 10.0]]), np.array([1.0]), np.array([300]), np.random.default_rng(2)
    )
    assert np.array_equal(again.direction, found.direction)
    assert len(np.unique(found.direction, axis=0)) == 300  # no particle twice


@pytest.mark.parametrize("c", [0.8, 5.0, 20.0])
def test_radii_are_those_of_the_profile(c):
    x = nfw_radius(np.linspace(0.01, 1.0, 50), np.full(50, c))
    mass = np.log1p(c * x) - c * x / (1 + c * x)
    assert mass / mass[-1] == pytest.approx(np.linspace(0.01, 1.0, 50), rel=1e-6) and x[-1] == pytest.approx(1.0)


def test_axes_are_scattered_to_the_mean_asked_for():
    axis = np.tile([0.0, 0.6, 0.8], (200_000, 1))
    for wanted in (0.3, 0.56, 1.0):
        turned = scattered(axis, HaloSettings(axis_p2=wanted), np.random.default_rng(1))
        cosine = (turned * axis).sum(1)
        assert np.mean(1.5 * cosine**2 - 0.5) == pytest.approx(wanted, abs=0.004)
        assert abs(np.mean(np.sign(cosine))) < 0.01 and np.linalg.norm(turned, axis=1) == pytest.approx(1.0)


def test_the_mass_function_is_that_of_its_cosmology_and_redshift():
    now, then = MassFunction(BOLSHOI_PLANCK, 0.0), MassFunction(BOLSHOI_PLANCK, 1.0)
    mass = np.array([1e12, 1e13, 1e14])
    assert np.all(then.above(mass) < now.above(mass))
    assert now.mass(now.above(mass)) == pytest.approx(mass, rel=1e-3)
    # Half of all matter or so is in halos above 10^9.5 Msun/h: the function is normalised to the matter density.
    grid = np.geomspace(10**9.6, 1e16, 400)
    held = trapezoid(now.above(grid), grid)
    held += now.above(grid[:1])[0] * grid[0]
    assert 0.35 < held / (CRITICAL_DENSITY * BOLSHOI_PLANCK.Om) < 0.7
    with pytest.raises(ValueError, match=r"must be one of .*tinker08.*; got 'wrong'"):
        MassFunction(BOLSHOI_PLANCK, 0.0, "wrong")
