"""Mean occupations of species of galaxies, and the amplitudes of the modes that describe them.

A species is a bin of host mass (centrals), or a bin of host mass and sub-halo rank (satellites). Every expected pair
sum of the mock model is quadratic (two-halo) or linear (one-halo) in the mean occupations of the species. In the
supported region a few dozen modes span the two-halo occupations. The amplitudes of the modes of <Ncen> and <Nsat>
follow from all species, those of the rank dependence from a few chosen ones (empirical interpolation, Barrault et al.
2004, C. R. Math. 339, 667).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.artifact import ArtifactError
from iaemu.halomodel.occupation import mean_ncen, mean_nsat, rank_tail_sums

#: central: <Ncen>; satellite: mean of P(N >= k) over a rank bin; central_satellite: mean of <Ncen> P(N >= k), for
#: pairs in one host; satellite_pair: mean of P(N >= k) over pairs of ranks in one host whose larger is k.
KINDS = ("central", "satellite", "central_satellite", "satellite_pair")


@dataclass
class Block:
    """Occupations of one kind as sums over entries, and optionally a linear map to mode amplitudes.

    The occupation of a species is the sum over its entries of ``coefficient * f(log_mass, rank)``. Here f is <Ncen>, or
    the sum of P(N >= l) over l >= rank (a bin of ranks is the difference of two entries), or their product.

    Attributes
    ----------
    kind : str
        One of ``KINDS``.
    log_mass, rank, species, coefficient : array (n_entries,)
        ``rank`` is not used for "central"; ``species`` counts from 0.
    matrix : array (n_species, n_modes), or None
        Linear map from occupations to amplitudes; None if the amplitudes are the occupations themselves.
    """

    kind: str
    log_mass: np.ndarray
    rank: np.ndarray
    species: np.ndarray
    coefficient: np.ndarray
    matrix: np.ndarray | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {self.kind!r}.")

    @property
    def n_amplitudes(self) -> int:
        """Number of mode amplitudes, or of species if there is no linear map."""
        return int(self.species.max()) + 1 if self.matrix is None else self.matrix.shape[1]


class Occupations:
    """Mode amplitudes of several blocks, for which <Ncen>, <Nsat> and P(N >= k) are evaluated only once.

    Parameters
    ----------
    blocks : dict of str to Block

    Attributes
    ----------
    log_mass : tensor (n_masses,)
        All masses at which the blocks are evaluated [log10 Msun/h].
    """

    def __init__(self, blocks: dict[str, Block]):
        self.blocks = blocks
        masses = np.concatenate([block.log_mass for block in blocks.values()])
        ranks = np.concatenate(
            [np.where(block.kind == "central", 0, 1) * np.asarray(block.rank) for block in blocks.values()]
        )
        mass_nodes, mass_index = np.unique(masses, return_inverse=True)
        points, point_index = np.unique(np.stack([mass_index, ranks.astype(np.int64)]), axis=1, return_inverse=True)
        ranked = points[1] > 0
        row = np.cumsum(ranked) - 1
        self.point_mass, self.point_rank = points[0][ranked], points[1][ranked]
        self.log_mass = torch.as_tensor(mass_nodes)
        self._point_mass = torch.as_tensor(self.point_mass)
        self._point_rank = torch.as_tensor(self.point_rank.astype(np.float64))
        self._terms: dict[str, tuple] = {}
        start = 0
        for name, block in blocks.items():
            part = slice(start, start + len(block.log_mass))
            start = part.stop
            self._terms[name] = (
                torch.as_tensor(mass_index[part]),
                torch.as_tensor(row[point_index[part]]),
                torch.as_tensor(np.asarray(block.species, dtype=np.int64)),
                torch.as_tensor(np.asarray(block.coefficient, dtype=np.float64)),
                None if block.matrix is None else torch.as_tensor(np.asarray(block.matrix, dtype=np.float64)),
            )

    def amplitudes(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the amplitudes of each block.

        Parameters
        ----------
        theta : tensor (n, 5), float64
            The ``OCCUPATION_PARAMETERS``.

        Returns
        -------
        dict of str to tensor (n, n_amplitudes)
        """
        logMmin, sigma_logM, logM0, logM1, alpha = (column[:, None] for column in theta.unbind(dim=-1))
        kinds = {block.kind for block in self.blocks.values()}
        if kinds & {"central", "central_satellite"}:
            ncen = mean_ncen(self.log_mass, logMmin, sigma_logM)
        if kinds != {"central"}:
            nsat = mean_nsat(self.log_mass, logM0, logM1, alpha)
            single, pair = rank_tail_sums(nsat[:, self._point_mass], self._point_rank)
        result = {}
        for name, (mass, point, _, _, _) in self._terms.items():
            kind = self.blocks[name].kind
            if kind == "satellite":
                result[name] = self._total(name, single[:, point])
            elif kind == "satellite_pair":
                result[name] = self._total(name, pair[:, point])
            else:
                value = ncen[:, mass]
                result[name] = self._total(name, value if kind == "central" else single[:, point] * value)
        return result

    def _total(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Return the amplitudes of a block from the values (n, n_entries) of f at its entries."""
        _, _, species, coefficient, matrix = self._terms[name]
        total = torch.zeros(len(value), int(species.max()) + 1, dtype=value.dtype)
        total = total.index_add(1, species, value * coefficient)
        return total if matrix is None else total @ matrix

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return arrays for a file; arrays that successive blocks share are stored once.

        Returns
        -------
        dict of str to array
        """
        arrays = {
            "occupations.log_mass": self.log_mass.numpy(),
            "occupations.point_mass": self.point_mass.astype(np.int32),
            "occupations.point_rank": self.point_rank.astype(np.int32),
        }
        before: dict[str, np.ndarray] = {}
        for name, (mass, point, species, coefficient, matrix) in self._terms.items():
            index = mass if self.blocks[name].kind == "central" else point
            entries = {"index": index.numpy().astype(np.int32), "species": species.numpy().astype(np.int32)}
            for field, values in entries.items():
                if field not in before or not np.array_equal(values, before[field]):
                    arrays[f"{name}.{field}"] = values
            before = entries
            arrays[f"{name}.coefficient"] = coefficient.numpy()
            if matrix is not None:
                arrays[f"{name}.matrix"] = matrix.numpy()
        return arrays

    @staticmethod
    def layout(names: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        """Return names for the axes of the arrays of :meth:`to_arrays`, for :func:`iaemu.artifact.check_shapes`.

        Parameters
        ----------
        names : iterable of str
            Names of the blocks.

        Returns
        -------
        axes : dict of str to tuple of str
        optional : list of str
            Arrays that may be missing, because a block shares them with the one before or does not have them.
        """
        axes: dict[str, tuple[str, ...]] = {
            "occupations.log_mass": ("masses",),
            "occupations.point_mass": ("points",),
            "occupations.point_rank": ("points",),
        }
        optional = []
        for name in names:
            axes |= {f"{name}.{field}": (f"entries of {name}",) for field in ("coefficient", "index", "species")}
            axes[f"{name}.matrix"] = (f"species of {name}", f"modes of {name}")
            optional += [f"{name}.{field}" for field in ("index", "species", "matrix")]
        return axes, optional

    @classmethod
    def from_arrays(cls, kinds: dict[str, str], arrays: dict[str, np.ndarray]) -> Occupations:
        """Return the occupations of arrays from :meth:`to_arrays`.

        Parameters
        ----------
        kinds : dict of str to str
            Kind of each block by its name.
        arrays : dict of str to array

        Returns
        -------
        Occupations

        Raises
        ------
        ArtifactError
            An array is missing, or arrays do not fit together.
        """
        try:
            log_mass, point_mass, point_rank = (
                arrays[f"occupations.{name}"] for name in ("log_mass", "point_mass", "point_rank")
            )
            _check_indices("occupations", point_mass, log_mass)
            if np.any(point_rank < 1):
                raise ArtifactError(f"Ranks of satellites must be at least 1; the tables have {point_rank.min()}.")
            blocks = {}
            index: Any = None
            species: Any = None
            for name, kind in kinds.items():
                index = arrays.get(f"{name}.index", index)
                species = arrays.get(f"{name}.species", species)
                _check_indices(name, index, log_mass if kind == "central" else point_mass, species)
                mass = index if kind == "central" else point_mass[index]
                rank = np.zeros(len(index), dtype=np.int64) if kind == "central" else point_rank[index]
                coefficient, matrix = arrays[f"{name}.coefficient"], arrays.get(f"{name}.matrix")
                blocks[name] = Block(kind, log_mass[mass], rank, species, coefficient, matrix)
                if not len(index) == len(species) == len(coefficient):
                    raise ArtifactError(
                        f"The arrays of {name} differ in length: {len(index)}, {len(species)}, {len(coefficient)}."
                    )
                if matrix is not None and len(matrix) != int(species.max()) + 1:
                    raise ArtifactError(
                        f"{name} has {int(species.max()) + 1} species, but its matrix has {len(matrix)} rows."
                    )
        except (KeyError, IndexError, TypeError) as error:
            raise ArtifactError(f"The tables of occupations are incomplete: {error}.") from error
        return cls(blocks)


def _check_indices(name: str, index: np.ndarray, into: np.ndarray, species: np.ndarray | None = None) -> None:
    """Raise ArtifactError unless indices lie within an array, and species count from 0 without gaps."""
    if len(index) == 0 or index.min() < 0 or index.max() >= len(into):
        raise ArtifactError(
            f"The tables of occupations are damaged: indices of {name} are outside its {len(into)} entries."
        )
    if species is not None and not np.array_equal(np.unique(species), np.arange(len(np.unique(species)))):
        raise ArtifactError(
            f"The tables of occupations are damaged: species of {name} do not count from 0 without gaps."
        )


class ExpectedCounts:
    """Expected numbers of galaxies and their variance, from the numbers of host halos at mass nodes.

    Parameters
    ----------
    log_mass : array (n_nodes,)
        Masses of the nodes [log10 Msun/h]; also an attribute, as a tensor.
    count : array (n_boxes, n_nodes)
        Numbers of host halos.
    """

    def __init__(self, log_mass: ArrayLike, count: ArrayLike):
        self.log_mass = torch.as_tensor(np.asarray(log_mass, dtype=np.float64))
        self._count = torch.as_tensor(np.atleast_2d(np.asarray(count, dtype=np.float64)))

    def __call__(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the numbers of centrals and satellites and the variance of their sum, each (n, n_boxes)."""
        logMmin, sigma_logM, logM0, logM1, alpha = (column[:, None] for column in theta.unbind(dim=-1))
        ncen = mean_ncen(self.log_mass, logMmin, sigma_logM)
        nsat = mean_nsat(self.log_mass, logM0, logM1, alpha)
        return ncen @ self._count.T, nsat @ self._count.T, (ncen * (1.0 - ncen) + nsat) @ self._count.T

    def centrals(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the expected number of centrals of all boxes together at each mass node.

        Parameters
        ----------
        theta : tensor (n, 5)

        Returns
        -------
        tensor (n, n_nodes)
        """
        logMmin, sigma_logM = theta[:, 0, None], theta[:, 1, None]
        return mean_ncen(self.log_mass, logMmin, sigma_logM) * self._count.sum(dim=0)
