"""HMC, a Cobaya sampler: Hamiltonian Monte Carlo of many chains at once, with the gradient of the whole posterior.

    sampler:
      iaemu_cobaya.HMC:
        seed: 1

The log-posterior of the Cobaya model is computed in torch (:mod:`iaemu_cobaya.gradients`) and sampled by
:mod:`iaemu.sampling`. Cobaya evaluates every kept draw as well. This gives the derived parameters, and checks that the
two log-posteriors agree. Files, resuming (``cobaya-run -r``) and MPI work as with Cobaya's ``mcmc``; draws of the
warm-up are not written.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from cobaya import mpi
from cobaya.collection import SampleCollection
from cobaya.conventions import Extension
from cobaya.log import LoggedError
from cobaya.output import Output
from cobaya.sampler import CovmatSampler
from cobaya.typing import empty_dict
from getdist import MCSamples
from pandas import DataFrame

from iaemu import __version__
from iaemu.ranges import Range
from iaemu.sampling import Sampler, SamplingError, Settings, diagnostics
from iaemu_cobaya.gradients.cobaya_internals import append_draws
from iaemu_cobaya.gradients.log_posterior import LogPosterior
from iaemu_cobaya.options import ChecksOptions, check_seed
from iaemu_cobaya.sampler.chain_files import DRAWS, ChainFiles
from iaemu_cobaya.sampler.progress import DrawsBar, progress_bar

#: Largest allowed difference between Cobaya's log-posterior of a draw and the sampled one: an absolute part, too small
#: to matter for the draws, and a relative part for the rounding of large numbers.
AGREEMENT, ROUNDING = 1e-2, 1e-7

#: Probability between the limits whose scatter is Rminus1_cl, as in Cobaya's mcmc.
CONFIDENCE = 0.95

#: Draws of each chain that R-hat needs at least.
MIN_DRAWS = 4

#: Largest number of chains or draws: memory for them is allocated at once.
LARGEST = 1_000_000

#: Points drawn from the reference distribution, from which the search for the maximum starts.
N_STARTS = 8


class HMC(ChecksOptions, CovmatSampler):
    r"""Hamiltonian Monte Carlo \cite{Neal:2011mrf} of many chains at once.

    ``cobaya-doc iaemu_cobaya.HMC`` describes the options.

    Attributes
    ----------
    density : LogPosterior
        The log-posterior that is sampled.
    sampler : iaemu.sampling.Sampler
        Moves the chains.
    collections : list of SampleCollection
        Kept draws, one collection for each file of this process. Between two checks of convergence, the draws of one
        chain stand together.
    progress_table : DataFrame
        One row for each check of convergence.
    n_kept : int
        Number of draws kept of each chain.
    converged : bool
        Whether the run has met ``Rminus1_stop`` and ``ess_stop``.
    """

    sampler_type: str
    _at_resume_prefer_new = [
        *CovmatSampler._at_resume_prefer_new,
        *(
            "Rminus1_stop",
            "ess_stop",
            "max_samples",
            "check_every",
            "progress",
            "seed",
            "covmat",
            "covmat_params",
            "sampler_type",
        ),
    ]

    method: str
    gradient: str
    n_chains: Annotated[int, Range(at_least=2, at_most=LARGEST)]
    n_files: Annotated[int, Range(at_least=1, at_most=LARGEST)]
    n_warmup: Annotated[int, Range(at_least=20, at_most=LARGEST)]
    target_accept: Annotated[float, Range(at_least=0.1, at_most=0.999)] | None
    trajectory_length: Annotated[float, Range(at_least=1e-3, at_most=1e3)] | None
    n_proposals: Annotated[int, Range(at_least=0, at_most=10_000)] | None
    max_tree_depth: Annotated[int, Range(at_least=1, at_most=20)]
    Rminus1_stop: Annotated[float, Range(above=0, infinite=True)]
    ess_stop: Annotated[float, Range(above=0, infinite=True)]
    max_samples: Annotated[float, Range(above=0, infinite=True)]
    check_every: Annotated[int, Range(at_least=1, at_most=LARGEST)]
    thin: Annotated[int, Range(at_least=1, at_most=LARGEST)]
    progress: bool

    # ------------------------------------------------------------------ set-up

    def set_instance_defaults(self) -> None:
        """Set the values that hold before a checkpoint is read."""
        super().set_instance_defaults()
        self.converged = False
        self.mpi_size = None
        self.n_kept = 0
        # A checkpoint holds lists of these, with one entry for each process.
        self.n_divergent: Any = 0
        self.states: Any = None

    def set_checkpoint_info(self, checkpoint_info: dict) -> None:
        """Take over the content of the checkpoint.

        Cobaya's own method compares it with the input of the earlier run, a file that is empty if that run was killed
        while Cobaya wrote it. We do not need the comparison, since convergence is checked again in any case.

        Parameters
        ----------
        checkpoint_info : dict
            Content of the checkpoint file.
        """
        for name, value in checkpoint_info["sampler"][self.get_name()].items():
            setattr(self, name, value)

    # Tensors made in a caller's inference mode would not have gradients later.
    @torch.inference_mode(False)
    def initialize(self) -> None:
        """Build the log-posterior with gradients, compare it with Cobaya's, and open the files."""
        if not self.model.prior.d():
            raise LoggedError(self.log, "No parameter is sampled: give at least one of them a prior.")
        scales = None if self.covmat is None else self._scales_of_covmat()
        self.density = LogPosterior(self.model, self.gradient, self.random_state, scales)
        self.density.check(rng=self.random_state)
        generator = torch.Generator().manual_seed(int(self.random_state.integers(2**63)))
        options = (
            "method",
            "n_chains",
            "n_warmup",
            "max_tree_depth",
            "target_accept",
            "trajectory_length",
            "n_proposals",
        )
        given = {name: getattr(self, name) for name in options if getattr(self, name) is not None}
        try:
            settings = Settings(**given)
            self.sampler = Sampler(self.density, len(self.density.names), self.density.transform, settings, generator)
        except ValueError as error:
            raise LoggedError(self.log, "%s", error) from error
        self._open_files()

    def validate_attributes(self, annotations: dict) -> None:
        """Check all options.

        Parameters
        ----------
        annotations : dict
            Types of the options, by name.

        Raises
        ------
        LoggedError
            An option has the wrong type, or is out of its range.
        """
        super().validate_attributes(annotations)
        if self.seed is not None:
            check_seed(self.seed, self.log)
        if self.n_chains % self.n_files:
            message = "n_files: %d chains cannot be divided equally among %d files; choose a divisor of n_chains."
            raise LoggedError(self.log, message, self.n_chains, self.n_files)

    def _scales_of_covmat(self) -> np.ndarray:
        try:
            return np.sqrt(np.diag(self.initial_proposal_covmat()[0]))
        except LoggedError:
            raise
        except (ValueError, TypeError, IndexError, UnboundLocalError, np.linalg.LinAlgError) as error:
            # Cobaya's reader assumes a file with a header, or a matrix.
            message = "covmat must be a file with a covariance matrix, or the matrix; got %s: %s"
            raise LoggedError(self.log, message, reprlib.repr(self.covmat), error) from error

    def _open_files(self) -> None:
        """Open the chains of this process, and resume from the checkpoint if there is one."""
        resuming = self.output.is_resuming() and self.states is not None
        if resuming and self.mpi_size != mpi.size():
            message = "This run was made with %s MPI process(es): resume it with as many, not with %d."
            raise LoggedError(self.log, message, self.mpi_size, mpi.size())
        self._files = ChainFiles(self, resuming)
        self.collections, self.progress_table = self._files.collections, self._files.progress
        self._energies: list[np.ndarray] = []
        self._history = np.empty((self.n_chains, 0, len(self.density.names)))
        if resuming:
            self._history = self._files.resume()
            self.n_divergent = self.n_divergent[mpi.rank()]
            self.mpi_info("Resuming after %d draws of each chain (%d draws in all).", self.n_kept, self.n_draws())

    # ------------------------------------------------------------------ run

    @torch.inference_mode(False)
    def run(self) -> None:
        """Warm up, then draw until the chains have converged and hold enough effective draws."""
        with mpi.ProcessState(self) as state:
            if not self.sampler.is_warm:
                self._warm_up()
            total = self._judge_old_draws()
            if not self.converged:
                limit = f", or until {self.max_samples:g} draws are kept" if math.isfinite(self.max_samples) else ""
                goal = "Sampling until R-1 < %g and there are %g effective draws%s."
                self.mpi_info(goal, self.Rminus1_stop, self.ess_stop, limit)
            with DrawsBar(self._shows_progress(), self.n_draws(), total) as bar:
                while not self.converged and (n := self._n_next(self.n_kept)):
                    bar.begin(self.n_draws(self.n_kept + n), n * self.thin, n * self.n_chains)
                    self._keep(self.sampler.draw(n * self.thin, bar.moved), bar)
                    self.n_kept += n
                    state.check_error()
                    self._check(bar)
                    self._files.write(self._history[:, -n:], self._covariance)
        self._conclude()

    def _judge_old_draws(self) -> int | None:
        """Check the convergence of a resumed run, whose options may have changed; the draws expected in all."""
        if not self.n_kept:
            return self._expected_draws(math.nan, math.nan)
        history = np.concatenate(mpi.allgather(self._history))
        Rminus1, ess = _convergence(history)
        self.converged = self._is_enough(Rminus1, ess)
        return self._expected_draws(Rminus1, min(ess.values()))

    def _shows_progress(self) -> bool:
        return self.progress and mpi.is_main_process()

    def _warm_up(self) -> None:
        n, shows = min(self.n_chains, N_STARTS), self._shows_progress()
        self.mpi_info("Searching for the maximum of the posterior from %d points of the reference distribution.", n)
        start = [self.model.get_valid_point(max_tries=1000, random_state=self.random_state)[0] for _ in range(n)]
        try:
            with progress_bar(shows, desc="maximum", unit=" starts", total=n) as bar:
                self.sampler.begin(np.array(start), bar.update)
            self.mpi_info("Warm-up: %d steps of %d chains.", self.n_warmup, self.n_chains)
            with progress_bar(shows, desc="warm-up", unit=" steps", total=self.n_warmup) as bar:
                self.sampler.warm_up(callback=lambda *_: bar.update())
        except SamplingError as error:
            raise LoggedError(self.log, "%s", error) from error
        message = "Warm-up finished: step size %.3g; %d gradients were evaluated so far."
        self.mpi_info(message, self.sampler.step_size, self.sampler.density.n_gradients)

    def n_draws(self, n_kept: int | None = None) -> int:
        """Return the number of kept draws of all chains of all processes.

        Parameters
        ----------
        n_kept : int, optional
            Kept draws of each chain; by default those so far.

        Returns
        -------
        int
        """
        return (self.n_kept if n_kept is None else n_kept) * self.n_chains * mpi.size()

    def _n_next(self, n_kept: int) -> int:
        """Return the number of draws of each chain between this check of convergence and the next."""
        # The time of a check grows with the number of draws, and so does the distance between checks.
        n = self.check_every * max(1, n_kept // (4 * self.check_every))
        if math.isfinite(self.max_samples):
            n = min(n, math.ceil(self.max_samples / (self.n_chains * mpi.size())) - n_kept)
        return max(0, n)

    def _expected_draws(self, Rminus1: float, ess: float) -> int | None:
        """Return the number of draws at which the run will stop if effective draws grow in proportion to draws.

        This is the first check of convergence with enough effective draws; the next one at least, if R-1 is still too
        large. None if there is no way to tell.
        """
        needed = self.n_kept * self.ess_stop / ess if ess > 0 else math.inf
        if not Rminus1 < self.Rminus1_stop:
            needed = max(needed, self.n_kept + 1)
        if math.isinf(needed) and math.isinf(self.max_samples):
            return None
        n_kept = self.n_kept
        while n_kept < needed and (n := self._n_next(n_kept)):
            n_kept += n
        return self.n_draws(n_kept)

    def _keep(self, draws, bar: DrawsBar) -> None:
        """Let Cobaya evaluate draws, and add them to the collections."""
        kept = slice(self.thin - 1, None, self.thin)
        positions, densities = draws.positions[:, kept].numpy(), draws.log_density[:, kept].numpy()
        # What theories compute takes a fraction of the time at many points at once. The first draw of each chain is
        # left to Cobaya alone, as a check of both.
        self.density.prepare(positions[:, 1:].reshape(-1, positions.shape[-1]))
        # The draws of a chain stand together, so that GetDist sees their correlation.
        for chain, (xs, expecteds) in enumerate(zip(positions, densities, strict=True)):
            for x, expected in zip(xs, expecteds, strict=True):
                point = self.model.logposterior(x)
                if not abs(point.logpost - expected) <= AGREEMENT + ROUNDING * abs(expected):
                    self._refuse(x, expected, point.logpost)
                self.collections[chain % self.n_files].add(x, logpost=point)
                bar.evaluated()
        self._history = np.concatenate([self._history, positions], axis=1)
        self._acceptance = float(draws.info.acceptance.mean())
        self._energies.append(draws.info.energy.numpy())
        self.n_divergent += int(draws.info.divergent.sum())

    def _refuse(self, x, sampled: float, cobayas: float) -> None:
        numerical = self.density.gradient == "finite_difference"
        raise LoggedError(
            self.log,
            "The sampled log-posterior is %.8g at %s, but Cobaya's is %.8g. A component gives different results for "
            "tensors and for numbers, or for the same point at different times. Correct it, or use %s'sampler: mcmc'.",
            sampled,
            ", ".join(f"{name} = {value:.8g}" for name, value in zip(self.density.names, x, strict=True)),
            cobayas,
            "" if numerical else "'gradient: finite_difference' or ",
        )

    # ------------------------------------------------------------------ convergence

    def _check(self, bar: DrawsBar) -> None:
        """Check the convergence of the chains of all processes."""
        gathered = mpi.allgather((self._history, self._acceptance, self.n_divergent))
        histories, acceptances, divergences = zip(*gathered, strict=True)
        history = np.concatenate(histories)
        self._covariance = np.atleast_2d(np.cov(history.reshape(-1, history.shape[-1]).T))
        Rminus1, ess = _convergence(history)
        self.progress_table.loc[len(self.progress_table)] = {
            "N": self.n_draws(),
            "acceptance_rate": float(np.mean(acceptances)),
            "Rminus1": Rminus1,
            "Rminus1_cl": _scatter_of_limits(history, self.n_files * mpi.size()),
            **{f"ess_{method}": value for method, value in ess.items()},
            "divergences": sum(divergences),
        }
        self.converged = self._is_enough(Rminus1, ess)
        bar.clear()
        self.mpi_info(
            "%d draws: R-1 = %.4f; effective draws: %.0f in the bulk, %.0f in the tails, %.0f of the mean; "
            "acceptance %.2f.",
            *(self.n_draws(), Rminus1, ess["bulk"], ess["tail"], ess["mean"], float(np.mean(acceptances))),
        )
        smallest = min(ess.values())
        text = f"R-1 {Rminus1:.4f}, ess {smallest:.0f}/{self.ess_stop:g}"
        if sum(divergences):
            text += f", {sum(divergences)} diverged"
        bar.end(self._expected_draws(Rminus1, smallest), text)

    def _is_enough(self, Rminus1: float, ess: dict) -> bool:
        # NaN, for a parameter that has not moved, does not pass. All processes get the same answer.
        verdict = Rminus1 < self.Rminus1_stop and all(value > self.ess_stop for value in ess.values())
        return bool(mpi.share_mpi(verdict))

    def _conclude(self) -> None:
        """Log whether the chains have converged, and what casts doubt on them."""
        if self.converged:
            self.mpi_info("The run has converged after %d draws.", self.n_draws())
        else:
            message = "Stopped at max_samples = %g draws, before R-1 < %g and %g effective draws were reached."
            self.mpi_warning(message, self.max_samples, self.Rminus1_stop, self.ess_stop)
        n_divergent = sum(mpi.allgather(self.n_divergent))
        if n_divergent:
            self.mpi_warning(
                "%d of %d trajectories diverged. Part of the posterior is too narrow for the step size, and the chains "
                "may miss it. Raise target_accept, or sample other parameters.",
                *(n_divergent, self.n_draws() * self.thin),
            )
        energies = np.concatenate(self._energies, axis=1) if self._energies else np.empty((0, 0))
        bfmi = float(np.mean(diagnostics.bfmi(energies))) if energies.shape[1] >= MIN_DRAWS else math.nan
        bfmi = float(np.mean(mpi.allgather(bfmi)))
        if bfmi < diagnostics.LOW_BFMI:
            message = "The energy BFMI is %.2f, below %g: the chains hardly explore the tails. Sample other parameters."
            self.mpi_warning(message, bfmi, diagnostics.LOW_BFMI)

    # ------------------------------------------------------------------ products

    def samples(
        self, combined: bool = False, skip_samples: float = 0, to_getdist: bool = False
    ) -> SampleCollection | MCSamples:
        """Return the kept draws.

        Parameters
        ----------
        combined : bool
            Return the draws of all MPI processes, not only those of this one.
        skip_samples : float
            Number or fraction of draws to leave out at the start of each file. The files contain no burn-in.
        to_getdist : bool
            Return the draws of all processes as GetDist's MCSamples.

        Returns
        -------
        SampleCollection or getdist.MCSamples
        """
        parts = [collection.skip_samples(skip_samples, inplace=False) for collection in self.collections]
        if combined or to_getdist:
            parts = [part for process in mpi.allgather(parts) for part in process]
        if to_getdist:
            return parts[0].to_getdist(combine_with=parts[1:])
        for other in parts[1:]:
            append_draws(parts[0], other)
        return parts[0]

    def products(
        self, combined: bool = False, skip_samples: float = 0, to_getdist: bool = False
    ) -> dict[str, SampleCollection | MCSamples | DataFrame]:
        """Return the draws and the table of progress.

        Parameters
        ----------
        combined, skip_samples, to_getdist
            See :meth:`samples`.

        Returns
        -------
        dict
            "sample": see :meth:`samples`; "progress": a DataFrame with one row for each check of convergence.
        """
        return {
            "sample": self.samples(combined=combined, skip_samples=skip_samples, to_getdist=to_getdist),
            "progress": mpi.share_mpi(self.progress_table),
        }

    @classmethod
    def output_files_regexps(
        cls, output: Output, info: dict | None = None, minimal: bool = False
    ) -> list[tuple[re.Pattern, None]]:
        """Return the names of the files that this sampler writes.

        Parameters
        ----------
        output : Output
        info : dict, optional
            Not used.
        minimal : bool
            Return the names of the chains only.

        Returns
        -------
        list of (compiled regular expression, None)
        """
        chains = output.collection_regexp(name=None)
        if minimal:
            return [(chains, None)]
        others = (Extension.checkpoint, Extension.progress, Extension.covmat)
        regexps = [re.compile(output.prefix_regexp_str + re.escape(name.lstrip(".")) + "$") for name in others]
        draws = output.collection_regexp(name=None, extension=DRAWS)
        return [(regexp, None) for regexp in (chains, draws, *regexps)]

    @classmethod
    def get_version(cls) -> str:
        """Return the version of the package.

        Returns
        -------
        str
        """
        return __version__

    @classmethod
    def _get_desc(cls, info=None):
        method = (info or {}).get("method", "hmc")
        nuts, hmc = r"the No-U-Turn sampler \cite{Hoffman:2011ukg}", r"Hamiltonian Monte Carlo \cite{Neal:2011mrf}"
        kernel = nuts if method == "nuts" else hmc
        jumps = "" if method == "nuts" else r", with jumps to draws of a mixture \cite{Samsonov:2021wvu}"
        return (
            rf"Many chains of {kernel} at once{jumps}; the step size is set by dual averaging \cite{{Hoffman:2011ukg}}."
        )

    @classmethod
    def get_defaults(
        cls, return_yaml: bool = False, yaml_expand_defaults: bool = True, input_options: Mapping = empty_dict
    ) -> dict | str:
        """Return the default options.

        Parameters
        ----------
        return_yaml : bool
            Return them as YAML text.
        yaml_expand_defaults : bool
            In that text, replace ``!defaults`` by what they stand for, and leave out comments.
        input_options : mapping, optional
            Options of the run.

        Returns
        -------
        dict or str
        """
        if return_yaml and not yaml_expand_defaults:
            # Cobaya would return an empty text, since the class has the public attribute sampler_type.
            return cls.get_associated_file_content(".yaml") or ""
        return super().get_defaults(return_yaml, yaml_expand_defaults, input_options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.n_chains} chains of {self.n_kept} draws, converged: {self.converged}>"

    def __str__(self) -> str:
        return self.get_name()


def _convergence(history: np.ndarray) -> tuple[float, dict]:
    """Return R-1 and the effective draws by method, of the worst parameter; NaN if there are too few draws.

    ``history`` is (n_chains, n_draws, d).
    """
    if history.shape[1] < MIN_DRAWS:
        return math.nan, dict.fromkeys(diagnostics.ESS_METHODS, math.nan)
    ess = {method: float(np.min(diagnostics.ess(history, method))) for method in diagnostics.ESS_METHODS}
    return float(np.max(diagnostics.rhat(history))) - 1.0, ess


def _scatter_of_limits(history: np.ndarray, n_groups: int) -> float:
    """Return the scatter of the 95 % limits between groups of chains, in units of the width of the posterior.

    Both are standard deviations, and the largest ratio of all parameters is returned.
    """
    if n_groups == 1:
        return math.nan
    groups = [history[number::n_groups].reshape(-1, history.shape[-1]) for number in range(n_groups)]
    tail = 0.5 * (1.0 - CONFIDENCE)
    limits = np.array([np.quantile(group, (tail, 1.0 - tail), axis=0) for group in groups])
    return float(np.max(limits.std(axis=0) / history.std(axis=(0, 1))))
