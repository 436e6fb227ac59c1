"""A step captured in pieces: cut by FX at the operators that use the cache, captured for buckets of token counts."""
