"""The particle mesh and its initial conditions: linear growth, conservation, determinism, spectra."""

from dataclasses import asdict

import numpy as np
import pytest
import scipy.fft

from iaemu_training.halos.cosmology import BOLSHOI_PLANCK, Cosmology, matter_power
from iaemu_training.simulate.box import Simulation, particles_file, simulate_particles
from iaemu_training.simulate.initial_conditions import initial_particles
from iaemu_training.simulate.particle_mesh import START, STEP_A, Mesh, deposit, evolve, time_steps
from iaemu_training.work.kernels import LIMIT

EINSTEIN_DE_SITTER = Cosmology(Om=1.0, Ob=0.05, h=0.7, sigma8=0.8, ns=1.0)


def on_grid(n, Lbox):
    at = (np.arange(n) + 0.5) * Lbox / n
    return np.stack(np.meshgrid(at, at, at, indexing="ij")).reshape(3, -1).astype(np.float32)


def power_of(position, Lbox, cells, k_edges):
    """Power in bins of k, with the window of cloud-in-cell taken out, and the mean k."""
    modes = scipy.fft.fft(Mesh(Lbox, cells).transform(position), axis=0)
    full, half = np.fft.fftfreq(cells), np.arange(cells // 2 + 1) / cells
    window = (np.sinc(full)[:, None, None] * np.sinc(full)[:, None] * np.sinc(half)) ** 2
    k = 2 * np.pi * cells / Lbox * np.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + half**2)
    weight = np.where(half > 0, 2.0, 1.0) * np.ones_like(k)
    where = np.digitize(k, k_edges).ravel()

    def mean(values):
        return (
            np.bincount(where, (weight * values).ravel())[1 : len(k_edges)]
            / np.bincount(where, weight.ravel())[1 : len(k_edges)]
        )

    return mean(np.abs(modes / window) ** 2 * Lbox**3 / cells**6), mean


def test_steps_meet_the_outputs_and_are_short():
    steps = time_steps([0.0, 1.0, 0.3])
    assert steps[0] == START and steps[-1] == 1.0
    assert all(np.isclose(steps, 1 / (1 + z)).any() for z in (0.0, 0.3, 1.0))
    late = np.diff(steps[steps >= 0.2 - 1e-9])
    assert np.all(np.diff(steps) > 0) and late.max() <= STEP_A + 1e-12
    assert time_steps([9.0])[-1] == pytest.approx(0.1)


def test_growth_in_einstein_de_sitter_is_the_scale_factor_and_the_general_one_solves_its_equation():
    for a in (0.05, 0.3, 0.8):
        assert EINSTEIN_DE_SITTER.growth(a) == pytest.approx(a) and EINSTEIN_DE_SITTER.growth_rate(a) == pytest.approx(
            1
        )
    c, h = BOLSHOI_PLANCK, 1e-4
    for a in (0.1, 0.5, 1.0):
        rate = (np.log(c.growth(a * (1 + h))) - np.log(c.growth(a * (1 - h)))) / (2 * h)
        assert c.growth_rate(a) == pytest.approx(rate, rel=1e-6)
    # Within 0.1 % of CAMB's, which has radiation.
    at, late = matter_power(**asdict(c), z=0.0, halofit_version="linear", kmax=2.0)
    _, early = matter_power(**asdict(c), z=1.0, halofit_version="linear", kmax=2.0)
    assert np.sqrt(early / late)[np.abs(at - 0.1).argmin()] == pytest.approx(c.growth(0.5), rel=1e-3)


def test_a_plane_wave_grows_as_linear_theory_says():
    n, Lbox, size = 32, 100.0, 0.1
    rest = on_grid(n, Lbox)
    k = 2 * np.pi / Lbox
    c = BOLSHOI_PLANCK
    wave = size * np.sin(k * rest[0].astype(float))
    position, momentum = rest.copy(), np.zeros_like(rest)
    position[0] += (wave * c.growth(START)).astype(np.float32)
    momentum[0] = START**2 * c.E(START) * c.growth_rate(START) * wave * c.growth(START)
    mesh = Mesh(Lbox, 64)
    seen = {}

    def keep(a):
        seen[a] = (2 * np.mean((position[0] - rest[0]) * np.sin(k * rest[0])) / size, momentum[0].copy())

    evolve(mesh, position, momentum, c, time_steps([1.0, 0.0]), [0.5, 1.0], on_output=keep)
    for a, (amplitude, p) in seen.items():
        assert amplitude == pytest.approx(c.growth(a), rel=0.01)
        slope = 2 * np.mean(p * np.sin(k * rest[0])) / size
        assert slope == pytest.approx(a**2 * c.E(a) * c.growth_rate(a) * c.growth(a), rel=0.015)
    assert np.abs(position[1:] - rest[1:]).max() < 1e-4


