"""Intervals and tests that hold their level on small test sets of single sites; the unit is always the patient.

Every interval is two-sided, 95 % unless another level is given. What each holds, and over which sizes, is simulated by
`benchmarks/coverage.py`.
"""
