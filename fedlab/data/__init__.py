"""Cases: reading them, known datasets, the embedded phantoms, and the audit for leakage."""
