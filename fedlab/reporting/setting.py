"""What was compared, and how to run it again."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from fedlab.core import files
from fedlab.core.summary import plural
from fedlab.experiments.experiment import DESCRIBED, Experiment
from fedlab.experiments.run_folder import ABOUT, Run
from fedlab.heterogeneity.axes import AXES
from fedlab.reporting.gather import Federation, names_of
from fedlab.reporting.markup import Markup, element, folded
from fedlab.reporting.pieces import facts

NOTEBOOK = "notebooks/51-global-versus-local.ipynb"
MAIN = ("python", "fedlab-workbench", "torch", "on")  # all others are in the details
TRAINING = (
    "model",
    "local_epochs",
    "local_steps",
    "batch_size",
    "optimizer",
    "lr",
    "schedule",
    "augment",
    "normalisation",
)


def compared(federation: Federation) -> Markup:
    """Dataset, licence, sites, doses, methods, seeds, dates and versions."""
    runs, part = federation.runs, federation.partition
    one = runs[0].experiment
    card = part.cases.card if part is not None else {}
    sites = list(dict.fromkeys(runs[0].partition_table["site"])) if part is None else part.sites
    trained = [site for site in sites if site not in runs[0].unseen]
    known = {
        "Dataset": called(federation) + (f" ({one.dataset})" if one.dataset != called(federation) else ""),
        "Cases": _counts(federation),
        "Patients": unknown_patients(federation),
        "Caution": sentence(card.get("caution", "")),
        "Licence": card.get("licence", "" if card else f"not known: {federation.missing}"),
        "Source": card.get("source", ""),
        "Citation": card.get("citation", ""),
        "Task": f"{runs[0].task}: {runs[0].target or names_of(runs[0].structures[1:] or runs[0].classes)}",
        "Sites": f"{len(trained)}: {names_of(trained)}",
        "Held-out sites": names_of(runs[0].unseen),
        "Heterogeneity": f"{doses(runs[0])} (0: none, 1: most)" if doses(runs[0]) else "none was simulated",
        "Splits": f"{runs[0].partition_spec.get('splits', one.splits)}, partition seed {one.partition_seed}",
        "Methods": names_of(dict.fromkeys(run.method for run in runs)),
        "Seeds": names_of(sorted({int(run.experiment.seed) for run in runs})),
        "Rounds": names_of(sorted({int(run.experiment.rounds) for run in runs})),
        "Training": "; ".join(f"{name} {_values(runs, name)}" for name in TRAINING if _values(runs, name) != "None"),
        "Trained": " to ".join(dict.fromkeys((dates(runs)[0], dates(runs)[-1]))),
        "Computed with": versions(runs, MAIN),
    }
    return facts(known)


def called(federation: Federation) -> str:
    """The title of the dataset, or the name under which it was loaded."""
    part = federation.partition
    return str((part.cases.card if part is not None else {}).get("title", federation.runs[0].experiment.dataset))


def _counts(federation: Federation) -> str:
    """How many cases and patients there are, and how many of them are at a site."""
    assigned = f"{plural(len(federation.runs[0].partition_table), 'case')} at sites"
    if federation.partition is None:
        return assigned
    cases = federation.partition.cases
    units = len(set(cases.units.tolist()))
    counted = f" of {plural(units, 'patient')}" if "patient" in cases.table else ""
    return f"{plural(len(cases), 'case')}{counted}, {assigned}"


def unknown_patients(federation: Federation) -> str:
    """What holds of a dataset that does not say which patient a case is of; empty if it does, or is not known."""
    part = federation.partition
    if part is None or "patient" in part.cases.table:
        return ""
    units = plural(len(set(part.cases.units.tolist())), "patient")
    return (
        f"not named by the dataset: each different image counts as a patient, {units} in all. If several images are of"
        " one patient, intervals are too narrow, and splits may share patients."
    )


def sentence(text: object) -> str:
    """A text with a capital letter."""
    return f"{str(text)[:1].upper()}{str(text)[1:]}"


def doses(run: Run) -> str:
    """The axes that are not at dose 0, with their doses."""
    spec = run.partition_spec
    return ", ".join(f"{axis} {spec[axis]}" for axis in AXES if spec.get(axis))


def _values(runs: list[Run], name: str) -> str:
    """The values of a field in all runs."""
    return " or ".join(dict.fromkeys(str(getattr(run.experiment, name)) for run in runs))


def dates(runs: Iterable[Run]) -> list[str]:
    """The days on which the runs were finished, ascending."""
    times = ((run.folder / ABOUT).stat().st_mtime for run in runs)
    return sorted({datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%d") for time in times})


def versions(runs: list[Run], names: Sequence[str] = ()) -> str:
    """Versions and hardware of all runs, or of these packages; "or" between those that differ."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        written = files.read_json(run.folder / "environment.json")
        facts = {"python": written.get("python"), **written.get("packages", {}), "on": written.get("device")}
        for name, version in facts.items():
            if names and name not in names:
                continue
            found.setdefault(name, {})[str(version)] = None
    return ", ".join(f"{name} {' or '.join(versions)}" for name, versions in found.items())


# -- how to run it again ---------------------------------------------------------------------------------------------


def again(federation: Federation) -> Markup:
    """The experiment as YAML for papermill, and as Python."""
    runs = federation.runs
    fields = differing(runs)
    written = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    own = sorted({name for run in runs for name in run.code})
    remarks = []
    if runs[0].partition_spec.get("sites") == "explicit":
        remarks.append("The sites were given case by case: pass the same partition as partition= to fedlab.grid.")
    if own:
        remarks.append(f"Define these functions of your own first: {', '.join(own)}.")
    return folded(
        "How to run it again",
        *(element("p", remark, kind="note") for remark in remarks),
        element("p", f"Trained with {versions(runs)}."),
        element("p", "In Python; finished runs are loaded, not trained again:"),
        element("pre", python(runs, fields)),
        element("p", "Without a screen, with these lines as setting.yaml:"),
        element("pre", written),
        element("pre", f"papermill {NOTEBOOK} out.ipynb -f setting.yaml"),
    )


def differing(runs: list[Run]) -> dict[str, Any]:
    """The fields that all runs share and that are not at their defaults."""
    left_out = {"method", "seed"} | ({*DESCRIBED[1:]} if runs[0].partition_spec.get("sites") == "explicit" else set())
    values = [run.experiment.model_dump(exclude=left_out) for run in runs]
    defaults = Experiment.model_fields
    return {
        name: value
        for name, value in values[0].items()
        if all(other[name] == value for other in values) and (name == "dataset" or value != defaults[name].default)
    }


def python(runs: list[Run], fields: dict[str, Any]) -> str:
    """The lines that train these runs."""
    axes: dict[str, list[Any]] = {"method": list(dict.fromkeys(run.method for run in runs))}
    axes["seed"] = sorted({int(run.experiment.seed) for run in runs})
    explicit = ", partition=part" if runs[0].partition_spec.get("sites") == "explicit" else ""
    given = "".join(f"    {name}={value!r},\n" for name, value in fields.items())
    grid = ", ".join(f"{name}={value!r}" for name, value in axes.items())
    return (
        f"import fedlab\n\nbase = fedlab.Experiment(\n{given})\n"
        f"runs = fedlab.grid(base{explicit}, {grid})\nfedlab.report(runs)"
    )
