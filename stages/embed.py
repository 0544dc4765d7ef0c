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
    """Write embeddings, labels, query and gallery for every seed of a run."""
    device = prepared(resolved("threads.json")["threads"])
    data, files = packed_dataset.unpack(packed_folder(dataset)), run_folder(dataset, method)
    tested = data.split.query | data.split.gallery
    numbers = np.flatnonzero(tested)
    images, labels = Mapped(data.images, numbers, device), data.labels[numbers]
    masks = {"query": data.split.query[tested], "gallery": data.split.gallery[tested]}
    with whole(files / "embeddings") as folder:
        folder.mkdir()
        for path in sorted(required(files / "models", "train").glob("seed-*.safetensors")):
            model = embedding_model.load(path, device)
            values = embedding.embed(model, images).cpu().numpy()
            write_arrays(folder / f"{path.stem}.npz", embeddings=values, labels=labels, **masks)


if __name__ == "__main__":
    run(main)
