"""A training run in one YAML file: which network, its sizes, its data, how it is trained and on what.

The shipped files, ``configs/factorised.yaml`` and ``configs/iaemunet.yaml``, show every key and its default.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml

from iaemu.files import read_text
from iaemu.networks.factorised import ACTIVATIONS
from iaemu.ranges import Range, Seed, check_fields, numbers_of, short

OPTIMISERS = ("adam", "adamw", "muon")
SCHEDULES = ("cosine", "step")
ACCELERATORS = ("auto", "cpu", "gpu")

_Number = Annotated[int, Range(at_least=1, at_most=10**8)]
_Rate = Annotated[float, Range(above=0, at_most=10)]
_Share = Annotated[float, Range(at_least=0, at_most=1)]


class ConfigError(ValueError):
    """A training configuration that is missing, malformed, or that holds an unknown key or an impossible value."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained, whichever it is.

    Parameters
    ----------
    epochs : int
        Times that all rows are shown.
    batch_size : int
        Rows a step; a batch that is left incomplete at the end of an epoch is dropped.
    optimiser : str
        adam, adamw, or for FactorisedNet muon, see :class:`iaemu_training.fitting.optimisers.MuonAdam`.
    learning_rate, weight_decay : float
        Of the optimiser.
    schedule : str
        Of the learning rate: cosine, to zero on half a cosine, step by step; or step, by ``step_factor`` every
        ``step_epochs``.
    step_epochs, step_factor : int, float
        See ``schedule``.
    gradient_clip : float or None
        Largest norm of the gradient.
    validate_every : int
        Epochs between measurements of the validation loss, which also follow the last epoch.
    patience : int or None
        Training stops when the lowest validation loss is this many epochs old, and its weights are kept; if null, all
        epochs are run and the last weights are kept.
    checkpoint_every : int
        Epochs between checkpoints.
    threads : int or None
        Of torch on the CPU; null: as many as it chooses. Small networks are fastest on one.
    seed : int
        Of everything random: points, initial weights, order of batches, dropout.
    """

    epochs: _Number = 300
    batch_size: _Number = 512
    optimiser: str = "adam"
    learning_rate: _Rate = 2e-3
    weight_decay: Annotated[float, Range(at_least=0, at_most=1000)] = 0.0
    schedule: str = "cosine"
    step_epochs: _Number = 100
    step_factor: Annotated[float, Range(above=0, at_most=10)] = 0.1
    gradient_clip: Annotated[float, Range(above=0)] | None = None
    validate_every: _Number = 1
    patience: _Number | None = None
    checkpoint_every: _Number = 10
    threads: Annotated[int, Range(at_least=1, at_most=1024)] | None = None
    seed: Seed = 1

    def __post_init__(self):
        check_fields(self, ConfigError)
        _check_choice("optimiser", self.optimiser, OPTIMISERS)
        _check_choice("schedule", self.schedule, SCHEDULES)


@dataclass(frozen=True)
class FitSettings(TrainingSettings):
    """How a FactorisedNet is trained on noise-free labels.

    Parameters
    ----------
    epochs, batch_size, optimiser, learning_rate, weight_decay, schedule, step_epochs : see TrainingSettings
    step_factor, gradient_clip, validate_every, patience, checkpoint_every, threads, seed : see TrainingSettings
    n_train, n_validation : int
        Labelled points; both sets are quasi-random in the support, from different seeds.
    width, depth : int
        Units in a hidden layer; hidden layers.
    activation : str
        gelu or silu.
    members : int
        Networks to train, on the same labels from different seeds.
    xi_weight : float
        Of log(1 + xi) in the loss; that of the others is 1. It spans decades, so that a small part of its range is a
        large part of xi.
    muon_learning_rate : float
        Of the matrices between hidden layers, with ``muon``.
    """

    n_train: Annotated[int, Range(at_least=2, at_most=10**8)] = 65536
    n_validation: Annotated[int, Range(at_least=1, at_most=10**8)] = 4096
    width: Annotated[int, Range(at_least=1, at_most=4096)] = 256
    depth: Annotated[int, Range(at_least=1, at_most=64)] = 3
    activation: str = "gelu"
    members: Annotated[int, Range(at_least=1, at_most=64)] = 4
    xi_weight: Annotated[float, Range(above=0, at_most=1e6)] = 25.0
    threads: Annotated[int, Range(at_least=1, at_most=1024)] | None = 1
    epochs: _Number = 300
    optimiser: str = "muon"
    learning_rate: _Rate = 4e-3
    muon_learning_rate: _Rate = 0.02

    def __post_init__(self):
        super().__post_init__()
        _check_choice("activation", self.activation, tuple(ACTIVATIONS))
        if self.batch_size > self.n_train:
            raise ConfigError(f"batch_size = {self.batch_size} exceeds n_train = {self.n_train}; lower it.")


@dataclass(frozen=True)
class IAEmuNetSettings(TrainingSettings):
    """How an IAEmuNet is trained on mocks: the paper's recipe.

    Parameters
    ----------
    epochs, batch_size, optimiser, learning_rate, weight_decay, schedule, step_epochs : see TrainingSettings
    step_factor, gradient_clip, validate_every, patience, checkpoint_every, threads, seed : see TrainingSettings
    n_realisations : int
        Draws a point, where the data set has no mocks.
    realisations : str
        Whether an epoch shows all realisations of each point, or one, drawn at random.
    dropout : float
        Probability.
    variance_bias : float
        What the bias of the variances starts at.
    warmup_epochs : int
        Epochs with beta = 1.
    beta_xi, beta_omega, beta_eta : float
        beta of the beta-NLL afterwards.
    mse_weight : float
        Of the MSE in the validation loss; the Gaussian NLL has the rest.
    """

    epochs: _Number = 500
    # Batch normalisation needs a variance.
    batch_size: Annotated[int, Range(at_least=2, at_most=10**8)] = 128
    optimiser: str = "adamw"
    learning_rate: _Rate = 0.01
    weight_decay: Annotated[float, Range(at_least=0, at_most=1000)] = 1e-4
    schedule: str = "step"
    step_epochs: _Number = 167
    gradient_clip: Annotated[float, Range(above=0)] | None = 10.0
    validate_every: _Number = 5
    patience: _Number | None = 100
    checkpoint_every: _Number = 5
    n_realisations: Annotated[int, Range(at_least=1, at_most=10**5)] = 10
    realisations: str = "all"
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.2
    variance_bias: Annotated[float, Range(at_least=-100, at_most=100)] = 0.0
    warmup_epochs: Annotated[int, Range(at_least=0, at_most=10**8)] = 100
    beta_xi: _Share = 0.9
    beta_omega: _Share = 0.5
    beta_eta: _Share = 0.5
    mse_weight: _Share = 0.7

    def __post_init__(self):
        super().__post_init__()
        _check_choice("realisations", self.realisations, ("all", "one"))
        _check_choice("optimiser", self.optimiser, ("adam", "adamw"))


#: Of each network: its settings, and the keys of its sources.
_NETWORKS: dict[str, tuple[type[TrainingSettings], tuple[str, ...]]] = {
    "factorised": (FitSettings, ("tables", "dataset")),
    "iaemunet": (IAEmuNetSettings, ("dataset", "scatter")),
}


@dataclass(frozen=True)
class Config:
    """A training run.

    Parameters
    ----------
    network : "factorised" or "iaemunet"
    settings : FitSettings or IAEmuNetSettings
    sources : dict of str to str or None
        Files by key. factorised: ``tables`` (None: those shipped); ``dataset`` of mocks for the aleatoric part (None:
        the shipped one, if the tables are). iaemunet: ``dataset``; ``scatter``, an emulator whose aleatoric part gives
        draws where the data set has no mocks (None: the shipped one).
    accelerator : "auto", "cpu" or "gpu"
    devices : int
    """

    network: str = "factorised"
    settings: TrainingSettings = field(default_factory=FitSettings)
    sources: Mapping[str, str | None] = field(default_factory=dict)
    accelerator: str = "auto"
    devices: Annotated[int, Range(at_least=1, at_most=1024)] = 1

    def __post_init__(self):
        _check_choice("accelerator", self.accelerator, ACCELERATORS)
        check_fields(self, ConfigError)

    def to_dict(self) -> dict:
        """The content of the YAML file that describes this run in full.

        Returns
        -------
        dict
        """
        _, keys = _NETWORKS[self.network]
        return {
            "network": self.network,
            **{key: self.sources.get(key) for key in keys},
            **asdict(self.settings),
            "accelerator": self.accelerator,
            "devices": self.devices,
        }

    @classmethod
    def from_dict(cls, values: Mapping) -> Config:
        """A run from the content of a YAML file.

        Parameters
        ----------
        values : mapping

        Returns
        -------
        Config

        Raises
        ------
        ConfigError
            ``network`` is missing or unknown; a key is unknown, in which case the message lists those known; or a value
            has the wrong type or is out of range.
        """
        values = dict(values)
        network = values.pop("network", None)
        _check_choice("network", network, _NETWORKS)
        settings_class, keys = _NETWORKS[network]
        known = [field.name for field in fields(settings_class)]
        allowed = dict.fromkeys(keys, (str, True)) | {"accelerator": (str, False), "devices": (int, False)}
        allowed |= dict.fromkeys(known, (str, False))
        allowed |= {name: (kinds[0][0], optional) for name, (kinds, optional) in numbers_of(settings_class).items()}
        unknown = [name if isinstance(name, str) else short(name) for name in values if name not in allowed]
        if unknown:
            raise ConfigError(
                f"Unknown key(s) {', '.join(unknown)} for network: {network}; known are "
                f"{', '.join(['network', *allowed])}."
            )
        values = {name: _convert(name, value, *allowed[name]) for name, value in values.items()}
        return cls(
            network,
            settings_class(**{name: value for name, value in values.items() if name in known}),
            {key: values.get(key) for key in keys},
            **{name: values[name] for name in ("accelerator", "devices") if name in values},
        )


def checkpoint_paths(checkpoint: str | Path | None, members: int) -> list[Path | None]:
    """Checkpoint of each member: the path itself, with the member's number added if there are several.

    Parameters
    ----------
    checkpoint : path-like or None
    members : int

    Returns
    -------
    list of Path or None
    """
    if checkpoint is None:
        return [None] * members
    path = Path(checkpoint)
    return [path] if members == 1 else [path.with_name(f"{path.name}.{number}") for number in range(members)]


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the package.

    Returns
    -------
    list of str
    """
    folder = resources.files("iaemu_training.fitting.configs")
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_config(name: str | Path, overrides: Mapping | None = None) -> Config:
    """Read a configuration.

    Parameters
    ----------
    name : str or path-like
        A shipped one (see :func:`shipped_configs`), or a YAML file.
    overrides : mapping, optional
        Values that replace or complete those of the file.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        No such configuration, not YAML, or as in :meth:`Config.from_dict`.
    """
    path = Path(name)
    if str(name) in shipped_configs():
        path = Path(str(resources.files("iaemu_training.fitting.configs") / f"{name}.yaml"))
    elif not os.path.isfile(path):  # also for names that no file can have
        raise ConfigError(
            f"There is no configuration {name}: give a YAML file, or one of {', '.join(shipped_configs())}."
        )
    try:
        values = parse_yaml(read_text(path), str(name))
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"The configuration {name} cannot be read: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} must hold keys and values, as the shipped configurations do.")
    try:
        return Config.from_dict({**values, **(overrides or {})})
    except ConfigError as error:
        raise ConfigError(f"Configuration {name}: {error}") from error


