"""``segjax completion bash | zsh``: a script that completes commands, flags and knobs.

The script holds every name, so that pressing Tab starts no Python; make it anew after
an update. zsh runs the same function through its bashcompinit.
"""

import argparse
import re

from segjax import config as configs
from segjax.listing import catalogue

FILES = ("FILE", "DIR", "FILE_OR_DIR", "A", "B")

SCRIPT = """\
# segjax completion for {shell}. To have it in every shell:
#   echo 'source <(segjax completion {shell})' >> ~/.{shell}rc
{before}\
_segjax_values() {{
  case "$1" in
{knobs}
  esac
}}

_segjax_words() {{
  case "$1" in
{flags}
  esac
}}

_segjax_argument() {{
  case "$1 $2" in
{arguments}
  esac
}}

_segjax() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[1]}}" key="" value="" start="" found IFS=$' \\t\\n'
  COMPREPLY=()
  # bash takes --config.KEY=VALUE for three words, zsh for one.
  if [[ $before == = ]]; then key="${{COMP_WORDS[COMP_CWORD-2]}}" value="$word"
  elif [[ $word == = ]]; then key="$before"
  elif [[ $word == --config.*=* ]]; then key="${{word%%=*}}" value="${{word#*=}}"
  fi
  if [[ -n $key ]]; then
    [[ $word == --config.*=* ]] && start="$key="
    for found in $(_segjax_values "${{key#--config.}}"); do
      [[ $found == "$value"* ]] && COMPREPLY+=("$start$found")
    done
  elif [[ $COMP_CWORD == 1 && $word != -* ]]; then
    COMPREPLY=($(compgen -W "{commands}" -- "$word"))
  elif [[ $word == --config.* ]]; then
    COMPREPLY=($(compgen -S = -W "{keys}" -- "$word"))
    type compopt > /dev/null 2>&1 && compopt -o nospace
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$(_segjax_words "$command")" -- "$word"))
  else
    found=$(_segjax_argument "$command" "$before")
    # Without an answer the shell completes file names itself.
    [[ $found == :files ]] || COMPREPLY=($(compgen -W "$found" -- "$word"))
  fi
}}
complete -o default -F _segjax segjax
"""

BEFORE = {
    "bash": "",
    "zsh": "autoload -Uz compinit bashcompinit && compinit -u && bashcompinit\n",
}


def values() -> dict[str, tuple[str, ...]]:
    """Knob -> what it may be, where these are names."""
    from segjax.losses import LOSSES

    known = catalogue()
    found = dict(configs.CHOICES)
    for key, value in configs.flatten(configs.default()).items():
        if isinstance(value, bool):
            found[key] = ("True", "False")
    found["model.encoder"] = tuple(known["encoders"])
    found["model.decoder"] = tuple(known["decoders"])
    found["loss.name"] = tuple(LOSSES)
    return found


def words(action: argparse.Action) -> str:
    """What may follow a flag: names, ``:files``, or nothing that is known."""
    known = catalogue()
    for kind in ("encoder", "decoder"):
        if f"--{kind}" in action.option_strings:
            return " ".join(known[f"{kind}s"])
    if action.choices is not None:
        return " ".join(map(str, action.choices))
    names = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
    shown = str(names[0])
    if shown.split(".")[0] in FILES:
        return ":files"
    # best|latest|STEP: STEP stands for something else.
    return " ".join(re.findall(r"\b[a-z]+\b", shown)) if "|" in shown else ""


def _case(table: dict[str, str]) -> str:
    return "\n".join(
        f"    '{name}') echo '{text}' ;;" for name, text in table.items() if text
    )


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell: "bash" or "zsh"."""
    (commands,) = (
        action
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    flags, arguments = {}, {}
    for name, command in commands.choices.items():
        flags[name] = " ".join(s for a in command._actions for s in a.option_strings)
        for action in command._actions:
            for option in action.option_strings:
                arguments[f"{name} {option}"] = words(action)
            if not action.option_strings:
                arguments[f"{name} {name}"] = words(action)
    keys = [f"--config.{key}" for key in configs.flatten(configs.default())]
    return SCRIPT.format(
        shell=shell,
        before=BEFORE[shell],
        knobs=_case({key: " ".join(found) for key, found in values().items()}),
        flags=_case(flags),
        arguments=_case(arguments),
        commands=" ".join(commands.choices),
        keys=" ".join(keys),
    )
