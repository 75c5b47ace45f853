"""Configurations: the shipped ones are the defaults and the paper's, overrides, errors that say what to change."""

from dataclasses import asdict
from importlib import resources

import pytest
import yaml

from iaemu_training.commands.iaemu_train import main
from iaemu_training.fitting.config import (
    Config,
    ConfigError,
    FitSettings,
    IAEmuNetSettings,
    read_config,
    shipped_configs,
)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_the_shipped_configurations_are_the_defaults_and_name_every_key():
    assert shipped_configs() == ["factorised", "iaemunet"]
    assert read_config("factorised").settings == FitSettings()
    assert read_config("iaemunet").settings == IAEmuNetSettings()
    for name in shipped_configs():
        config = read_config(name)
        stated = yaml.safe_load((resources.files("iaemu_training.fitting.configs") / f"{name}.yaml").read_text())
        unused = {"step_epochs", "step_factor"} if config.settings.schedule == "cosine" else set()
        assert config.network == name
        assert set(stated) == set(config.to_dict()) - unused


def test_the_papers_recipe():
    recipe = asdict(read_config("iaemunet").settings)
    expected = dict(
        **dict(epochs=500, batch_size=128, optimiser="adamw", learning_rate=0.01, weight_decay=1e-4, schedule="step"),
        **dict(step_epochs=167, step_factor=0.1, gradient_clip=10.0, validate_every=5, patience=100, dropout=0.2),
        **dict(warmup_epochs=100, beta_xi=0.9, beta_omega=0.5, beta_eta=0.5, mse_weight=0.7, realisations="all"),
    )
    assert {name: recipe[name] for name in expected} == expected


def test_a_run_can_be_written_and_read_again(write):
    config = read_config("iaemunet", {"dataset": "mocks.hdf5", "epochs": 7, "devices": 2})
    assert (config.sources["dataset"], config.settings.epochs, config.devices) == ("mocks.hdf5", 7, 2)
    assert read_config(write(yaml.safe_dump(config.to_dict()))) == config


def test_what_is_left_out_has_its_default(write):
    config = read_config(write("network: factorised\nepochs: 3\nlearning_rate: 1e-3\n"), {"width": 32})
    assert config.settings == FitSettings(epochs=3, learning_rate=1e-3, width=32)  # YAML 1.1 reads 1e-3 as text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "network: factorised\nepoch: 3",
            r"Unknown key\(s\) epoch for network: factorised; known are network, tables,",
        ),
        ("network: iaemunet\nwidth: 3", r"Unknown key\(s\) width for network: iaemunet; known are network, dataset,"),
        ("network: cnn", "network must be one of factorised, iaemunet, got 'cnn'"),
        ("epochs: 3", "network must be one of factorised, iaemunet, got None"),
        ("network: factorised\nepochs: 2.5", "epochs must be a whole number, got 2.5"),
        ("network: factorised\nepochs: true", "epochs must be a whole number, got True"),
        ("network: factorised\nlearning_rate: fast", "learning_rate must be a number, got 'fast'"),
        ("network: factorised\nlearning_rate: .nan", "learning_rate must be a number, above 0 and at most 10; got nan"),
        ("network: factorised\nwidth: 0", "width must be a whole number, at least 1 and at most 4096; got 0"),
        ("network: factorised\noptimiser: sgd", "optimiser must be one of adam, adamw, muon, got 'sgd'"),
        ("network: factorised\nbatch_size: 512\nn_train: 32", "batch_size = 512 exceeds n_train = 32"),
        ("network: iaemunet\nbeta_xi: 1.5", "beta_xi must be a number, at least 0 and at most 1; got 1.5"),
        ("network: iaemunet\nrealisations: some", "realisations must be one of all, together"),
        ("network: iaemunet\naccelerator: tpu", "accelerator must be one of auto, cpu, gpu"),
        ("network: iaemunet\nseed: -1", "seed must be a whole number, at least 0 and at most 4294967295; got -1"),
        ("network: [", r"is not valid YAML, line 1: expected the node content"),
        ("network: []", r"network must be one of factorised, iaemunet, got \[\]"),
        ("network: factorised\nepochs: " + "9" * 400, "epochs must be a whole number, at least 1 and .*; got 999"),
        ("network: factorised\nepochs: " + "9" * 5000, "is not valid YAML"),
        ("network: factorised\nlearning_rate: " + "9" * 400, "learning_rate must be a number, got 999"),
        ("network: factorised\nepochs: 3\nepochs: 300", "is not valid YAML, line 1: the key epochs appears twice"),
        ("a: &a [x, x]\nb: &b [*a, *a]", r"is not valid YAML, line 2: \*a is an alias of a list"),
        ("network: !!bool foo", "is not valid YAML"),
        ("network: 2001-02-30", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
        ("network: factorised\n1: 2", "Unknown key.* 1 for network"),
        ("network: factorised\n\0", "NUL bytes"),
        ("just text", "must hold keys and values"),
    ],
)
def test_errors_say_what_is_wrong_and_where(write, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(text))


@pytest.mark.parametrize(
    "text", ["\ufeffnetwork: factorised\r\nepochs: 3\r\n", "# \xc9pochs\nnetwork: factorised\nepochs: 3"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_text_is_read_as_people_have_it(tmp_path, text, encoding):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode(encoding if text[0] == "#" else "utf-8"))
    assert read_config(path).settings == FitSettings(epochs=3)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", "."])
def test_names_that_no_file_has(name):
    with pytest.raises(ConfigError, match="There is no configuration"):
        read_config(name)


def test_an_unknown_configuration_is_refused():
    with pytest.raises(ConfigError, match="There is no configuration nothing: give a YAML file, or one of factorised,"):
        read_config("nothing")
    assert Config().to_dict()["network"] == "factorised"


def test_the_command_line_shows_a_configuration_with_its_overrides(tmp_path, capsys):
    output = str(tmp_path / "e.safetensors")
    assert main(["fit", output, "--config", "iaemunet", "--epochs", "9", "--set", "patience=null", "--show"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == read_config("iaemunet", {"epochs": 9, "patience": None}).to_dict()
    assert main(["fit", output, "--config", "iaemunet", "--width", "3"]) == 1
    assert "Unknown key(s) width for network: iaemunet" in capsys.readouterr().err
    assert main(["fit", output, "--set", "patience"]) == 1
    assert "--set takes KEY=VALUE" in capsys.readouterr().err
    assert main(["fit", output, "--config", "iaemunet"]) == 1
    assert "needs a data set" in capsys.readouterr().err
