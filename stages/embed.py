"""Embed the test images with the model of every seed."""

import numpy as np

from heated.common.cli import run
from heated.common.io import required, whole, write_arrays
from heated.common.paths import packed_folder, resolved, run_folder
from heated.data import packed_dataset
from heated.data.batches import Mapped
from heated.models import embedding, embedding_model
from heated.runtime.device import prepared


def main(dataset: str, method: str) -> None:
    """Write embeddings, labels, query and gallery masks for every seed of a run."""
    device = prepared(resolved("threads.json")["threads"])
    data, files = packed_dataset.unpack(packed_folder(dataset)), run_folder(dataset, method)
    is_test = data.split.query | data.split.gallery
    indices = np.flatnonzero(is_test)
    images, labels = Mapped(data.images, indices, device), data.labels[indices]
    masks = {"query": data.split.query[is_test], "gallery": data.split.gallery[is_test]}
    with whole(files / "embeddings") as folder:
        folder.mkdir()
        for path in sorted(required(files / "models", "train").glob("seed-*.safetensors")):
            model = embedding_model.load(path, device)
            embeddings = embedding.embed(model, images).cpu().numpy()
            output = folder / f"{path.stem}.npz"
            write_arrays(output, embeddings=embeddings, labels=labels, **masks)


if __name__ == "__main__":
    run(main)
