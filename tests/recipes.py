"""A small recipe and a small data set for tests of training."""

from dataclasses import replace

import numpy as np

from heated.common.samples import Split
from heated.data.packed_dataset import PackedDataset
from heated.training.recipe import Recipe

SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0}
AFFINE = {"name": "affine", "degrees": 10, "scale": 0.1, "shear": 5, "translate": 0.1}
BATCH_NORM = {"name": "batch", "momentum": 0.05, "eps": 1e-3}
SETTINGS = {
    "backbone": {"name": "conv4", "width": 4},
    "weights": "none",
    "init": "none",
    "bottleneck_lr_mult": 1,
    "classifier_lr_mult": 1,
    "embedding_dim": 4,
    "epochs": 2,
    "eval_every": 1,
    "batch_size": 8,
    "lr": 0.05,
    "optimizer": SGD,
    "augment": [AFFINE],
    "pixel_mean": 0.5,
    "pixel_std": 0.5,
    "normalize": BATCH_NORM,
    "bias": "outside",
    "label_smoothing": 0.0,
    "alpha": {"name": "step", "start": 16, "end": 4, "at": 0.5},
    "lr_schedule": {"name": "linear", "start": 1, "end": 0.1},
    "threads": 1,
    "precision": "float32",
}


def make_recipe(alphas=None, lrs=None, **changes):
    """The recipe of SETTINGS with changes; `alphas` and `lrs` replace the schedules."""
    recipe = Recipe.from_settings(SETTINGS | changes)
    return recipe if alphas is None else replace(recipe, alphas=[*alphas], lrs=[*lrs])


def make_data(train_classes, test_classes, per_class=6):
    """Random images (N, 6, 6, 1) of the classes."""
    labels = np.repeat([*train_classes, *test_classes], per_class)
    images = np.random.default_rng(0).integers(256, size=(len(labels), 6, 6, 1), dtype=np.uint8)
    train = np.isin(labels, train_classes)
    return PackedDataset(images, labels, tuple("abcdefghij"), Split(train, ~train, ~train))
