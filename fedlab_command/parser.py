"""The arguments of the command `fedlab`, and the help that teaches them; imports nothing of fedlab."""

import argparse
import textwrap
from collections.abc import Sequence

from fedlab_command.completion import SHELLS

WIDTH = 100  # characters of a line of help
ABOUT = """\
Federated learning in medical imaging: list what there is, run experiments, look at run folders.

An experiment is a YAML file with a line for each field of fedlab.Experiment that differs from its default:

    dataset: phantoms(cases=600)
    prevalence: 0.6
    method: fedprox(mu=0.01)
    rounds: 10

    fedlab run experiment.yaml seed=1
    fedlab grid experiment.yaml method=local,fedavg seed=0,1,2
    fedlab compare out/runs
"""
FOLDER = "where run folders are kept (default: $FEDLAB_RUNS, else out/runs)"
CODE = "a Python file that registers methods, models, ... of your own; repeat it for several files"
FIELDS = """\
A value is written as in YAML: lr=0.1, patience=null, class_weights='[1, 2]'. Quote what the shell would read itself,
such as method='fedprox(mu=0.01)'. `fedlab fields` lists all fields."""
LISTS = {
    "datasets": ("dataset", "phantoms", "what `dataset` can be; a folder of your own works too"),
    "methods": ("method", "fedprox", "what `method` can be: federated, decentralized, split, and baselines"),
    "axes": ("axis", "prevalence", "axes of heterogeneity, each a field with a dose from 0 to 1"),
    "models": ("model", "small_cnn", "what `model` can be"),
    "fields": ("field", "rounds", "all fields of an experiment, with their types, defaults and meanings"),
}


