"""Configuration of a training run in one YAML file: network, sizes, data, optimisation and device.

The shipped files, ``configs/factorised.yaml`` and ``configs/iaemunet.yaml``, show every key with its default.
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
PRECISIONS = ("32-true", "bf16-mixed")
ACCELERATORS = ("auto", "cpu", "gpu")

_Number = Annotated[int, Range(at_least=1, at_most=10**8)]
_Rate = Annotated[float, Range(above=0, at_most=10)]
_Share = Annotated[float, Range(at_least=0, at_most=1)]


class ConfigError(ValueError):
    """A training configuration is missing or malformed, or has an unknown key or a value that is not allowed."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the training that all networks have.

    Parameters
    ----------
    epochs : int
        Number of epochs; each shows all training data once.
    batch_size : int
        Number of training points or mocks in each step; the last, incomplete batch of an epoch is dropped.
    optimiser : str
        adam, adamw or, for network: factorised, muon (for the matrices between hidden layers, with adam for the rest).
    learning_rate : float
        Learning rate of the optimiser; with muon, that of adam.
    weight_decay : float
        Weight decay of the optimiser.
    schedule : str
        How the learning rate falls: cosine, to zero along half a cosine; or step, by step_factor every step_epochs.
    step_epochs : int
        Epochs between steps of the learning rate, for schedule: step.
    step_factor : float
        Factor of the learning rate at each step, for schedule: step.
    gradient_clip : float or None
        Largest norm of the gradient, to which it is clipped; null for no limit.
    validate_every : int
        Epochs between computations of the validation loss; it is also computed after the last epoch.
    patience : int or None
        Stop when the lowest validation loss is this many epochs old, and keep the weights of that epoch; null to run
        all epochs and keep the last weights.
    checkpoint_every : int
        Epochs between checkpoints.
    precision : str
        Precision of the passes through the network, as in PyTorch Lightning: 32-true, or bf16-mixed, which is two to
        three times faster on GPUs and on CPUs with bfloat16 for networks as large as IAEmuNet. Weights and losses have
        32 bits in both.
    threads : int or None
        Number of threads of torch on the CPU; null for torch's own choice. Small networks are fastest with 1.
    seed : int
        Seed of points, initial weights, order of batches and dropout.
    """

    epochs: _Number = 150
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
    precision: str = "32-true"
    threads: Annotated[int, Range(at_least=1, at_most=1024)] | None = None
    seed: Seed = 1

    def __post_init__(self):
        check_fields(self, ConfigError)
        _check_choice("optimiser", self.optimiser, OPTIMISERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("precision", self.precision, PRECISIONS)


@dataclass(frozen=True)
class FitSettings(TrainingSettings):
    """Settings of the training of FactorisedNet, the default emulator, on noise-free labels.

    Parameters
    ----------
    epochs, batch_size, optimiser, learning_rate, weight_decay, schedule, step_epochs : see TrainingSettings
    step_factor, gradient_clip, validate_every, patience, checkpoint_every : see TrainingSettings
    precision, threads, seed : see TrainingSettings
    n_train : int
        Number of training points, quasi-random in the supported region.
    n_validation : int
        Number of validation points, quasi-random in the supported region from another seed.
    width : int
        Number of units in each hidden layer.
    depth : int
        Number of hidden layers.
    activation : str
        Activation function, gelu or silu.
    members : int
        Number of networks, trained on the same labels from different seeds; the first predicts, the spread of all is
        the epistemic error.
    xi_weight : float
        Weight of log(1 + xi) in the loss, relative to A and E. It is large because log(1 + xi) spans decades, so that
        a small error in it is a large one in xi.
    muon_learning_rate : float
        Learning rate of muon, for the matrices between hidden layers.
    """

    n_train: Annotated[int, Range(at_least=2, at_most=10**8)] = 131072
    n_validation: Annotated[int, Range(at_least=1, at_most=10**8)] = 4096
    width: Annotated[int, Range(at_least=1, at_most=4096)] = 256
    depth: Annotated[int, Range(at_least=1, at_most=64)] = 3
    activation: str = "gelu"
    members: Annotated[int, Range(at_least=1, at_most=64)] = 4
    xi_weight: Annotated[float, Range(above=0, at_most=1e6)] = 25.0
    threads: Annotated[int, Range(at_least=1, at_most=1024)] | None = 1
    epochs: _Number = 150
    optimiser: str = "muon"
    learning_rate: _Rate = 4e-3
    muon_learning_rate: _Rate = 0.02

    def __post_init__(self):
        super().__post_init__()
        _check_choice("activation", self.activation, tuple(ACTIVATIONS))
        if self.batch_size > self.n_train:
            raise ConfigError(f"batch_size = {self.batch_size} exceeds n_train = {self.n_train}; lower batch_size.")


@dataclass(frozen=True)
class IAEmuNetSettings(TrainingSettings):
    """Settings of the training of IAEmuNet, the paper's network, on mocks with the paper's recipe.

    Parameters
    ----------
    epochs, batch_size, optimiser, learning_rate, weight_decay, schedule, step_epochs : see TrainingSettings
    step_factor, gradient_clip, validate_every, patience, checkpoint_every : see TrainingSettings
    precision, threads, seed : see TrainingSettings
    n_realisations : int
        Number of noisy draws at each point, if the data set does not have mocks at all points.
    realisations : str
        all: each epoch shows all mocks of each point one by one, and batch_size counts mocks. together: the loss of a
        point is the mean over its mocks, from one pass of the network, and batch_size counts points.
    dropout : float
        Probability of dropout.
    variance_bias : float
        Initial value of the bias of the layer that predicts the variances.
    warmup_epochs : int
        Number of epochs at the start with beta = 1.
    beta_xi : float
        beta of xi in the beta-NLL, after the warm-up.
    beta_omega : float
        beta of omega in the beta-NLL, after the warm-up.
    beta_eta : float
        beta of eta in the beta-NLL, after the warm-up.
    mse_weight : float
        Weight of the mean squared error in the validation loss; the Gaussian NLL has the rest.
    """

    epochs: _Number = 500
    # Batch normalisation needs a variance, so at least 2.
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
        _check_choice("realisations", self.realisations, ("all", "together"))
        _check_choice("optimiser", self.optimiser, ("adam", "adamw"))


#: Settings of each network, and the keys of the files that it needs.
_NETWORKS: dict[str, tuple[type[TrainingSettings], tuple[str, ...]]] = {
    "factorised": (FitSettings, ("tables", "dataset")),
    "iaemunet": (IAEmuNetSettings, ("dataset", "scatter")),
}


#: Keys that may be a list of files.
_SEVERAL = ("tables",)


@dataclass(frozen=True)
class Config:
    """Configuration of a training run.

    Parameters
    ----------
    network : "factorised" or "iaemunet"
        The network to train.
    settings : FitSettings or IAEmuNetSettings
        Settings of its training.
    sources : dict of str to str, list of str or None
        Files by key. For factorised: ``tables`` (None for the shipped ones; a list for those of several redshifts,
        between which the emulator is to interpolate), and ``dataset`` with mocks for the
        aleatoric error (None for the shipped one, if the tables are the shipped ones, or else for no aleatoric error).
        For iaemunet: ``dataset``, and ``scatter``, the emulator whose aleatoric error is used for draws if the data set
        has no mocks (None for the shipped one).
    accelerator : "auto", "cpu" or "gpu"
        Device; auto takes a GPU if there is one.
    devices : int
        Number of GPUs, or of processes on the CPU, that share each batch.
    """

    network: str = "factorised"
    settings: TrainingSettings = field(default_factory=FitSettings)
    sources: Mapping[str, Any] = field(default_factory=dict)
    accelerator: str = "auto"
    devices: Annotated[int, Range(at_least=1, at_most=1024)] = 1

    def __post_init__(self):
        _check_choice("accelerator", self.accelerator, ACCELERATORS)
        check_fields(self, ConfigError)

    def to_dict(self) -> dict:
        """Return the content of a YAML file that describes this run in full.

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
        """Make a configuration from the content of a YAML file.

        Parameters
        ----------
        values : mapping
            Values by key.

        Returns
        -------
        Config

        Raises
        ------
        ConfigError
            ``network`` is missing or unknown, a key is unknown, or a value has the wrong type or is out of range.
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
        values = {
            name: _files(name, value)
            if name in _SEVERAL and isinstance(value, list | tuple)
            else _convert(name, value, *allowed[name])
            for name, value in values.items()
        }
        return cls(
            network,
            settings_class(**{name: value for name, value in values.items() if name in known}),
            {key: values.get(key) for key in keys},
            **{name: values[name] for name in ("accelerator", "devices") if name in values},
        )


def checkpoint_paths(checkpoint: str | Path | None, members: int) -> list[Path | None]:
    """Return the path of the checkpoint of each member, with the number of the member added if there are several.

    Parameters
    ----------
    checkpoint : path-like or None
        Path of the checkpoint; None for no checkpoints.
    members : int
        Number of members.

    Returns
    -------
    list of Path or None
    """
    if checkpoint is None:
        return [None] * members
    path = Path(checkpoint)
    return [path] if members == 1 else [path.with_name(f"{path.name}.{number}") for number in range(members)]


def radial_checkpoint(checkpoint: str | Path) -> Path:
    """Return the path of the checkpoint of the network of satellites by radius.

    Parameters
    ----------
    checkpoint : path-like
        Path of the checkpoint of the other networks.

    Returns
    -------
    Path
    """
    return Path(f"{checkpoint}.radial")


def shipped_configs() -> list[str]:
    """Return the names of the configurations that come with the package.

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
        Name of a shipped configuration (see :func:`shipped_configs`), or path of a YAML file.
    overrides : mapping, optional
        Values that replace those of the file.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        There is no such configuration, it is not valid YAML, or as for :meth:`Config.from_dict`.
    """
    path = Path(name)
    if str(name) in shipped_configs():
        path = Path(str(resources.files("iaemu_training.fitting.configs") / f"{name}.yaml"))
    elif not os.path.isfile(path):  # also False for names that no file can have
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
    """Read YAML without repeated keys, and without aliases of lists or mappings.

    Parameters
    ----------
    text : str
        The YAML.
    name : str
        Name of the file or option, for error messages.

    Returns
    -------
    object

    Raises
    ------
    ConfigError
        The text is not such YAML; the message names the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"{name} is not valid YAML{line}: {error.problem or error.context}.") from error
    # The constructors of tags raise various classes, for !!bool foo, 2001-02-30, or brackets a thousand deep.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid YAML: {error}.") from error


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects repeated keys, and aliases with which a few lines of YAML could fill the memory."""

    def compose_node(self, parent, index):
        event = self.peek_event()
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent) and not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} is an alias of a list or mapping; write it out", problem_mark=event.start_mark
            )
        return node

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.MarkedYAMLError(problem=f"the key {twice[0]} appears twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _files(name: str, values) -> str | list[str]:
    """Convert a list of files; a list of one is that one."""
    if not values:
        raise ConfigError(f"{name} is an empty list; give one or more files, or null.")
    files = [_convert(name, value, str, False) for value in values]
    return files[0] if len(files) == 1 else files


def _convert(name: str, value, kind: type, optional: bool):
    """Convert a value to the type wanted if this is exact: YAML 1.1 reads 1e-3 as text, and 1 as an int."""
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
