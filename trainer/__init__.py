"""What runs on every rank: balanced data-parallel training. Importing this package does not import torch.

``trainer.prepare`` turns a plain PyTorch loop into a balanced, elastic one: see docs/your-own-training.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.api import Run, prepare

__all__ = ["Run", "prepare"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    from trainer import api

    return getattr(api, name)
