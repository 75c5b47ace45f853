"""Rebuild the model of a chain, to predict again at its rows."""

from __future__ import annotations

from collections.abc import Mapping

from cobaya.component import get_component_class
from cobaya.input import update_info
from cobaya.log import LoggedError, logger_setup
from cobaya.model import Model

from iaemu_cobaya.chains.reading import Chain, ChainError
from iaemu_cobaya.likelihoods.data_plots import DataPlots


def rebuild_model(chain: Chain, kind: type | None = DataPlots) -> Model:
    """Rebuild the model of a chain, by default with the likelihoods of this package only.

    Others can take seconds per point, or need data that are not on this machine.

    Parameters
    ----------
    chain : Chain
    kind : type, optional
        Class of the likelihoods that are kept; None for all.

    Returns
    -------
    cobaya.model.Model

    Raises
    ------
    ChainError
        There is no likelihood of this package, or the model cannot be made.
    """
    likelihoods = {name: info for name, info in (chain.info.get("likelihood") or {}).items() if _is_a(kind, name, info)}
    if not likelihoods:
        raise ChainError(f"{chain.name} has no likelihood of iaemu_cobaya")
    inputs = {
        name: info
        for name, info in chain.info["params"].items()
        if not isinstance(info, dict) or "prior" in info or "value" in info
    }
    info = {key: value for key, value in chain.info.items() if key in ("theory", "prior")}
    # 'one' accepts the parameters of the likelihoods that are left out.
    info.update(likelihood={**likelihoods, "one": None}, params=inputs)
    logger_setup(50)
    try:
        info = update_info(info)
        # get_model has no option to skip theories that only the other likelihoods need.
        return Model(
            info["params"],
            info["likelihood"],
            info.get("prior"),
            info.get("theory"),
            packages_path=chain.info.get("packages_path"),
            skip_unused_theories=True,
        )
    except (LoggedError, ImportError, TypeError) as error:
        raise ChainError(
            f"the model of {chain.name} cannot be rebuilt from {chain.root}.updated.yaml: {error}"
        ) from error


def _is_a(kind: type | None, name: str, info: Mapping | None) -> bool:
    info = info or {}
    if kind is None:
        return True
    if "external" in info:
        return False
    try:
        found = get_component_class(
            name,
            kind="likelihood",
            component_path=info.get("python_path"),
            class_name=info.get("class"),
            not_found_level="debug",
        )
    except (LoggedError, ImportError):
        return False
    return isinstance(found, type) and issubclass(found, kind)
