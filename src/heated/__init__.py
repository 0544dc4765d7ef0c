"""Heated-Up Softmax Embedding (arXiv 1809.04157).

The public interface is `__all__`; each name is imported on first use.

- `HeatedSoftmax`: the loss, for any training loop
- `AlphaScheduler`: a schedule of alpha or temperature, for this loss or any other
- `SCHEDULES`, `schedule_values`: alpha as a function of progress, and its value in every epoch
- `retrieval_metrics`, `clustering_metrics`: Recall@K, MAP@R, R-precision; NMI, AMI, F1
- `load_model`, `embed`: a trained model, and the embeddings of many images
"""

from importlib import import_module
from typing import Any

# Imported on first use, so that a stage without tensors starts without loading torch.
PUBLIC = {
    "AlphaScheduler": ("heated.training.alpha_scheduler", "AlphaScheduler"),
    "HeatedSoftmax": ("heated.losses.heated_softmax", "HeatedSoftmax"),
    "SCHEDULES": ("heated.training.schedules", "SCHEDULES"),
    "clustering_metrics": ("heated.evaluation.metrics", "clustering_metrics"),
    "embed": ("heated.models.embedding_model", "embed"),
    "load_model": ("heated.models.embedding_model", "load_model"),
    "retrieval_metrics": ("heated.evaluation.metrics", "retrieval_metrics"),
    "schedule_values": ("heated.training.schedules", "schedule_values"),
}
__all__ = [*PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'heated' has no attribute {name!r}")
    module, attribute = PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
