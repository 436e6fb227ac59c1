"""CUDA graphs: capturing steps and replaying them."""
