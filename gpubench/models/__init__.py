"""Decode-step models with random weights: a file per family, the shapes of real models as data in `presets`."""
