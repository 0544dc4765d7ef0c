"""Embed the test images with every seed's model."""

from pathlib import Path

import numpy as np

from heated import config
from heated.common.cli import run
from heated.common.io import required, whole, write_arrays
from heated.data import packed_dataset
from heated.data.batches import Mapped
from heated.models import embedding, embedding_model
from heated.runtime.device import prepared


def main(packed: Path, trained: Path, embeddings: Path) -> None:
    """`trained`: folder of seed-<s>.safetensors; `embeddings`: folder for seed-<s>.npz."""
    device = prepared(config.load().run.threads)
    data = packed_dataset.unpack(packed)
    tested = data.split.query | data.split.gallery
    numbers = np.flatnonzero(tested)
    images, labels = Mapped(data.images, numbers, device), data.labels[numbers]
    masks = {"query": data.split.query[tested], "gallery": data.split.gallery[tested]}
    with whole(embeddings) as folder:
        folder.mkdir()
        for path in sorted(required(trained, "train").glob("seed-*.safetensors")):
            values = embedding.embed(embedding_model.load(path, device), images).cpu().numpy()
            target = folder / f"{path.stem}.npz"
            write_arrays(target, embeddings=values, labels=labels, **masks)


if __name__ == "__main__":
    run(main)
