"""Which file knows the twin of a model."""

from __future__ import annotations

from typing import Any

import torch

from gpubench.errors import Unsupported
from gpubench.models.base import DecodeModel
from gpubench.models.deepseek import DeepseekModel
from gpubench.models.dense import DenseModel
from gpubench.models.hybrid import HybridModel
from gpubench.models.peers.base import PeerModel, Twin
from gpubench.models.sparse import SparseModel

__all__ = ["build_peer"]


def build_peer(model: DecodeModel, device: torch.device) -> PeerModel:
    """transformers' model with the weights of `model`, which are on `device`; Unsupported where it has none."""
    return PeerModel(model, _describe(model), device)


def _describe(model: Any) -> Twin:
    if isinstance(model, DenseModel):
        from gpubench.models.peers.llama import describe as describe_llama

        return describe_llama(model)
    if isinstance(model, HybridModel):
        from gpubench.models.peers.qwen import describe as describe_qwen

        return describe_qwen(model)
    if isinstance(model, DeepseekModel):
        from gpubench.models.peers.deepseek import describe as describe_deepseek

        return describe_deepseek(model)
    if isinstance(model, SparseModel):
        from gpubench.models.peers.minimax import describe as describe_minimax

        return describe_minimax(model)
    raise Unsupported(f"backend transformers: it has no model like {type(model).__name__}; use another backend")
