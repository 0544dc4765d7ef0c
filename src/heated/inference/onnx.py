"""A trained model as ONNX, for runtimes without torch: `python -m heated.inference.onnx MODEL OUT`.

In: `images`, (N, H, W, C) uint8, squares as the data set was packed; cut, pixel range, network and
normalisation are part of the graph. Out: `embeddings`, (N, D) float32 of length 1.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heated.common.cli import readable_errors
from heated.common.errors import InputError
from heated.common.io import whole
from heated.models import embedding_model
from heated.models.embedding_model import EmbeddingModel


class Directions(nn.Module):
    """A model whose embeddings have length 1."""

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, C) uint8 -> (N, D)."""
        return F.normalize(self.model(images), dim=1)


def export(weights: Path, path: Path) -> None:
    """The ONNX file of a trained model's file, for any number of images; InputError where what
    torch needs for it is not installed."""
    if find_spec("onnxscript") is None:
        raise InputError("torch exports by onnxscript, which is missing: pip install onnxscript")
    model = Directions(embedding_model.load(weights, torch.device("cpu"))).eval()
    images = torch.zeros(2, *model.model.architecture.image_shape, dtype=torch.uint8)
    with whole(path) as temporary, torch.no_grad():
        torch.onnx.export(
            model,
            (images,),
            temporary,
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def main() -> None:
    """Export the model that the command line names."""
    if len(sys.argv) != 3:
        print("usage: python -m heated.inference.onnx MODEL.safetensors OUT.onnx", file=sys.stderr)
        sys.exit(2)
    with readable_errors():
        export(*map(Path, sys.argv[1:]))


if __name__ == "__main__":
    main()
