"""Which runs may be put together: runs of one federation, and of each method the seeds of one setting.

Federations are distinguished by the fingerprint of what was realised (labels, pixels, masks, sites, splits, scanners,
readers), which every run stores, never by the name of a dataset or the settings of a partition.
"""

from collections.abc import Sequence
from typing import Any

from fedlab.core.registry import nearest
from fedlab.experiments.run_folder import Run
from fedlab.partitioning.build import ARGUMENTS

FEDERATION_FIELDS = {"dataset", "partition_seed", *ARGUMENTS} - {"seed"}  # fields whose effect a fingerprint covers
NOT_COMPARED = {"seed", "execution"}  # seeds are averaged; execution changes speed, not results
UNKNOWN = ["pixels, masks, readers or other facts of the cases"]  # in runs that store one fingerprint for all
SHOWN = 60  # characters of a value in a message


def check_one_federation(runs: Sequence[Run]) -> None:
    """Raise ValueError unless all runs have the same cases, pixels, masks, sites, splits, scanners and readers."""
    if not runs:
        raise ValueError("there are no runs to compare: pass the runs of one grid")
    first = runs[0]
    for run in runs[1:]:
        if not _same_federation(run, first):
            raise ValueError(
                f"{_name(run)} and {_name(first)} differ in {' and in '.join(differences(run, first) or UNKNOWN)}:"
                " compare runs of one federation, that is, one dataset, one partition, and the same scanners, readers"
                " and held-out sites"
            )


def by_setting(runs: Sequence[Run], by: str | None = None) -> dict[str, list[Run]]:
    """Group runs by method, in the order they were passed; the runs of a method by ascending seed.

    by: a field of the experiment that becomes part of the method's name. ValueError if runs of one name differ in
    anything but their seed.
    """
    groups: dict[str, list[Run]] = {named(run, by): [] for run in runs}
    for run in sorted(runs, key=lambda run: int(run.experiment.seed)):
        group = groups[named(run, by)]
        if group:
            check_one_setting(group[0], run, by)
        if group and group[-1].experiment.seed == run.experiment.seed:
            raise ValueError(
                f"two runs of {run.method!r} have seed {run.experiment.seed} and the same settings: pass each run once"
            )
        group.append(run)
    return groups


def check_only_seeds_differ(runs: Sequence[Run]) -> None:
    """Raise ValueError if runs of one method differ in anything but their seed."""
    first: dict[str, Run] = {}
    for run in runs:
        check_one_setting(first.setdefault(run.method, run), run, argument="")


def check_one_setting(run: Run, other: Run, by: str | None = None, argument: str = "by") -> None:
    """Raise ValueError if two runs of one method differ in anything but their seed; argument: that names a field."""
    one, two = _settings(run), _settings(other)
    fields = [name for name in {**one, **two} if one.get(name) != two.get(name) and name not in ("method", by)]
    if not fields:
        return
    shown = [f"{name} ({_short(one.get(name))} and {_short(two.get(name))})" for name in fields]
    remedy = "compare one setting at a time"
    if by is None and argument and fields[0] in type(run.experiment).model_fields:
        remedy += f", or name the field with {argument}={fields[0]!r}"
    raise ValueError(
        f"runs of {run.method!r} differ in {', '.join(shown)}: only runs that differ in nothing but their seed are put"
        f" together, so {remedy}"
    )


def named(run: Run, by: str | None) -> str:
    """The name of a run's method, with the field that is compared."""
    if by is None:
        return run.method
    fields = type(run.experiment).model_fields
    if by not in fields:
        raise ValueError(f"by is {by!r}, no field of an experiment: {nearest(by, fields)}")
    return f"{run.method} ({by}={getattr(run.experiment, by)})"


def differences(run: Run, other: Run) -> list[str]:
    """What the federations of two runs differ in, in words, as far as the runs store it."""
    found = []
    classes, unseen = ([list(getattr(each, name, ())) for each in (run, other)] for name in ("classes", "unseen"))
    if classes[0] != classes[1]:
        found.append(f"classes ({_short(classes[0])} and {_short(classes[1])})")
    if moved := _assignment(run) ^ _assignment(other):
        count = len({case for case, *_ in moved})
        found.append(f"sites or splits ({count:,} case{'s' * (count != 1)} at different sites or in different splits)")
    if unseen[0] != unseen[1]:
        found.append(f"held-out sites ({_short(unseen[0])} and {_short(unseen[1])})")
    one, two = (getattr(each, "fingerprints", {}) for each in (run, other))
    parts = {part for part in {**one, **two} if one.get(part) and two.get(part) and one[part] != two[part]}
    if "pixels" not in parts and "dataset" in parts and not found:
        found.append("labels, masks or other columns of the cases")
    found += [part for part in ("pixels", "scanners", "readers") if part in parts]
    return found or _requested(run, other)


def _requested(run: Run, other: Run) -> list[str]:
    """The settings of dataset, scanners and readers that differ."""
    named = {"dataset": "dataset", "acquisition": "scanners: acquisition", "annotation": "readers: annotation"}
    values = {name: (getattr(run.experiment, name, 0.0), getattr(other.experiment, name, 0.0)) for name in named}
    return [f"{named[name]} ({_short(a)} and {_short(b)})" for name, (a, b) in values.items() if a != b]


def _same_federation(run: Run, other: Run) -> bool:
    one, two = (getattr(each, "partition_fingerprint", None) for each in (run, other))
    if one and two:
        return bool(one == two)
    return not differences(run, other)  # runs of early versions


def _settings(run: Run) -> dict[str, Any]:
    """All that decides a result besides federation and seed: fields, and the versions of the user's own code."""
    experiment = run.experiment
    fields = dict(experiment.model_dump() if hasattr(experiment, "model_dump") else vars(experiment))
    left_out = NOT_COMPARED | (FEDERATION_FIELDS if getattr(run, "partition_fingerprint", None) else set())
    code = {f"the code of {name}": version for name, version in getattr(run, "code", {}).items()}
    if version := getattr(run, "weights_version", ""):
        fields["weights"] = version
    return {name: value for name, value in fields.items() if name not in left_out} | code


def _assignment(run: Run) -> set[tuple[Any, ...]]:
    """(case, site, split) of each assigned case."""
    table = run.partition_table
    return set(zip(table["case"], table["site"], table["split"], strict=True))


def _name(run: Run) -> str:
    return f"{run.method!r} (seed {run.experiment.seed})"


def _short(value: Any) -> str:
    """A value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
