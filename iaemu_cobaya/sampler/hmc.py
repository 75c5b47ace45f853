"""HMC, a Cobaya sampler: Hamiltonian Monte Carlo of many chains in a batch, with gradients of the whole posterior.

    sampler:
      iaemu_cobaya.HMC:
        seed: 1

The posterior is that of the Cobaya model, mirrored in torch (:mod:`iaemu_cobaya.gradients.log_posterior`) and sampled
by :mod:`iaemu.sampling`. Each draw that is kept is evaluated by Cobaya too, which gives its derived parameters and
shows that both agree. Files, resuming (``cobaya-run -r``) and MPI are as with Cobaya's ``mcmc``; draws of the warm-up
are not written.
"""

from __future__ import annotations

import math
import re
import reprlib
from typing import Annotated, Any

import numpy as np
import torch
from cobaya import mpi
from cobaya.collection import SampleCollection
from cobaya.conventions import Extension
from cobaya.log import LoggedError
from cobaya.output import Output
from cobaya.sampler import CovmatSampler
from getdist import MCSamples
from pandas import DataFrame
from tqdm import tqdm

from iaemu import __version__
from iaemu.ranges import Range
from iaemu.sampling import Sampler, SamplingError, Settings, diagnostics
from iaemu_cobaya.gradients.cobaya_internals import append_draws
from iaemu_cobaya.gradients.log_posterior import LogPosterior
from iaemu_cobaya.options import ChecksOptions, check_seed
from iaemu_cobaya.sampler.chain_files import DRAWS, ChainFiles

#: How far Cobaya's log-posterior of a draw may lie from the one that was sampled: a part that does not matter for the
#: draws, and rounding of a large number.
AGREEMENT, ROUNDING = 1e-2, 1e-7

#: The limits that hold this share of the distribution: Rminus1_cl is their scatter, as in Cobaya's mcmc.
CONFIDENCE = 0.95

#: Draws of each chain without which there is no R-hat.
MIN_DRAWS = 4

#: Of numbers of chains and draws, which are allocated at once.
LARGEST = 1_000_000

#: Points of the reference from which the maximum of the posterior is searched.
N_STARTS = 8


