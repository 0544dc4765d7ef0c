"""Export a trained model to ONNX: `python -m heated.inference.onnx MODEL OUT`.

Input: `images`, (N, H, W, C) uint8, as packed for the data set. Cropping, pixel range, network and
normalization are part of the graph. Output: `embeddings`, (N, D) float32 of unit length.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from heated.common.errors import InputError, run
from heated.common.io import atomic_write
from heated.losses.embedding_norm import L2Normalization
from heated.models import embedding_model


def export(weights: Path, path: Path) -> None:
    """Export a model's file to ONNX, for any number of images."""
    if find_spec("onnxscript") is None:
        raise InputError("torch's export needs onnxscript. Run `pip install onnxscript`.")
    model = embedding_model.load_model(weights, torch.device("cpu"))
    images = torch.zeros(2, *model.architecture.image_shape, dtype=torch.uint8)
    with atomic_write(path) as temporary, torch.no_grad():
        torch.onnx.export(
            nn.Sequential(model, L2Normalization()).eval(),
            (images,),
            temporary,
            input_names=["images"],
            output_names=["embeddings"],
            # Sequential names its argument so
            dynamic_shapes={"input": {0: torch.export.Dim("N")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )


if __name__ == "__main__":
    run(export)
