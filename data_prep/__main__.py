"""`python -m data_prep pneumoniamnist --size 64 --limit 500`: prepare a dataset and print its folder.

`python -m data_prep NAME --help` says what a dataset is, what it needs, and which options it has.
`python -m data_prep import FOLDER ... NAME` imports images of one's own, see `data_prep.importing.command`.
"""

import argparse
import ast
import sys
import textwrap
from pathlib import Path
from typing import Any

from data_prep import explain, options, prepare, sources
from data_prep.fetch import say, show
from data_prep.importing import command
from fedlab.core.registry import nearest

WIDTH = 100  # characters of a line of help
SHOWN = 6  # datasets that have an option, before the others are counted
HELP = {
    "accept_licence": "accept the licence of the dataset",
    "classes": "number of classes",
    "limit": "largest number of cases, stratified by split and class",
    "size": "edge length in pixels or voxels; of images with masks also 96x96x12",
    "smallest_site": "smallest number of cases of a separate site",
    "source": "folder, or archive, of the files that you downloaded yourself",
    "spacing": "mm of a voxel, 1.0 or 1.5x1.5x10: images are cropped or padded to the size, else scaled to it",
    "window": "grey values: a name such as lung, LOW:HIGH or LOW%%:HIGH%%; by default that of the dataset",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 1 after a one-line message."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == [command.IMPORT]:
            command.run(given[1:])
            return 0
        if (named := next((word for word in given if word in sources()), None)) and {"-h", "--help"} & set(given):
            show(_parser(named).format_help().rstrip(), sys.stdout)
            return 0
        chosen = _chosen(given)
        if chosen.pop("list"):
            show(str(sources()), sys.stdout)
        elif "name" in chosen:
            show(str(prepare(**chosen)), sys.stdout)
        else:
            raise ValueError("name a dataset, e.g. `python -m data_prep pneumoniamnist`, or use --list")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        say(f"data_prep: {' '.join(str(error).split())}")
        return 1
    return 0


def _chosen(arguments: list[str]) -> dict[str, Any]:
    """The arguments that were given; refuses unknown ones."""
    known, unknown = _parser().parse_known_args(arguments)
    given = vars(known)
    if unknown:
        flags = [_flag(key) for key in given if key != "name"]
        raise ValueError(f"cannot use {unknown[0]!r}: {nearest(unknown[0], flags)}")
    return {key: value for key, value in given.items() if value is not None}


def _parser(named: str | None = None) -> argparse.ArgumentParser:
    """A parser with a flag for every option of one dataset, or of any."""
    about = (
        "Download and convert a public dataset into a folder that fedlab.load reads, and print that folder. For one"
        f" dataset: python -m data_prep NAME --help. For images of your own: python -m data_prep {command.IMPORT}"
        " --help"
    )
    about = about if named is None else explain(named)
    parser = command.Parser(
        prog="python -m data_prep" if named is None else f"python -m data_prep {named}",
        description="\n\n".join(textwrap.fill(part, WIDTH, break_on_hyphens=False) for part in about.split("\n\n")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if named is None:
        parser.add_argument("name", nargs="?", help="name of the dataset, see --list")
        parser.add_argument("--list", action="store_true", help="list the datasets and exit")
    parser.add_argument("--folder", type=Path, help="folder to write; by default in $FEDLAB_DATA or the user's cache")
    names = list(sources()) if named is None else [named]
    known = {name: options(name) for name in names}
    for option in sorted({option for name in names for option in known[name]}):
        defaults = {name: known[name][option] for name in names if option in known[name]}
        switch = any(isinstance(value, bool) for value in defaults.values())
        kind: dict[str, Any] = {"action": "store_true", "default": None} if switch else {"type": _value}
        parser.add_argument(_flag(option), dest=option, help=_help(option, defaults, named), **kind)
    return parser


def _help(option: str, defaults: dict[str, Any], named: str | None) -> str:
    """The help of an option, with the default of one dataset, or the datasets that have it."""
    meaning = HELP.get(option, "option")
    if named is not None:
        default = defaults[named]
        return meaning if default is None or isinstance(default, bool) else f"{meaning} (default {default})"
    names = list(defaults)
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"{meaning} (all datasets)" if len(names) == len(sources()) else f"{meaning} ({shown})"


def _flag(option: str) -> str:
    """`accept_licence` -> `--accept-licence`"""
    return f"--{option.replace('_', '-')}"


def _value(text: str) -> Any:
    """A number if the text is one, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
