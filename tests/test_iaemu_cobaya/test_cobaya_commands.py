"""``cobaya-doc`` and ``cobaya-bib`` of every class, the example of the page on gradients, and how components print."""

import doctest

import pytest
import yaml
from cobaya.bib import bib_script
from cobaya.doc import doc_script
from cobaya.model import get_model

import iaemu_cobaya
from iaemu_cobaya import gradients

CLASSES = {
    "sampler": ["HMC"],
    "theory": ["IAEmu", "TabulatedIA", "MassDependentIA", "HalotoolsIA"],
    "likelihood": ["IACorrelations", "TNG300Sample1", "TNG300Sample2", "TNG300Sample3"],
}
CASES = [(kind, name) for kind, names in CLASSES.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_cobaya_doc_shows_the_options_with_comments(kind, name, capsys):
    doc_script([f"iaemu_cobaya.{name}"])
    text = capsys.readouterr().out
    shown = yaml.safe_load(text)[kind][f"iaemu_cobaya.{name}"]
    defaults = getattr(iaemu_cobaya, name).get_defaults()
    assert shown and set(shown) <= set(defaults)
    assert all(defaults[option] == value for option, value in shown.items())
    # A comment before each option, or before a pair of them.
    lines = [line.strip() for line in text.splitlines()[2:]]
    for option in shown:
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{option}:"))
        assert any(line.startswith("#") for line in lines[max(0, at - 2) : at]), option


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_cobaya_bib_has_a_description_and_references(kind, name, capsys):
    bib_script([f"iaemu_cobaya.{name}"])
    text = capsys.readouterr().out
    assert f"[iaemu_cobaya.{name}] " in text and "no bibliography" not in text
    assert "Attributes" not in text
    assert "@article" in text.split(f"### iaemu_cobaya.{name} ")[1].split("### cobaya")[0]


def test_the_example_of_gradients_runs():
    found = doctest.testmod(gradients)
    assert found.attempted > 10 and not found.failed


def test_components_print_in_a_line(make_info):
    model = get_model(make_info())
    (theory,), (likelihood,) = model.theory.values(), model.likelihood.values()
    assert repr(theory).startswith("<TabulatedIA 'iaemu_cobaya.TabulatedIA' of mu_cen, mu_sat, logMmin")
    assert repr(likelihood) == "<TNG300Sample1 'iaemu_cobaya.TNG300Sample1': 12 bins of omega from tng300/sample1>"
    assert str(theory) == "iaemu_cobaya.TabulatedIA"
