"""Tables from finished runs: comparison, communication, client drift, leakage of split learning."""
