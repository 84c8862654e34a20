"""Tables from finished runs: comparison of methods, communication costs, client drift, leakage of split learning."""
