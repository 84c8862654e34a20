"""Compare four topologies on phantoms, without a notebook: python docs/example.py"""

import fedlab

if __name__ == "__main__":
    base = fedlab.Experiment(
        dataset="phantoms(cases=1000)", sites=4, quantity=0.5, prevalence=0.5, rounds=5, batch_size=16
    )
    runs = fedlab.grid(base, method=["local", "centralized", "fedavg", "cyclic"])
    table = fedlab.compare(runs)
    print(table.query("site == 'mean of sites'")[["method", "value", "low", "high"]].round(3).to_string(index=False))
    fedlab.plots.local_vs_global(runs).save("out", "local-vs-global")
