"""Embed the test images with the model of every seed."""

import numpy as np

from heated.common.errors import run
from heated.common.io import (
    atomic_write,
    load_settings,
    packed_folder,
    run_folder,
    seed_files,
    write_arrays,
)
from heated.data import packed_dataset
from heated.data.packed_dataset import MemmapImages
from heated.models import embedding_model
from heated.runtime.device import setup_device


def main(dataset: str, method: str) -> None:
    """Write embeddings, labels, query and gallery masks for every seed of a run."""
    device = setup_device(**load_settings("machine.json"))
    data, files = packed_dataset.load_packed(packed_folder(dataset)), run_folder(dataset, method)
    is_test = data.split.query | data.split.gallery
    indices = np.flatnonzero(is_test)
    images, labels = MemmapImages(data.images, indices, device), data.labels[indices]
    masks = {"query": data.split.query[is_test], "gallery": data.split.gallery[is_test]}
    with atomic_write(files / "embeddings") as folder:
        folder.mkdir()
        for path in seed_files(files / "models", "train").values():
            model = embedding_model.load_model(path, device)
            embedding_model.check_image_shape(path, model, data.images.shape[1:])
            embeddings = embedding_model.embed(model, images).cpu().numpy()
            output = folder / f"{path.stem}.npz"
            write_arrays(output, embeddings=embeddings, labels=labels, **masks)


if __name__ == "__main__":
    run(main)