def parse_yaml(text: str, name: str) -> Any:
    """Read YAML as people write it by hand: no lists or mappings that are stated once and used again, no key twice.

    Parameters
    ----------
    text : str
    name : str
        Where it comes from, for messages.

    Returns
    -------
    object

    Raises
    ------
    ConfigError
        It is not such YAML; names the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"{name} is not valid YAML{line}: {error.problem or error.context}.") from error
    # The constructors of its tags raise whatever they meet: !!bool foo, 2001-02-30, or brackets a thousand deep.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid YAML: {error}.") from error


class _Loader(yaml.SafeLoader):
    """Without what lets a few lines of YAML fill the memory, and without keys of which the first is lost."""

    def compose_node(self, parent, index):
        event = self.peek_event()
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent) and not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} repeats a list or mapping; write it out", problem_mark=event.start_mark
            )
        return node

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.MarkedYAMLError(problem=f"the key {twice[0]} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _convert(name: str, value, kind: type, optional: bool):
    """The value in the kind wanted, where this loses nothing: YAML 1.1 takes 1e-3 for text, and 1 for an int."""
    if value is None and optional:
        return None
    if kind is float and isinstance(value, numbers.Real | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            return float(value)
    elif isinstance(value, kind) and not isinstance(value, bool):
        return value
    elif kind is str and isinstance(value, Path):
        return str(value)
    nothing = ", or null" if optional else ""
    what = {int: "a whole number", float: "a number", str: "text"}[kind]
    raise ConfigError(f"{name} must be {what}{nothing}, got {short(value)}.")


def _check_choice(name: str, value: str, choices) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {short(value)}.")
