"""Run a study from the command line: `python -m fedlab.studies STUDY.yaml`."""

import argparse
from collections.abc import Sequence

from fedlab.experiments.runner import run
from fedlab.studies.study import Study


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study, one of its runs, or say how far it is."""
    parser = argparse.ArgumentParser(prog="python -m fedlab.studies", description=__doc__)
    parser.add_argument("study", help="YAML with a line for each field, such as 'prevalence: [0, 0.5, 1]'")
    parser.add_argument("--folder", help="where run folders are kept, by default $FEDLAB_RUNS or out/runs")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, each in its own process")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--run", type=int, metavar="K", help="only run number K of the plan, for a job array")
    what.add_argument("--status", action="store_true", help="say how far the study is, and train nothing")
    given = parser.parse_args(arguments)
    try:
        study = Study.load(given.study, folder=given.folder)
        if given.status:
            print(study, study.status()["state"].value_counts().to_string(header=False), sep="\n")
        elif given.run is None:
            print(f"{len(study.run(live=True, workers=given.workers))} of {len(study.experiments)} runs finished")
        elif 0 <= given.run < len(study.experiments):
            print(run(study.experiments[given.run], folder=given.folder).folder)
        else:
            raise ValueError(f"run {given.run}: give a number from 0 to {len(study.experiments) - 1}")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
