"""Triton kernels, one file each: shapes and formula, the kernel, its launcher. Outputs belong to the caller."""
