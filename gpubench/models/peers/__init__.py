"""transformers' implementations of our families, on the same weights and the same caches.

A family is one file: `describe` says which of transformers' models it is and where our weights go, and its `view_cache`
how a cache of ours looks from there. Nothing here is imported unless a cell asks for the backend.
"""