def parser() -> argparse.ArgumentParser:
    """The parser of the command; the attribute `command` names the subcommand, None if there is none."""
    whole = _Parser(prog="fedlab", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for plural, (singular, example, meaning) in LISTS.items():
        text = f"List {plural}, one a line; with a name, show all that is written about it: {meaning}."
        one = _command(commands, plural, f"list {plural}", text, f"fedlab {plural}\nfedlab {plural} {example}")
        one.add_argument("name", nargs="?", help=f"name of a {singular}" if singular != "axis" else "name of an axis")
    _add_run(commands)
    _add_grid(commands)
    _add_status(commands)
    _add_compare(commands)
    _add_report(commands)
    _add_reproduce(commands)
    _add_completion(commands)
    return whole


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments; fields and folders may stand before and after options."""
    whole = parser()
    given, left = whole.parse_known_args(arguments)
    many = getattr(given, "fields", None) if hasattr(given, "fields") else getattr(given, "folders", None)
    if left and (many is None or any(text.startswith("-") for text in left)):
        wrong = next((text for text in left if text.startswith("-")), left[0])
        whole.error(f"cannot use {wrong!r}: see `fedlab {given.command or ''} --help`".replace("  ", " "))
    if left and many is not None:
        many += left
    return given


class _Parser(argparse.ArgumentParser):
    """Full names of options only, and an error in one line."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"allow_abbrev": False, **options})  # type: ignore[arg-type]


def _command(
    commands: "argparse._SubParsersAction[_Parser]", name: str, short: str, text: str, example: str
) -> _Parser:
    """A subcommand with a line in the list of commands, a text and an example."""
    paragraphs = [textwrap.fill(part, WIDTH, break_on_hyphens=False) for part in text.split("\n\n")]
    added: _Parser = commands.add_parser(
        name,
        help=short,
        description="\n\n".join(paragraphs),
        epilog="example:\n" + textwrap.indent(example, "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return added


def _add_run(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = (
        "Train and evaluate one experiment, and print its run folder. A finished identical run is not trained again; an"
        f" interrupted one resumes after its last finished round.\n\n{FIELDS}"
    )
    example = "fedlab run experiment.yaml\nfedlab run experiment.yaml method='fedprox(mu=0.01)' rounds=5 seed=1"
    one = _command(commands, "run", "train one experiment", text, example)
    one.add_argument("experiment", metavar="EXPERIMENT.yaml", help="fields of the experiment, one a line")
    one.add_argument("fields", nargs="*", metavar="field=value", help="fields that replace those of the file")
    _add_training(one)


def _add_grid(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = (
        "Train every combination of some fields, and print the run folders, the last field fastest. Finished runs are"
        f" kept, interrupted ones resume.\n\nValues are separated by commas. {FIELDS}"
    )
    example = (
        "fedlab grid experiment.yaml method=local,fedavg seed=0,1,2\n"
        "fedlab grid experiment.yaml method='fedavg,fedprox(mu=0.01)' prevalence=0,0.5,1 --workers 4"
    )
    one = _command(commands, "grid", "train all combinations of some fields", text, example)
    one.add_argument("experiment", metavar="EXPERIMENT.yaml", help="the fields that all runs share")
    one.add_argument("fields", nargs="+", metavar="field=a,b,c", help="fields and their values")
    one.add_argument("--workers", type=int, default=1, help="runs at a time, each in its own process (default: 1)")
    _add_training(one)


def _add_training(one: _Parser) -> None:
    one.add_argument("--folder", metavar="RUNS", help=FOLDER)
    one.add_argument("--code", action="append", default=[], metavar="FILE.py", help=CODE)
    one.add_argument("--quiet", action="store_true", help="no line of progress, which only terminals get anyway")


def _add_status(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = (
        "Say of each run in a folder whether it is finished or interrupted, when it last wrote, and how good it is:"
        " the headline metric on validation cases, mean over sites, after the last round."
    )
    one = _command(commands, "status", "list the runs of a folder", text, "fedlab status out/runs")
    one.add_argument("folder", nargs="?", metavar="FOLDER", help=FOLDER)


def _add_compare(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = (
        "Compare methods at every site, with 95 % intervals and paired differences, as fedlab.compare does. The runs"
        " are of one federation, at most one for each method and seed."
    )
    example = (
        "fedlab compare out/runs\nfedlab compare out/runs --metric auroc --metric ece\n"
        "fedlab compare out/runs --csv > table.csv"
    )
    one = _command(commands, "compare", "compare methods at every site", text, example)
    one.add_argument("folders", nargs="+", metavar="FOLDER", help="run folders, or folders that hold run folders")
    one.add_argument("--metric", action="append", help="a metric (default: the headline metric); repeat it for several")
    one.add_argument("--reference", default="local", help="method to which differences are taken (default: local)")
    one.add_argument("--csv", action="store_true", help="print all columns as comma-separated values")
    one.add_argument("--code", action="append", default=[], metavar="FILE.py", help=CODE)


def _add_report(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = (
        "Write one HTML file on finished runs, which opens without a network: the finding, figures, the verdict of each"
        " site, tables, warnings, and how to run it again. Prints its path."
    )
    example = "fedlab report out/runs\nfedlab report out/runs --file results.html --metric auroc"
    one = _command(commands, "report", "write a report as one HTML file", text, example)
    one.add_argument("folders", nargs="+", metavar="FOLDER", help="run folders, or folders that hold run folders")
    one.add_argument("--file", default="report.html", help="what to write (default: report.html)")
    one.add_argument("--metric", help="a metric (default: the headline metric)")
    one.add_argument("--margin", type=float, default=0.02, help="the largest difference that would not matter")
    one.add_argument("--code", action="append", default=[], metavar="FILE.py", help=CODE)


def _add_reproduce(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = (
        "Train a finished run again from what its folder holds, in a new folder, and say what agrees: partition,"
        " rounds, headline metric, predictions, weights and ledger, bit for bit or by how much, and the first round"
        " that differs. What is missing or has another version is said before training. The exit code is 0 if all"
        " agrees, and 1 if not."
    )
    example = "fedlab reproduce out/runs/RUN\nfedlab reproduce out/runs/RUN --code my_method.py --tolerance 1e-6"
    one = _command(commands, "reproduce", "train a finished run again and say what agrees", text, example)
    one.add_argument("run", metavar="RUN", help="a run folder, as `fedlab run` prints it")
    one.add_argument("--into", metavar="RUNS", help="where the new run folder is kept (default: RUN-again)")
    one.add_argument("--dataset", help="where the dataset is now (default: where it was)")
    one.add_argument("--tolerance", type=float, default=0.0, help="largest difference that agrees (default: 0)")
    one.add_argument("--code", action="append", default=[], metavar="FILE.py", help=CODE)
    one.add_argument("--quiet", action="store_true", help="no line of progress, which only terminals get anyway")


def _add_completion(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "Print a script that makes a shell complete commands and options of fedlab after the Tab key."
    example = (
        "fedlab completion bash >> ~/.bashrc\nfedlab completion zsh >> ~/.zshrc\n"
        "fedlab completion fish > ~/.config/fish/completions/fedlab.fish"
    )
    one = _command(commands, "completion", "print the completion script of a shell", text, example)
    one.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")