def test_mass_and_momentum_are_conserved_whatever_the_threads():
    rng = np.random.default_rng(3)
    position = (rng.random((3, 4000)) * 20).astype(np.float32)
    fields = []
    for n in (1, 3):
        token = LIMIT.set(n)
        try:
            mesh = Mesh(20.0, 16)
            fields.append(mesh.density(position)[..., :16].copy())
            momentum = np.zeros_like(position)
            mesh.move(position.copy(), momentum, mesh.potential(position), 1.0, 0.0)
        finally:
            LIMIT.reset(token)
        assert abs(momentum.sum()) < 1e-4 * np.abs(momentum).sum()
    assert np.array_equal(*fields)
    assert abs(fields[0].mean(dtype=float)) < 1e-5
    one = np.zeros((16, 16, 16), np.float32)
    deposit(0, 16, np.full((3, 1), 19.99, np.float32), one, np.float32(0.8))  # across the face of the box
    assert one.sum() == pytest.approx(1.0) and one[0, 0, 0] > 0 and one[15, 15, 15] > 0


@pytest.fixture(scope="module")
def spectrum():
    return matter_power(**asdict(BOLSHOI_PLANCK), z=0.0, halofit_version="linear", kmax=60.0)


@pytest.mark.parametrize("fixed", [True, False])
def test_initial_conditions_have_the_spectrum_asked_for(spectrum, fixed):
    n, Lbox, a = 48, 200.0, 0.02
    position, momentum = initial_particles(spectrum, BOLSHOI_PLANCK, Lbox, n, a, seed=5, fixed=fixed)
    found, mean = power_of(position, Lbox, n, np.array([0.06, 0.12, 0.25]))
    full, half = np.fft.fftfreq(n), np.arange(n // 2 + 1) / n
    k = 2 * np.pi * n / Lbox * np.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + half**2)
    wanted = mean(np.exp(np.interp(np.log(np.maximum(k, 1e-3)), *(np.log(s) for s in spectrum))))
    ratio = found / (wanted * BOLSHOI_PLANCK.growth(a) ** 2)
    # With random amplitudes the bins of 80 and 800 modes scatter by 11 and 4 %.
    assert np.abs(ratio - 1).max() < (0.02 if fixed else 0.4)
    # The velocity is that of the growing mode, up to second order.
    shift = (position - on_grid(n, Lbox) + Lbox / 2) % Lbox - Lbox / 2
    expected = a**2 * BOLSHOI_PLANCK.E(a) * BOLSHOI_PLANCK.growth_rate(a) * shift
    assert np.std(momentum - expected) < 0.02 * np.std(momentum)


def test_a_pair_differs_only_in_the_sign_of_its_modes(spectrum):
    n, Lbox = 32, 100.0
    one, other = (initial_particles(spectrum, BOLSHOI_PLANCK, Lbox, n, 0.02, 7, sign=sign)[0] for sign in (1, -1))
    rest = on_grid(n, Lbox)
    first, second = ((p - rest + Lbox / 2) % Lbox - Lbox / 2 for p in (one, other))
    assert np.std(first + second) < 0.05 * np.std(first)  # second order is even
    again = initial_particles(spectrum, BOLSHOI_PLANCK, Lbox, n, 0.02, 7)[0]
    assert np.array_equal(one, again)
    assert not np.allclose(one, initial_particles(spectrum, BOLSHOI_PLANCK, Lbox, n, 0.02, 8)[0])


def test_power_of_a_pair_is_that_of_hmcode_and_grows_as_it_does(tmp_path):
    n, Lbox, k_edges = 64, 200.0, np.array([0.06, 0.1, 0.17, 0.3])
    found = {0.0: [], 1.0: []}
    for sign in (1, -1):
        simulation = Simulation(Lbox, n, 2 * n, redshifts=(0.0, 1.0), sign=sign)
        simulate_particles(simulation, tmp_path / str(sign), progress=False)
        for z in found:
            position = np.load(particles_file(tmp_path / str(sign), z))[0]
            found[z].append(power_of(position, Lbox, 2 * n, k_edges))
    full, half = np.fft.fftfreq(2 * n), np.arange(n + 1) / (2 * n)
    k = 4 * np.pi * n / Lbox * np.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + half**2)
    ratio = {}
    for z, powers in found.items():
        at, power = matter_power(**asdict(BOLSHOI_PLANCK), z=z, kmax=10.0)
        wanted = powers[0][1](np.exp(np.interp(np.log(np.maximum(k, 1e-3)), np.log(at), np.log(power))))
        ratio[z] = np.mean([p for p, _ in powers], axis=0) / wanted
        # The phases of one pair leave some scatter; the mesh of 1.6 Mpc/h lowers the last bin.
        assert np.abs(ratio[z] - 1)[:2].max() < 0.04 and np.abs(ratio[z] - 1).max() < 0.12
    assert np.abs(ratio[0.0] / ratio[1.0] - 1)[:2].max() < 0.02
