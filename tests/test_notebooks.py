"""The notebooks of the site: stored without outputs, made of names and options that exist; the slow test runs them.

Their results are checked whenever the site is built, which stops at a cell or a command that fails.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from iaemu_cobaya.commands.door import main

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
notebooks = pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in NOTEBOOKS])

OURS = ("iaemu", "iaemu_training", "iaemu_cobaya")


def code_of(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def python_of(path):
    """All Python cells in one text, without magics."""
    return re.sub(r"^%.*$", "", "\n".join(code_of(path)), flags=re.M)


@notebooks
def test_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        assert not cell.get("outputs") and cell.get("execution_count") is None
    opening = notebook.cells[0].source
    assert opening.startswith("# ") and "needs" in opening and "takes" in opening


def test_the_index_lists_all():
    index = (FOLDER / "index.md").read_text()
    for path in NOTEBOOKS:
        assert f"{{doc}}`{path.stem}`" in index and re.search(rf"^{path.stem}$", index, re.M)


@notebooks
def test_names_exist(path):
    source = python_of(path)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
            module = import_module(node.module)
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing, f"{node.module} has no {missing}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "iaemu":
            assert hasattr(import_module("iaemu"), node.attr), node.attr
    for component in re.findall(r'"iaemu_cobaya\.(\w+)"', source):
        assert hasattr(import_module("iaemu_cobaya"), component), component


def shell_of(path):
    """The function that runs commands, and the commands."""
    tree = ast.parse(python_of(path))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "shell"]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "shell"]
    return functions, [ast.literal_eval(call.args[0]) for call in calls]


@notebooks
def test_commands_and_options_exist(path, capsys):
    """A command that fails stops the notebook, and all name options that they have."""
    assert not re.search(r"^(!|%%)", "\n".join(code_of(path)), re.M), "IPython goes on after a command that fails"
    functions, texts = shell_of(path)
    if texts:
        namespace = {"subprocess": subprocess}
        exec(compile(ast.Module(functions, []), str(path), "exec"), namespace)
        with pytest.raises(subprocess.CalledProcessError):
            namespace["shell"]("echo said; false | cat; echo not reached")
        assert capsys.readouterr().out == "said\n\n"
    for line in "".join(texts).replace("\\\n", " ").split("\n"):
        words = shlex.split(line.split("|")[0])
        if words[:1] != ["iaemu"]:
            continue
        with pytest.raises(SystemExit) as stop:
            main([*words[1 : 3 if words[1] == "train" else 2], "--help"])
        assert stop.value.code == 0
        known = re.findall(r"(?<![\w-])--?[a-z][\w-]*", capsys.readouterr().out)
        assert not [word for word in words if re.match(r"--?[a-z]", word) and word not in known], line


@pytest.mark.slow
@notebooks
def test_runs(path, monkeypatch):
    pytest.importorskip("ipykernel")
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    client.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
