"""Does speed cost accuracy? The published recipe for a MedMNIST dataset, centralized and over four alike sites.

ResNet-18 at 28 x 28, Adam 1e-3, 100 epochs, a tenth of the rate after 50 and after 75, the epoch with the best
validation AUROC (Yang et al. 2023, doi:10.1038/s41597-022-01721-8, table 3). Batches of 128; with four sites of 32
each, so that a round has as many steps. Published splits as they are. One line a run as it ends:

    python benchmarks/published.py breastmnist --seeds 3
"""

import argparse

import numpy as np

import fedlab
from fedlab.metrics import accuracy, auroc
from fedlab.runs import Run

PUBLISHED = {  # (AUROC, accuracy) on the test cases
    "breastmnist": (0.901, 0.863),
    "retinamnist": (0.717, 0.524),
    "pneumoniamnist": (0.944, 0.854),
}
SETTINGS = {  # one site and all its cases at once is centralized training, selected by its own validation AUROC
    "centralized": {"method": "centralized", "sites": 1, "batch_size": 128},
    "fedavg over 4 alike sites": {"method": "fedavg", "sites": 4, "batch_size": 32},
}


def recipe(dataset: str, rounds: int) -> fedlab.Experiment:
    """The published training, with one round an epoch."""
    return fedlab.Experiment(
        dataset=dataset, leakage="allow", model="resnet18", normalisation="global", rounds=rounds, optimizer="adam",
        lr=1e-3, schedule="step(factor=0.1)",
    )  # fmt: skip


def scored(run: Run) -> tuple[float, float]:
    """(AUROC, accuracy) over all test cases, of the round that did best on the validation cases."""
    p = run.predictions
    p = p[(p.split == "test") & (p.choice == "best") & (p.model == "global")]
    columns = p[[f"p{c}" for c in range(len(run.classes))]].to_numpy()
    y = p.label.to_numpy()
    return float(auroc(y, columns)), float(accuracy(y, columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(PUBLISHED))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--folder", default="out/published")
    parser.add_argument("--only", choices=sorted(SETTINGS))
    given = parser.parse_args()
    print(f"published: AUROC {PUBLISHED[given.dataset][0]}, accuracy {PUBLISHED[given.dataset][1]}")
    for name, settings in SETTINGS.items():
        if given.only in (None, name):
            asked = recipe(given.dataset, given.rounds).with_(**settings)
            found = []
            for seed in range(given.seeds):
                found.append(scored(fedlab.run(asked.with_(seed=seed), folder=given.folder)))
                print(f"{name}, seed {seed}: AUROC {found[-1][0]:.4f}, accuracy {found[-1][1]:.4f}", flush=True)
            mean, sd = np.mean(found, 0), np.std(found, 0, ddof=1) if len(found) > 1 else np.full(2, np.nan)
            print(f"{name}: AUROC {mean[0]:.4f} (sd {sd[0]:.4f}), accuracy {mean[1]:.4f} (sd {sd[1]:.4f})", flush=True)


if __name__ == "__main__":
    main()
