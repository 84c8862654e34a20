"""Training at many sites on one machine: in turn, on threads, stacked, or as CUDA graphs, with the same results."""
