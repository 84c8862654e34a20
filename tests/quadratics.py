"""Federations whose losses are exact quadratics, F_k(w) = 1/2 (w - a_k)' A_k (w - a_k) + const, for closed forms.

Least squares on a few pixels: F_k = 1/2 mean (x w - y)^2 over the site's cases, x with a constant 1 for the bias.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from worlds import settings

from fedlab.data.cases import Cases
from fedlab.federation import Federation, federation
from fedlab.federation.sites import Site
from fedlab.learning.tasks import task_of
from fedlab.partitioning.partitions import Partition

SIZES = (24, 12, 18, 10)
NAMES = ("Site A", "Site B", "Site C", "Site D")
LR = 0.4


def _partition() -> Partition:
    rng = np.random.default_rng(5)
    n = sum(SIZES)
    images = (255 * rng.integers(0, 2, (n, 1, 2, 2))).astype(np.uint8)
    site = np.repeat(NAMES, SIZES)
    bias = np.repeat([0.2, 0.9, 0.5, 0.7], SIZES)
    labels = ((images.reshape(n, 4) @ [0.4, -0.3, 0.2, 0.1] / 255 + bias + rng.normal(0, 0.3, n)) > 0.6).astype(int)
    table = pd.DataFrame({"case": [f"case-{i:03d}" for i in range(n)], "label": labels, "split": "train"})
    card = {"name": "quadratics", "task": "binary", "classes": ["no", "yes"]}
    return Partition.from_sites(Cases(images, table, card), site)


class Quadratics:
    """The federation and what is known of it: A (K, d, d), a (K, d), p (K,) by cases."""

    def __init__(self, monkeypatch, steps: tuple[int, ...] | None = None, **changes) -> None:
        def least_squares(logits, y, reduction="mean"):
            each = 0.5 * (logits[:, 0] - y.to(logits.dtype)) ** 2
            return each.mean() if reduction == "mean" else each

        monkeypatch.setattr(federation, "task_of", lambda cases, *_: replace(task_of(cases), loss=least_squares))
        if steps is not None:
            own = dict(zip(NAMES, steps, strict=True))
            monkeypatch.setattr(Site, "steps", lambda self, settings: own[self.name])
        self.part = _partition()
        given = {"batch_size": None, "precision": "float64", "lr": LR, "rounds": 1, "local_steps": 1, **changes}
        self.fed = Federation(self.part, "logistic", settings(**given))
        self.lr, self.tau = self.fed.settings.lr, np.array(steps or [self.fed.settings.local_steps] * 4)
        self.p = self.fed.shares
        x = np.concatenate([self.part.cases.images.reshape(-1, 4) / 255.0, np.ones((sum(SIZES), 1))], 1)
        index = [site.batches.index for site in self.fed.sites]
        self.A = np.stack([x[i].T @ x[i] / len(i) for i in index])
        b = np.stack([x[i].T @ self.part.cases.labels[i] / len(i) for i in index])
        self.a = np.stack([np.linalg.solve(A, each) for A, each in zip(self.A, b, strict=True)])

    @property
    def start(self) -> np.ndarray:
        """The parameters at the start."""
        return self.fed.start.numbers.numpy()

    def left(self, k: int, mu: float = 0.0) -> np.ndarray:
        """(I - lr (A_k + mu))^tau_k: what tau_k steps leave of the distance to their goal."""
        return np.linalg.matrix_power(np.eye(5) - self.lr * (self.A[k] + mu * np.eye(5)), int(self.tau[k]))

    def optimum(self, weights) -> np.ndarray:
        """argmin of sum weights[k] F_k."""
        w = np.asarray(weights)
        return np.linalg.solve(np.tensordot(w, self.A, 1), np.einsum("k,kij,kj->i", w, self.A, self.a))

    def gradient(self, k: int, w: np.ndarray) -> np.ndarray:
        return self.A[k] @ (w - self.a[k])

    def begin_at(self, w: np.ndarray) -> None:
        """Start from these parameters."""
        self.fed.start.vector[self.fed.layout.places] = torch.from_numpy(w)
