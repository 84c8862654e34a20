"""Every topology as a generator that reads like its paper's pseudo-code. A new method is a new function here."""

from fedlab.algorithms import averaging, baselines, cyclic, personalized, split, swarm
from fedlab.algorithms.registry import METHODS, algorithm, check_secure, start

__all__ = [
    "METHODS",
    "algorithm",
    "averaging",
    "baselines",
    "check_secure",
    "cyclic",
    "personalized",
    "split",
    "start",
    "swarm",
]
