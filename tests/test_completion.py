"""The completion script, asked as bash asks it."""

import shlex
import shutil
import subprocess

import pytest

from segjax import config, flags, models
from segjax.completion import completion
from segjax.losses import LOSSES
from segjax.main import main

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "segjax.bash"
    path.write_text(completion(flags.parser(), "bash"))
    return path


def complete(script, *words: str) -> set[str]:
    """What bash offers for the last word; a word ends before and after each "="."""
    line = (
        f"source {script}; COMP_WORDS=(segjax {shlex.join(words)}); "
        f"COMP_CWORD={len(words)}; _segjax; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    # compopt needs a completion under way.
    errors = [e for e in done.stderr.splitlines() if "compopt" not in e]
    assert not errors, errors
    return set(done.stdout.split())


def test_commands_flags_and_arguments(script):
    assert complete(script, "") == set(flags.HELP)
    assert complete(script, "ev") == {"evaluate"}
    assert {"--workdir", "--against", "--help"} <= complete(script, "report", "--")
    assert "--against" not in complete(script, "predict", "--")
    assert complete(script, "evaluate", "--checkpoint", "") == {"best", "latest"}
    assert complete(script, "import", "--encoder", "resnet1") == {
        *("resnet18", "resnet101", "resnet152")
    }
    assert complete(script, "completion", "") == {"bash", "zsh"}
    # Nothing offered: the shell's own completion of file names takes over.
    assert complete(script, "predict", "--input", "") == set()


def test_knobs_and_their_values(script):
    keys = {f"--config.{key}=" for key in config.flatten(config.default())}
    assert complete(script, "train", "--config.") == keys
    assert complete(script, "train", "--config.optim.l") == {"--config.optim.lr="}

    def value(key: str, begun: str) -> set[str]:
        return complete(script, "train", f"--config.{key}", "=", begun)

    assert value("model.decoder", "unet") == {"unet", "unetplusplus"}
    assert complete(script, "train", "--config.model.decoder", "=") == set(
        models.names()["decoders"]
    )
    assert value("loss.name", "") == set(LOSSES)
    assert value("model.remat", "T") == {"True"}
    assert value("optim.lr", "") == set()
    # As zsh gives it: one word.
    assert complete(script, "train", "--config.data.fit=") == {
        *("--config.data.fit=pad", "--config.data.fit=resize")
    }


def test_the_command_writes_either_shell(capsys):
    for shell in ("bash", "zsh"):
        assert main(["completion", shell]) == 0
        written = capsys.readouterr().out
        assert f"segjax completion for {shell}" in written
        assert ("bashcompinit" in written) == (shell == "zsh")
