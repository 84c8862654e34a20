"""The command `fedlab`: list what there is, run experiments, look at run folders.

The arguments are read without fedlab itself, whose import takes seconds: help and misspelt commands are answered at
once.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from fedlab_command.completion import script
from fedlab_command.parser import parse, parser

__all__ = ["main"]

INTERRUPTED = 130  # exit code of a command that was stopped with Ctrl-C, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 if `reproduce` finds a difference, 2 after a message, 130 if stopped.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows `fedlab` on the command line; by default that of this process.

    Returns
    -------
    int

    Examples
    --------
    >>> from fedlab_command import main
    >>> main(["fields", "lr"])
    lr : float, default 0.05
    Learning rate of a local step, 0 or more.
    0
    """
    given = parse(arguments)
    if given.command is None:
        parser().print_help()
        return 2
    if given.command == "completion":
        print(script(parser(), given.shell), end="")
        return 0
    try:
        from fedlab_command import commands

        with commands.plain_warnings():
            code = int(commands.COMMANDS[given.command](given) or 0)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"\nfedlab {given.command}: interrupted; {_left(given)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has enough, as in `fedlab methods | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not type(error).__module__.startswith("fedlab."):
            raise
        print(f"fedlab {given.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _left(given: argparse.Namespace) -> str:
    """What an interrupted command leaves, and how it goes on."""
    kept = getattr(sys.modules.get("fedlab_command.commands"), "kept", None)  # missing before anything began
    return "nothing had begun: give the same command again" if kept is None else str(kept(given))
