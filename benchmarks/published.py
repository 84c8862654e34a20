"""Does speed cost accuracy? The published recipe for a MedMNIST dataset, centralized and over four IID sites.

ResNet-18 at 28 x 28, Adam 1e-3, 100 epochs, a tenth of the rate after 50 and after 75, the epoch with the best
validation AUROC (Yang et al. 2023, doi:10.1038/s41597-022-01721-8, table 3). Batches of 128; with four sites of 32
each, so that a round has as many steps. Published splits as they are.

    python benchmarks/published.py breastmnist --seeds 3
"""

import argparse
from pathlib import Path

import numpy as np
from machine import page

import fedlab
from fedlab.experiments.run_folder import Run
from fedlab.learning.metrics import accuracy, auroc

HERE = Path(__file__).parent
PUBLISHED = {  # (AUROC, accuracy) on the test cases
    "breastmnist": (0.901, 0.863),
    "retinamnist": (0.717, 0.524),
    "pneumoniamnist": (0.944, 0.854),
}
SETTINGS = {  # one site and all its cases at once is centralized training, selected by its own validation AUROC
    "centralized": {"method": "centralized", "sites": 1, "batch_size": 128},
    "fedavg over 4 IID sites": {"method": "fedavg", "sites": 4, "batch_size": 32},
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
    parser.add_argument("--folder", default="out/published", help="where the runs are kept, or are already")
    given = parser.parse_args()
    published = PUBLISHED[given.dataset]
    lines = ["| training | seed | AUROC | accuracy |", "| --- | --- | --- | --- |"]
    lines.append(f"| published, centralized | mean | {published[0]:.3f} | {published[1]:.3f} |")
    for name, settings in SETTINGS.items():
        experiment, found = recipe(given.dataset, given.rounds).with_(**settings), []
        for seed in range(given.seeds):
            found.append(scored(fedlab.run(experiment.with_(seed=seed), folder=given.folder)))
            lines.append(f"| {name} | {seed} | {found[-1][0]:.4f} | {found[-1][1]:.4f} |")
            print(lines[-1], flush=True)
        mean, error = np.mean(found, 0), np.std(found, 0, ddof=1) / len(found) ** 0.5
        cells = [f"{value:.4f} (standard error {spread:.4f})" for value, spread in zip(mean, error, strict=True)]
        lines.append(f"| {name} | mean | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    path = HERE / "results" / f"published-{given.dataset}.md"
    page(path, f"The published recipe on {given.dataset}", "\n".join(lines))


if __name__ == "__main__":
    main()
