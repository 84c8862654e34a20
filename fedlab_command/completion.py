"""Scripts that complete `fedlab` in bash, zsh and fish, made from its parser; imports nothing of fedlab."""

import argparse

SHELLS = ("bash", "zsh", "fish")
BASH = """\
_fedlab() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    case "$word" in -*) ;; *) words="$words $(compgen -f -- "$word" | tr '\\n' ' ')" ;; esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o filenames -F _fedlab fedlab
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell, to be read by it at its start."""
    commands = _commands(parser)
    if shell == "fish":
        return _fish(commands)
    cases = "\n".join(f'      {name}) words="{" ".join(_options(one))}" ;;' for name, (_, one) in commands.items())
    text = BASH.format(commands=" ".join([*commands, "--help"]), cases=cases)
    return ZSH + text if shell == "zsh" else text


def _commands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Name of each command -> (its line of help, its parser)."""
    (choices,) = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    meaning = {each.dest: each.help or "" for each in choices._choices_actions}
    return {name: (meaning[name], one) for name, one in choices.choices.items()}


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The long options of a command, and what its arguments may be where that is a choice."""
    found = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
    return found + [str(one) for action in parser._actions if action.choices for one in action.choices]


def _fish(commands: dict[str, tuple[str, argparse.ArgumentParser]]) -> str:
    """A line for each command and each of its options."""
    lines = []
    for name, (meaning, one) in commands.items():
        lines.append(f"complete -c fedlab -n __fish_use_subcommand -f -a {name} -d {_quoted(meaning)}")
        within = f"-n '__fish_seen_subcommand_from {name}'"
        for action in one._actions:
            for text in [text for text in action.option_strings if text.startswith("--")]:
                takes = "" if action.nargs == 0 else " -r"
                lines.append(f"complete -c fedlab {within} -l {text[2:]}{takes} -d {_quoted(action.help or '')}")
            if action.choices:
                lines.append(f"complete -c fedlab {within} -f -a {_quoted(' '.join(map(str, action.choices)))}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("%%", "%") + "'"
