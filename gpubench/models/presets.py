"""Models by name: the shapes of real ones, from their published configurations, and a tiny one for a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from gpubench.errors import ArgumentError
from gpubench.models.base import ModelConfig
from gpubench.models.dense import DenseConfig

__all__ = ["PRESETS", "Preset", "find_preset"]

Preset = Literal["tiny-dense", "llama-3.1-8b"]

PRESETS: dict[str, DenseConfig] = {
    "tiny-dense": DenseConfig(
        layers=2, hidden=128, heads=4, kv_heads=2, head_dim=32, intermediate=256, vocabulary=1024
    ),
    "llama-3.1-8b": DenseConfig(
        layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=14336, vocabulary=128256
    ),
}


def find_preset(name: str, layers: int | None = None) -> ModelConfig:
    """The config of that name, cut to its first `layers` layers if a number is given."""
    if name not in PRESETS:
        raise ArgumentError(f"model: no model {name!r}; known: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if layers is None:
        return preset
    if not 1 <= layers <= preset.layers:
        raise ArgumentError(f"layers: {name} has {preset.layers} layers, so 1 to {preset.layers}; got {layers}")
    return replace(preset, layers=layers)
