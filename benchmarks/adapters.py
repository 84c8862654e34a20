"""What does freezing cost, and what does it save? A small network from one dataset is adapted to another at four sites.

The network is trained on pneumoniamnist (chest radiographs, centralized) and adapted by fedavg to breastmnist
(ultrasound): all of it, low-rank adapters and the last stage, or the last stage alone, each with two learning rates
where the smaller one is too small; the last row starts without the file. The site's bytes are those of one round, up
and down; AUROC is that of the test cases of the last round, mean of sites, mean over seeds with the standard error.

    python benchmarks/adapters.py --seeds 3
"""

import argparse
from pathlib import Path

import pandas as pd
from machine import page

import fedlab

RESULT = Path(__file__).parent / "results" / "adapters.md"
ROWS = (  # (from the file, trainable, learning rate)
    (True, "all", 3e-3),
    (True, "lora(rank=4)", 3e-3),
    (True, "lora(rank=4)", 3e-2),
    (True, "head", 3e-3),
    (True, "head", 3e-2),
    (False, "all", 3e-3),
)


def recipe(dataset: str, rounds: int) -> fedlab.Experiment:
    """What both trainings share."""
    return fedlab.Experiment(
        dataset=dataset, leakage="allow", model="small_cnn(width=16)", normalisation="image", rounds=rounds,
        optimizer="adam", lr=ROWS[0][2], evaluate_every=rounds,
    )  # fmt: skip


def pretrained(folder: str, rounds: int) -> str:
    """The folder of the run whose network is adapted."""
    return str(fedlab.run(recipe("pneumoniamnist", rounds).with_(method="centralized", sites=1), folder=folder).folder)


def adapted(file: str, rounds: int, seeds: int, folder: str) -> pd.DataFrame:
    """A row for each run: whether it starts from the file, what is trained, bytes of a site in a round, and AUROC."""
    base, found = recipe("breastmnist", rounds), []
    for given, text, rate in ROWS:
        one = base.with_(weights=file if given else None, trainable=text, lr=rate)
        runs = fedlab.grid(one, folder=folder, seed=list(range(seeds)))
        costs = fedlab.costs(runs, over="trainable")
        score = next(name for name in costs if "mean of sites" in name)
        for run, value in zip(runs, costs[score], strict=True):
            table = run.ledger[run.ledger["what"] == "weights"]
            size = table["bytes"].sum() / (rounds * table["site"].nunique())
            row = {"from the file": "yes" if given else "no", "trainable": text, "rate": rate}
            found.append(row | {"bytes": size, "AUROC": value})
    return pd.DataFrame(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", default="out/adapters", help="where the runs are kept, or are already")
    given = parser.parse_args()
    file = pretrained(given.folder, 5)
    table = adapted(file, given.rounds, given.seeds, given.folder)
    lines = [
        "| from the file | trainable | learning rate | bytes a site and round | AUROC |",
        "| --- | --- | --- | ---: | --- |",
    ]
    for (used, text, rate), rows in table.groupby(["from the file", "trainable", "rate"], sort=False):
        error = rows["AUROC"].std(ddof=1) / len(rows) ** 0.5
        lines.append(
            f"| {used} | `{text}` | {rate} | {rows['bytes'].iloc[0]:,.0f} | {rows['AUROC'].mean():.3f} ({error:.3f}) |"
        )
    print("\n".join(lines))
    page(RESULT, "Freezing a network that was trained elsewhere", "\n".join(lines))


if __name__ == "__main__":
    main()
