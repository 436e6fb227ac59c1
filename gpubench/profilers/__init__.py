"""nsys around a worker, and its traces projected: NVTX ranges in, GPU time out."""
