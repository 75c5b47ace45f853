"""What a chain says of the alignment amplitude A_IA, as a prior for other likelihoods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from cobaya.model import Model
from matplotlib.figure import Figure

from iaemu.halomodel.abundance import CRITICAL_DENSITY
from iaemu.halomodel.alignment import mean_p2
from iaemu.halomodel.radial import RADII
from iaemu.halomodel.strengths import satellite_strengths
from iaemu.models.base import ForwardModel
from iaemu.models.redshifts import RedshiftError
from iaemu.parameters import ALIGNMENT_PARAMETERS, SLOPES
from iaemu.progress import BAR_AFTER, tqdm
from iaemu_cobaya.chains.reading import Chain, ChainError
from iaemu_cobaya.chains.rebuild import rebuild_model
from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.naming import product_name
from iaemu_cobaya.theories.base import ForwardModelTheory

#: Within this radius [Mpc/h], the satellite shear of CCL's halo model is constant.
_CORE = 0.06


@dataclass(frozen=True)
class AmplitudePrior:
    """The posterior of A_IA at one redshift, as a Gaussian.

    Attributes
    ----------
    theory : str
        Name of the theory in the run.
    redshift : float
    values : dict of str to array (n,)
        Of each draw: "A_IA" with what the data say of the error of the prediction, "b_g", "log10_M_h" and "f_sat"; and
        "a_1h", the amplitude of pairs in one host, if the model knows where satellites are.
    box : float
        Error of A_IA of a draw because the halo catalogues are finite, and of the network, given the data; 0 if it is
        not known.
    Om : float
        Matter density of the model's cosmology, to which A_IA is inversely proportional.
    """

    theory: str
    redshift: float
    values: dict[str, np.ndarray]
    box: float
    Om: float

    @property
    def mean(self) -> float:
        """Mean of A_IA."""
        return float(self.values["A_IA"].mean())

    @property
    def sigma(self) -> float:
        """Standard deviation of A_IA over draws, and its error at each of them, in quadrature."""
        return float(np.hypot(self.values["A_IA"].std(), self.box))


def amplitude_priors(
    chain: Chain,
    redshifts: Sequence[float] | None = None,
    amplitude: float | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> list[AmplitudePrior]:
    """Compute A_IA of draws of a chain.

    The error of the prediction is a sum of deviations, fixed vectors times normal variates, which are the same for the
    fitted bins and for A_IA. At each draw, the residuals of the data have a say in the variates: their mean shifts
    A_IA, and what is left of their variance is its error. Likelihoods with ``emulator_error: False`` have no say.

    Parameters
    ----------
    chain : Chain
        Of a run with a theory of this package.
    redshifts : sequence of float, optional
        At which A_IA is computed, for the same strengths and occupation; by default that of the prediction of the run.
    amplitude : float, optional
        Shape amplitude (``ForwardModel.project``), if the run has no parameter for it.
    n_draws, seed : int
        Number of draws, and their seed.
    progress : bool
        Show a progress bar, on a terminal.

    Returns
    -------
    list of AmplitudePrior
        By theory and redshift.

    Raises
    ------
    ChainError
        The model cannot be rebuilt, does not know its large scales or the redshift, or the shape amplitude is missing.
    """
    model = rebuild_model(chain, IACorrelations)
    theories = {name: one for name, one in model.theory.items() if isinstance(one, ForwardModelTheory)}
    if not theories:
        raise ChainError(f"{chain.name} has no theory of this package, so that nothing is known of A_IA.")
    rows = chain.draws(n_draws, seed)
    found = []
    for name, theory in theories.items():
        theta, shapes = _points(model, theory, rows, amplitude)
        variates = _variates(model, theory, rows, progress)
        for redshift in redshifts or [theory.model.redshift or 0.0]:
            try:
                there = theory.model.at_redshift(redshift)
                values = there.large_scale(theta, deviations=there.n_deviations > 0, support="warn")
            except (RedshiftError, ValueError) as error:
                raise ChainError(f"A_IA of {name} at z = {redshift:g}: {error}") from error
            values.A_IA, box = values.A_IA * shapes, 0.0
            if values.deviations is not None:
                deviations = shapes[:, None] * values.deviations["A_IA"]
                mean, covariance = variates or (0.0 * deviations, np.eye(deviations.shape[1])[None])
                values.A_IA = values.A_IA + np.sum(deviations * mean, axis=1)
                box = float(np.sqrt(np.mean(deviations[:, None] @ covariance @ deviations[:, :, None])))
            of_draws = {key: np.asarray(getattr(values, key)) for key in ("A_IA", "b_g", "log10_M_h", "f_sat")}
            of_draws |= _one_halo(there, theta, shapes, of_draws["log10_M_h"])
            Om = float(there.cosmology["Om"])  # type: ignore[index]  # large_scale knows it
            found.append(AmplitudePrior(name, float(redshift), of_draws, box, Om))
    return found


def _points(model: Model, theory: ForwardModelTheory, rows: Sequence[Mapping], amplitude: float | None):
    """Return the parameters (n, n_parameters) of draws, and their shape amplitudes (n,)."""
    names = list(model.parameterization.sampled_params())
    theta, shapes = [], []
    for row in rows:
        inputs = model.parameterization.to_input({name: row[name] for name in names})
        theta.append([float(inputs[name]) for name in theory.names])
        shapes.append(float(theory.shape_amplitude(inputs)))
    if theory.has_shape_amplitude:
        return np.array(theta), np.array(shapes)
    if amplitude is None:
        raise ChainError(
            f"The run has no shape amplitude for {theory.get_name()}, so that A_IA does not follow from it: give the "
            "rms ellipticity of the sample with --e-rms."
        )
    return np.array(theta), np.full(len(theta), float(amplitude))


def _variates(model: Model, theory: ForwardModelTheory, rows: Sequence[Mapping], progress: bool):
    """Return means (n, K) and covariances (n, K, K) of the variates of the prediction's error; None without data."""
    likes = [like for like in model.likelihood.values() if isinstance(like, IACorrelations) and like.emulator_error]
    likes = [like for like in likes if theory in _suppliers(like)]
    if not likes:
        return None
    names, found = list(model.parameterization.sampled_params()), []
    for row in tqdm(rows, "error of A_IA", delay=BAR_AFTER, disable=None if progress else True):
        model.loglike({name: row[name] for name in names}, return_derived=False)
        terms = []
        for like in likes:
            deviations = like.deviations()
            assert deviations is not None  # these likelihoods have emulator_error
            terms.append((deviations, like.inverse_covariance, like.residuals(like.theory_vector())))
        found.append(given_residuals(terms))
    return tuple(np.stack(parts) for parts in zip(*found, strict=True))


