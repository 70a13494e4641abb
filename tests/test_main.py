"""The command line: every command has help with examples, and they are right."""

import re
import shlex
from pathlib import Path

import jax
import pytest

from segjax import flags
from segjax.main import COMPUTING, RUN, main
from segjax.stopping import EXIT_CODE

ROOT = Path(__file__).parents[1]


def parsed(line: str):
    """What the parser makes of a line that a document shows."""
    words = shlex.split(line.split(" > ")[0], comments=True)
    assert words[0] == "segjax"
    words = [word for word in words[1:] if not word.startswith("--config.")]
    return flags.parser().parse_args(words)


def test_every_command_can_be_run_and_is_explained():
    assert list(RUN) == list(flags.HELP) == list(flags.EXAMPLES) == list(flags.FLAGS)
    assert set(COMPUTING) <= set(RUN)


@pytest.mark.parametrize("command", flags.HELP)
def test_help_shows_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for example in flags.EXAMPLES[command]:
        assert f"\n  {example}\n" in shown
        assert parsed(example).command == command


def test_the_readmes_commands_parse():
    text = re.sub(r"\\\n\s*", "", (ROOT / "README.md").read_text())
    lines = re.findall(r"^segjax [a-z].*", text, re.MULTILINE)
    assert len(lines) > 8
    assert {parsed(line).command for line in lines} <= set(RUN)


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    assert main(["evalute"]) == 2
    assert "did you mean evaluate?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["RESOURCE_EXHAUSTED: 9 GB\nmore", "INTERNAL: 1"])
def test_out_of_memory_is_one_line_with_what_to_change(text, monkeypatch, capsys):
    def fail(args, overrides):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setitem(RUN, "losses", fail)
    if text.startswith("INTERNAL"):
        with pytest.raises(jax.errors.JaxRuntimeError):
            main(["losses"])
        return
    assert main(["losses"]) == 2
    error = capsys.readouterr().err
    assert "9 GB" in error and "eval.batch_size" in error and error.count("\n") == 1


def test_help_lists_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    for code in (0, 2, 130, EXIT_CODE):
        assert re.search(rf"\b{code}\b", shown.split("Exit codes:")[1])
