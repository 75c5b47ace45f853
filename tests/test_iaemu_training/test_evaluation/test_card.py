"""Model cards say what the artifact says."""

import hashlib

from iaemu.artifact import shipped_artifact
from iaemu.models.factorised import Emulator
from iaemu_training.commands.iaemu_train import main
from iaemu_training.evaluation.card import accuracy_in_words


def test_card_of_the_shipped_emulator(capsys):
    assert main(["card", "factorised-pm160"]) == 0
    card = capsys.readouterr().out
    content = shipped_artifact("factorised-pm160.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() in card
    held_out = Emulator.load().metadata["held_out"]["inside"]["omega"]
    assert f"| omega | {held_out['median']:.2%} |" in card
    assert "| logMmin | 11.5 to 14 |" in card
    assert "8.192e+06 (Mpc/h)^3" in card
    assert "iaemu train fit" in card and "iaemu-train" not in card
    words = accuracy_in_words(Emulator.load().metadata["held_out"])
    assert f"{100 * held_out['p95']:.2g} % of omega" in words


def test_card_of_the_papers_network(capsys):
    assert main(["card", "iaemunet-pm160"]) == 0
    assert "- epistemic: the scatter between 50 passes with dropout" in capsys.readouterr().out


def test_card_to_a_file_and_of_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["card", "factorised-pm160", "-o", str(tmp_path / "card.md")]) == 0
    assert (tmp_path / "card.md").read_text().startswith("# factorised-pm160")
    assert main(["card", str(tmp_path / "none.safetensors")]) == 1
    assert "Shipped are box-error-pm160, factorised-pm160, iaemunet-pm160, tables-pm160" in capsys.readouterr().err