class HMC(ChecksOptions, CovmatSampler):
    r"""Hamiltonian Monte Carlo \cite{Neal:2011mrf} of many chains in a batch; the options are described in HMC.yaml.

    Attributes
    ----------
    density : LogPosterior
        What is sampled.
    sampler : iaemu.sampling.Sampler
    collections : list of SampleCollection
        Kept draws, one collection a file of this process; between two looks at convergence a chain's draws stand
        together.
    progress_table : DataFrame
        What was found whenever convergence was looked at.
    n_kept : int
        Draws kept of each chain.
    converged : bool
    """

    sampler_type: str = "mcmc"
    _at_resume_prefer_new = [
        *CovmatSampler._at_resume_prefer_new,
        *("Rminus1_stop", "ess_stop", "max_samples", "check_every", "progress", "seed", "covmat", "covmat_params"),
    ]

    method: str
    gradient: str
    n_chains: Annotated[int, Range(at_least=2, at_most=LARGEST)]
    n_files: Annotated[int, Range(at_least=1, at_most=LARGEST)]
    n_warmup: Annotated[int, Range(at_least=20, at_most=LARGEST)]
    target_accept: Annotated[float, Range(at_least=0.1, at_most=0.999)] | None
    trajectory_length: Annotated[float, Range(at_least=1e-3, at_most=1e3)] | None
    max_tree_depth: Annotated[int, Range(at_least=1, at_most=20)]
    Rminus1_stop: Annotated[float, Range(above=0, infinite=True)]
    ess_stop: Annotated[float, Range(above=0, infinite=True)]
    max_samples: Annotated[float, Range(above=0, infinite=True)]
    check_every: Annotated[int, Range(at_least=1, at_most=LARGEST)]
    thin: Annotated[int, Range(at_least=1, at_most=LARGEST)]
    progress: bool

    # ------------------------------------------------------------------ set-up

    def set_instance_defaults(self) -> None:
        """Values before a checkpoint is read."""
        super().set_instance_defaults()
        self.converged = False
        self.mpi_size = None
        self.n_kept = 0
        # In a checkpoint, lists of what each process has.
        self.n_divergent: Any = 0
        self.states: Any = None

    def set_checkpoint_info(self, checkpoint_info: dict) -> None:
        """Take up what the checkpoint holds.

        Not as Cobaya does: it compares with the input of the run before, which is empty if that was killed while Cobaya
        wrote it. Whether the draws are enough is judged anew in any case.

        Parameters
        ----------
        checkpoint_info : dict
        """
        for name, value in checkpoint_info["sampler"][self.get_name()].items():
            setattr(self, name, value)

    # Tensors made in a caller's inference mode would have no gradients later.
    @torch.inference_mode(False)
    def initialize(self) -> None:
        """Mirror the posterior, compare it with Cobaya's, and open the files."""
        if not self.model.prior.d():
            raise LoggedError(self.log, "No parameter is sampled: give at least one of them a prior.")
        scales = None if self.covmat is None else self._scales_of_covmat()
        self.density = LogPosterior(self.model, self.gradient, self.random_state, scales)
        self.density.check(rng=self.random_state)
        generator = torch.Generator().manual_seed(int(self.random_state.integers(2**63)))
        options = ("method", "n_chains", "n_warmup", "max_tree_depth", "target_accept", "trajectory_length")
        given = {name: getattr(self, name) for name in options if getattr(self, name) is not None}
        try:
            settings = Settings(**given)
            self.sampler = Sampler(self.density, len(self.density.names), self.density.bounds, settings, generator)
        except ValueError as error:
            raise LoggedError(self.log, "%s", error) from error
        self._open_files()

    def validate_attributes(self, annotations: dict) -> None:
        """Check all options.

        Parameters
        ----------
        annotations : dict

        Raises
        ------
        LoggedError
            One is of another type, or out of its range.
        """
        super().validate_attributes(annotations)
        if self.seed is not None:
            check_seed(self.seed, self.log)
        if self.n_chains % self.n_files:
            message = "n_files: %d chains cannot be shared equally among %d files; choose a divisor of n_chains."
            raise LoggedError(self.log, message, self.n_chains, self.n_files)

    def _scales_of_covmat(self) -> np.ndarray:
        try:
            return np.sqrt(np.diag(self.initial_proposal_covmat()[0]))
        except LoggedError:
            raise
        except (ValueError, TypeError, IndexError, UnboundLocalError, np.linalg.LinAlgError) as error:
            # Cobaya's reader takes for granted that it is a file with a header, or a matrix.
            message = "covmat must be a file with a covariance matrix, or the matrix; got %s: %s"
            raise LoggedError(self.log, message, reprlib.repr(self.covmat), error) from error

    def _open_files(self) -> None:
        """Chains of this process, continued from the checkpoint if there is one."""
        resuming = self.output.is_resuming() and self.states is not None
        if resuming and self.mpi_size != mpi.size():
            message = "This run has %s MPI process(es) and cannot be resumed with %d."
            raise LoggedError(self.log, message, self.mpi_size, mpi.size())
        self._files = ChainFiles(self, resuming)
        self.collections, self.progress_table = self._files.collections, self._files.progress
        self._energies: list[np.ndarray] = []
        self._history = np.empty((self.n_chains, 0, len(self.density.names)))
        if resuming:
            self._history = self._files.resume()
            self.n_divergent = self.n_divergent[mpi.rank()]
            self.mpi_info("Resuming after %d draws of each of %d chains.", self.n_kept, self.n_chains)

    # ------------------------------------------------------------------ run

    @torch.inference_mode(False)
    def run(self) -> None:
        """Warm up, then draw until the chains have converged and are long enough."""
        with mpi.ProcessState(self) as state:
            if not self.sampler.is_warm:
                self._warm_up()
            self._judge_old_draws()
            total = self.max_samples if math.isfinite(self.max_samples) else None
            with self._bar(desc="draws", unit="draw", total=total, initial=self.n_draws()) as bar:
                while not self.converged and (n := self._n_next()):
                    self._keep(self.sampler.draw(n * self.thin))
                    self.n_kept += n
                    state.check_error()
                    self._look(bar)
                    self._files.write(self._history[:, -n:], self._covariance)
        self._conclude()

    def _judge_old_draws(self) -> None:
        """Whether a resumed run, perhaps with other targets, is long enough already."""
        if self.n_kept:
            history = np.concatenate(mpi.allgather(self._history))
            self.converged = self._is_enough(*_convergence(history))

    def _warm_up(self) -> None:
        n = min(self.n_chains, N_STARTS)
        self.mpi_info("Looking for the maximum of the posterior from %d points of the reference.", n)
        start = [self.model.get_valid_point(max_tries=1000, random_state=self.random_state)[0] for _ in range(n)]
        with self._bar(desc="warm-up", unit="step", total=self.n_warmup) as bar:
            try:
                self.sampler.warm_up(np.array(start), lambda *_: bar.update())
            except SamplingError as error:
                raise LoggedError(self.log, "%s", error) from error
        self.mpi_info(
            "Warmed up: step size %.3g, %d gradients so far.", self.sampler.step_size, self.sampler.density.n_gradients
        )

    def n_draws(self) -> int:
        """Kept draws of all chains of all processes.

        Returns
        -------
        int
        """
        return self.n_kept * self.n_chains * mpi.size()

    def _n_next(self) -> int:
        """Draws to keep of each chain until the next look at convergence."""
        # The cost of a look grows with the draws: so do the distances between looks.
        n = self.check_every * max(1, self.n_kept // (4 * self.check_every))
        if math.isfinite(self.max_samples):
            n = min(n, math.ceil(self.max_samples / (self.n_chains * mpi.size())) - self.n_kept)
        return max(0, n)

    def _keep(self, draws) -> None:
        """Put draws into the collections, with what Cobaya says of them."""
        kept = slice(self.thin - 1, None, self.thin)
        positions, densities = draws.positions[:, kept].numpy(), draws.log_density[:, kept].numpy()
        # A chain's draws stand together: GetDist finds their correlation.
        for chain, (xs, expecteds) in enumerate(zip(positions, densities, strict=True)):
            for x, expected in zip(xs, expecteds, strict=True):
                point = self.model.logposterior(x)
                if not abs(point.logpost - expected) <= AGREEMENT + ROUNDING * abs(expected):
                    self._refuse(x, expected, point.logpost)
                self.collections[chain % self.n_files].add(x, logpost=point)
        self._history = np.concatenate([self._history, positions], axis=1)
        self._acceptance = float(draws.info.acceptance.mean())
        self._energies.append(draws.info.energy.numpy())
        self.n_divergent += int(draws.info.divergent.sum())

    def _refuse(self, x, sampled: float, cobayas: float) -> None:
        numerical = self.density.gradient == "finite_difference"
        raise LoggedError(
            self.log,
            "The log-posterior that was sampled is %.8g at %s, but Cobaya's is %.8g: a component does not compute the "
            "same with tensors as with numbers, or not the same twice. Use %s'sampler: mcmc'.",
            sampled,
            ", ".join(f"{name} = {value:.8g}" for name, value in zip(self.density.names, x, strict=True)),
            cobayas,
            "" if numerical else "'gradient: finite_difference' or ",
        )

    def _bar(self, **options) -> tqdm:
        show = self.progress and mpi.is_main_process()
        return tqdm(disable=None if show else True, leave=False, **options)

    # ------------------------------------------------------------------ convergence

    def _look(self, bar) -> None:
        """Measure convergence over the chains of all processes."""
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
            "ess_bulk": ess["bulk"],
            "ess_tail": ess["tail"],
            "divergences": sum(divergences),
        }
        self.converged = self._is_enough(Rminus1, ess)
        self.mpi_info(
            "%d draws: R-1 = %.4f, %.0f effective draws in the bulk, %.0f in the tails, acceptance %.2f.",
            *(self.n_draws(), Rminus1, ess["bulk"], ess["tail"], float(np.mean(acceptances))),
        )
        bar.update(self.n_draws() - bar.n)
        bar.set_postfix({"R-1": f"{Rminus1:.4f}", "ess": f"{min(ess.values()):.0f}", "divergent": sum(divergences)})

    def _is_enough(self, Rminus1: float, ess: dict) -> bool:
        # NaN, where a parameter has not moved, is not enough. The same verdict for all processes.
        verdict = Rminus1 < self.Rminus1_stop and all(value > self.ess_stop for value in ess.values())
        return bool(mpi.share_mpi(verdict))

    def _conclude(self) -> None:
        """What speaks for and against the chains, in words."""
        if self.converged:
            self.mpi_info("The run has converged, with %d draws.", self.n_draws())
        else:
            message = "Stopped at max_samples = %g draws, before R-1 < %g and %g effective draws were reached."
            self.mpi_warning(message, self.max_samples, self.Rminus1_stop, self.ess_stop)
        n_divergent = sum(mpi.allgather(self.n_divergent))
        if n_divergent:
            self.mpi_warning(
                "%d of %d trajectories diverged: part of the posterior is too narrow for the step size, and may be "
                "missing in the chains. Raise target_accept, or change parameters.",
                *(n_divergent, self.n_draws() * self.thin),
            )
        energies = np.concatenate(self._energies, axis=1) if self._energies else np.empty((0, 0))
        bfmi = float(np.mean(diagnostics.bfmi(energies))) if energies.shape[1] >= MIN_DRAWS else math.nan
        bfmi = float(np.mean(mpi.allgather(bfmi)))
        if bfmi < diagnostics.LOW_BFMI:
            self.mpi_warning("The energy's BFMI is %.2f: tails are hardly explored. Change parameters.", bfmi)

    # ------------------------------------------------------------------ products

    def samples(
        self, combined: bool = False, skip_samples: float = 0, to_getdist: bool = False
    ) -> SampleCollection | MCSamples:
        """The kept draws.

        Parameters
        ----------
        combined : bool
            With several MPI processes: those of all of them, not of this one only.
        skip_samples : float
            Draws, or share of the draws, to leave out at the start of each file. There is no burn-in among them.
        to_getdist : bool
            Of all processes, as GetDist's MCSamples.

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
        """Draws and progress.

        Parameters
        ----------
        combined, skip_samples, to_getdist
            As of :meth:`samples`.

        Returns
        -------
        dict of "sample", see :meth:`samples`, and "progress", a DataFrame
        """
        return {
            "sample": self.samples(combined=combined, skip_samples=skip_samples, to_getdist=to_getdist),
            "progress": mpi.share_mpi(self.progress_table),
        }

    @classmethod
    def output_files_regexps(
        cls, output: Output, info: dict | None = None, minimal: bool = False
    ) -> list[tuple[re.Pattern, None]]:
        """Names of the files that this sampler writes.

        Parameters
        ----------
        output : Output
        info : dict, optional
            Not used.
        minimal : bool
            Those of the chains only.

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
        """Version of the package.

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
        return rf"Batches of chains of {kernel}, with dual averaging of the step size \cite{{Hoffman:2011ukg}}."


def _convergence(history: np.ndarray) -> tuple[float, dict]:
    """R-1, and effective draws in bulk and tail, of draws (n_chains, n, d): the worst parameter's; NaN if too few."""
    if history.shape[1] < MIN_DRAWS:
        return math.nan, {"bulk": math.nan, "tail": math.nan}
    ess = {kind: float(np.min(diagnostics.ess(history, kind))) for kind in ("bulk", "tail")}
    return float(np.max(diagnostics.rhat(history))) - 1.0, ess


def _scatter_of_limits(history: np.ndarray, n_groups: int) -> float:
    """Standard deviation of the 95 % limits between groups of chains, over that of the draws: the worst parameter's."""
    if n_groups == 1:
        return math.nan
    groups = [history[number::n_groups].reshape(-1, history.shape[-1]) for number in range(n_groups)]
    tail = 0.5 * (1.0 - CONFIDENCE)
    limits = np.array([np.quantile(group, (tail, 1.0 - tail), axis=0) for group in groups])
    return float(np.max(limits.std(axis=0) / history.std(axis=(0, 1))))
