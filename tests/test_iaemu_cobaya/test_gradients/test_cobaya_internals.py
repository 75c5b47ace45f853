"""Cobaya's private names: what the installed version gives for each of them, and that no other file uses them."""

import ast
from pathlib import Path

import numpy as np
import pytest
from cobaya.collection import SampleCollection
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.theory import Theory

import iaemu_cobaya
from iaemu_cobaya.gradients import cobaya_internals as internals


class Square(Theory):
    def get_requirements(self):
        return {"p": None}

    def get_can_provide(self):
        return ["square"]

    def calculate(self, state, want_derived=True, **params):
        state["square"] = params["p"] ** 2


@pytest.fixture(scope="module")
def model():
    return get_model(
        {
            "theory": {"theory": {"external": Square}},
            "likelihood": {
                "asks": {"external": "lambda _self: -_self.provider.get_result('square')", "requires": ["square"]},
                "plain": "lambda q, shift=0.5: -(q - shift)**2",
            },
            "params": {
                "p": {"prior": {"min": 0, "max": 1}},
                "r": "lambda p, two: two * p",
                "two": 2,
                "q": "lambda r: r",
            },
        }
    )


def collection_of(model, points):
    collection = SampleCollection(model)
    for point in points:
        collection.add(np.array([point]), logpost=model.logposterior([point]))
    return collection


def by_name(model):
    return {one.component.get_name(): one for one in internals.evaluation_order(model)}


def component_order(model):
    found = by_name(model)
    assert {name: one.is_likelihood for name, one in found.items()} == {"theory": False, "asks": True, "plain": True}
    assert list(found).index("theory") < list(found).index("asks")


def params_of_dependencies(model):
    params = {name: one.params for name, one in by_name(model).items()}
    assert params == {"theory": ["p"], "asks": ["p"], "plain": ["q"]}


def dependencies(model):
    assert by_name(model)["asks"].required == {model.theory["theory"]}
    assert by_name(model)["plain"].required == by_name(model)["theory"].required == set()


def input_functions(model):
    functions = internals.input_functions(model)
    assert list(functions) == ["r", "q"]
    function, arguments = functions["r"]
    assert arguments == ["p", "two"] and function(p=0.5, two=2) == 1.0


def arguments(model):
    assert internals.likelihood_arguments(model.likelihood["plain"]) == {"q", "shift"}


def uses_self_arg(model):
    assert internals.likelihood_arguments(model.likelihood["asks"]) is None


def append_draws(model):
    collection = collection_of(model, [0.1, 0.2])
    internals.append_draws(collection, collection_of(model, [0.3]))
    assert collection["p"].to_list() == [0.1, 0.2, 0.3]


PRIVATE = {
    "_component_order": component_order,
    "_params_of_dependencies": params_of_dependencies,
    "_dependencies": dependencies,
    "_wrapped_input_funcs": input_functions,
    "_args": arguments,
    "_uses_self_arg": uses_self_arg,
    "_append": append_draws,
}


@pytest.mark.parametrize("name", PRIVATE)
def test_private_name(name, model):
    PRIVATE[name](model)


def test_a_name_that_is_gone_is_said_with_the_versions(model):
    with pytest.raises(LoggedError, match=rf"has no Square\._gone.* was tried with Cobaya {internals.TRIED}"):
        internals._private(model.theory["theory"], "_gone")


def foreign_names(path):
    """Private attributes that a file uses of other objects than its own instances and classes."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            own |= isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"
            if not own or node.attr in {*PRIVATE, "_rng"}:
                yield node.attr


def test_no_other_file_uses_private_names():
    folder = Path(iaemu_cobaya.__file__).parent
    # Class attributes that Cobaya documents for those who derive from its classes.
    documented = {"_at_resume_prefer_new", "_enforce_types", "_get_desc"}
    used = {
        str(path.relative_to(folder)): sorted(names)
        for path in folder.rglob("*.py")
        if path.name != "cobaya_internals.py" and (names := set(foreign_names(path)) - documented)
    }
    assert used == {}


def test_every_private_name_has_a_test():
    calls = [
        node.args[1].value
        for node in ast.walk(ast.parse(Path(internals.__file__).read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_private"
    ]
    assert set(calls) == set(PRIVATE)
