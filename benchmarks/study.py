"""A study of 7 axes x 5 doses x 6 methods x 5 seeds: 870 runs of a small CNN, two at a time.

python benchmarks/study.py                       # in two processes; stopped and started again, it resumes
python benchmarks/study.py --how dask --folder out/dask   # on a Dask cluster of two processes
python benchmarks/study.py --compare out/dask    # whether two folders hold the same results
"""

import argparse
import time
import warnings

import fedlab

DOSES = [0.0, 0.25, 0.5, 0.75, 1.0]
METHODS = ["local", "centralized", "fedavg", "fedprox(0.1)", "scaffold", "cyclic"]
BASE = {"dataset": "phantoms(300, 16)", "sites": 3, "rounds": 2, "lr": 0.2, "splits": "common", "evaluate_every": 2}


def study(folder: str) -> fedlab.Study:
    axes = {axis: DOSES for axis in fedlab.AXES}
    return fedlab.Study(fedlab.Experiment(**BASE), folder=folder, **axes, method=METHODS, seed=range(5))


def same(one: fedlab.Study, two: fedlab.Study) -> int:
    """How many runs of two studies have the same rounds and predictions to the last bit."""
    pairs = zip(one.runs, two.runs, strict=True)
    rounds = [[run.rounds.drop(columns="seconds") for run in pair] for pair in pairs]
    equal = [first.equals(second) for first, second in rounds]
    return sum(a.predictions.equals(b.predictions) and e for a, b, e in zip(one.runs, two.runs, equal, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--how", choices=("processes", "dask"), default="processes")
    parser.add_argument("--folder", default="out/study")
    parser.add_argument("--compare", metavar="FOLDER", help="train nothing; compare with the runs of another folder")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    one = study(given.folder)
    print(one, flush=True)
    if given.compare:
        two = study(given.compare)
        tables = one.table(shift=False).equals(two.table(shift=False))
        print(f"{same(one, two)} of {len(one.runs)} runs the same; tables {'the same' if tables else 'differ'}")
        return
    begun = time.perf_counter()
    if given.how == "processes":
        one.run(live=True, workers=2)
    else:
        from distributed import Client, LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as to:
            one.run(live=True, client=to)
    print(f"\n{time.perf_counter() - begun:.0f} s", one.status()["state"].value_counts().to_dict())


if __name__ == "__main__":
    main()
