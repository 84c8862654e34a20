"""Training at many sites on one machine: sequential, on a worker pool, by vmap or as CUDA graphs."""