def _suppliers(like: IACorrelations) -> list:
    return [like.provider.requirement_providers[product_name(name, like.tag)] for name in like.statistics]


def given_residuals(terms: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return what residuals say of the variates z in data = prediction + z^T deviations + noise, z ~ N(0, 1).

    Parameters
    ----------
    terms : sequence of (deviations (K, n), inverse covariance of the noise (n, n), residuals data - prediction (n,))
        Of independent data.

    Returns
    -------
    mean : array (K,)
    covariance : array (K, K)
    """
    precision = np.eye(len(terms[0][0])) + sum(D @ inverse @ D.T for D, inverse, _ in terms)
    covariance = np.linalg.inv(precision)
    return covariance @ sum(D @ inverse @ residual for D, inverse, residual in terms), covariance


def _one_halo(model: ForwardModel, theta: np.ndarray, shapes: np.ndarray, log_mass: np.ndarray) -> dict:
    """Return a_1h of CCL's SatelliteShearHOD with its default slope b = -2, whose mean over satellites is ours.

    The ellipticity of our satellites is a q(mu_sat) sin^2 of the angle to the line of sight, 2/3 in the mean; that of
    CCL's is a_1h (r / Rvir)^-2, constant within 0.06 Mpc/h.
    """
    try:
        profile = np.asarray(model.satellite_profile)  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return {}
    columns = dict(zip(model.parameters, theta.T, strict=True))
    mu, slope = (
        torch.as_tensor(columns.get(name, np.zeros(len(theta)))) for name in (ALIGNMENT_PARAMETERS[1], SLOPES[1])
    )
    q = mean_p2(satellite_strengths(mu, slope, torch.as_tensor(RADII))).numpy() @ profile
    Om = model.cosmology["Om"]  # type: ignore[index]
    # The virial radius of 200 times the mean density.
    virial = (3.0 * 10**log_mass / (4.0 * np.pi * 200.0 * Om * CRITICAL_DENSITY)) ** (1.0 / 3.0)
    steep = np.maximum(RADII, _CORE / virial[:, None]) ** -2.0 @ profile
    return {"a_1h": 2.0 / 3.0 * shapes * q / steep}


def text_of(priors: Sequence[AmplitudePrior]) -> str:
    """Return priors as text: a table, and lines for Cobaya, CosmoSIS and firecrown.

    Parameters
    ----------
    priors : sequence of AmplitudePrior

    Returns
    -------
    str
    """
    lines = ["  z       A_IA (posterior, error of the prediction)      b_g             log10 M_h       f_sat"]
    for one in priors:
        b, mass, share = (
            f"{one.values[n].mean():.3f} ± {one.values[n].std():.3f}" for n in ("b_g", "log10_M_h", "f_sat")
        )
        spread = f"(± {one.values['A_IA'].std():.3f}, ± {one.box:.3f})"
        lines.append(f"  {one.redshift:<6g}  {one.mean:.3f} ± {one.sigma:.3f} {spread:<26s}  {b}  {mass}  {share}")
    for one in priors:
        mean, sigma = f"{one.mean:.4g}", f"{one.sigma:.3g}"
        mass = f"{one.values['log10_M_h'].mean():.3f}"
        wide = f"{one.mean - 6 * one.sigma:.4g} {mean} {one.mean + 6 * one.sigma:.4g}"
        lines += [
            "",
            f"{one.theory}, z = {one.redshift:g}; A_IA is for Om = {one.Om:g}, to which it is inversely proportional",
            f"  Cobaya       A_IA: {{prior: {{dist: norm, loc: {mean}, scale: {sigma}}}, latex: 'A_\\mathrm{{IA}}'}}",
            "  CosmoSIS     NLA, A constant in z, positive for radial alignment",
            f"               values.ini  [intrinsic_alignment_parameters]  A = {wide}",
            f"               priors.ini  [intrinsic_alignment_parameters]  A = gaussian {mean} {sigma}",
            f"  firecrown    ia_bias = {mean} ± {sigma} (LinearAlignmentSystematic, alphaz = 0)",
            f"               log10_average_halo_mass = {mass} (MassDependentLinearAlignmentSystematic; log10 Msun/h)",
        ]
        if "a_1h" in one.values:
            a_1h = one.values["a_1h"]
            lines.append(
                f"               ia_a_1h = {a_1h.mean():.3g} ± {a_1h.std():.2g}, ia_a_2h = {mean} ± {sigma} "
                "(HMAlignmentSystematic; CCL's SatelliteShearHOD, b = -2)"
            )
    return "\n".join(lines)


def prior_plot(priors: Sequence[AmplitudePrior]) -> Figure:
    """Plot the posterior of A_IA at each redshift, and the Gaussian that stands for it.

    Parameters
    ----------
    priors : sequence of AmplitudePrior

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for number, one in enumerate(priors):
        color, values = f"C{number}", one.values["A_IA"]
        reach = np.linspace(one.mean - 4 * max(one.sigma, 1e-6), one.mean + 4 * max(one.sigma, 1e-6), 400)
        label = f"z = {one.redshift:g}" + (f", {one.theory}" if len({p.theory for p in priors}) > 1 else "")
        axes.hist(values, bins="auto", density=True, color=color, alpha=0.3, label=f"{label}: draws")
        shape = np.exp(-0.5 * ((reach - one.mean) / one.sigma) ** 2) / (one.sigma * np.sqrt(2 * np.pi))
        axes.plot(
            reach,
            shape,
            color=color,
            label=f"with the error of the prediction: {one.mean:.2f} ± {one.sigma:.2f}",
        )
    axes.set_xlabel(r"$A_\mathrm{IA}$")
    axes.set_ylabel("density")
    axes.set_yticks([])
    figure.legend(frameon=False, fontsize=9, loc="outside upper center")
    return figure
