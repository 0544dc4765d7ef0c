"""What a GPU would refuse or wait for, without a GPU.

FakeTensorMode computes shapes and devices only. It raises for operands on different devices, and
where the CPU would need a value from the GPU. A backward pass needs a real device: the second part
uses the device "meta", and looks at every copy.
"""

from contextlib import nullcontext
from copy import deepcopy
from functools import partial

import pytest
import torch
from recipes import make_recipe
from test_gpu import CHANGES, PML, VARIANTS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from heated.data.packed_dataset import InMemoryImages
from heated.losses.heated_softmax import HeatedSoftmax
from heated.models.embedding_model import Architecture, ModelWithLoss, embed
from heated.training import loop, train_state
from heated.training.train_state import TrainState

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py uses the real GPU")
SIZE, CLASSES, BATCH = 20, 5, 8
NORM = {"momentum": 0.1, "eps": 1e-5, "frozen": True}
# The others of pytorch-metric-learning have shapes that depend on values: they wait for a GPU.
LOSSES = {name: PML | {"loss": {"name": name}} for name in ("norm_softmax", "soft_triple")}
AUGMENTED = {
    "affine": {},
    "crop and flip": VARIANTS["flip"],
    "resized crop": VARIANTS["resized crop"],
    "none": {"augment": []},
}
HEATED = {name: each for name, each in VARIANTS.items() if "loss" not in each} | AUGMENTED
NETWORKS = {
    name: {"backbone": {"name": name, "batch_norm": NORM | {"frozen": frozen}, "frozen_blocks": 2}}
    for name, frozen in (("mobilenet_v2", True), ("googlenet", False), ("resnet50", True))
}
NETWORKS = {name: each | {"augment": []} for name, each in NETWORKS.items()}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
SHUFFLED = {"name": "shuffled"}
DRAWS = {"affine": 1, "crop": 1, "resized_crop": 1, "flip": 1}  # copies per step


def move_registered(model: nn.Module, device: str) -> None:
    """Move what `model.to` moves, which cannot be used with fake tensors."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                moved = nn.Parameter(value.detach().to(device), value.requires_grad)
                module._parameters[name] = moved
        for name, value in module._buffers.items():
            module._buffers[name] = value if value is None else value.to(device)


def make_model(recipe, shape=(8, 8, 1)):
    settings = Architecture.of(vars(recipe), image_shape=shape, num_classes=CLASSES)
    return ModelWithLoss(settings)


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # of autocast
@pytest.mark.parametrize("variant", [*HEATED, *LOSSES, "bfloat16", *SLOW])
def test_steps_and_embeddings_stay_on_the_gpu_and_need_no_value_from_it(variant, monkeypatch):
    changes = (HEATED | LOSSES | NETWORKS | {"bfloat16": {"precision": "bfloat16"}})[variant]
    if variant in LOSSES:
        pytest.importorskip("pytorch_metric_learning")
    else:  # the heated softmax draws no random numbers
        monkeypatch.setattr(loop, "forked_rng", None)
    shape = (64, 64, 3) if variant in NETWORKS else (8, 8, 1)
    recipe = make_recipe(**CHANGES | {"batch_size": BATCH} | changes | {"sampler": SHUFFLED})
    model, mode = make_model(recipe, shape), FakeTensorMode()
    with FakeCopyMode(mode):
        fake = deepcopy(model)
    monkeypatch.setattr(Tensor, "backward", lambda loss: None)
    with mode:
        move_registered(fake, "cuda")
        images = InMemoryImages(torch.zeros(SIZE, *shape, dtype=torch.uint8, device="cuda"))
        labels = torch.zeros(SIZE, dtype=torch.int64, device="cuda")
        state = TrainState.create(fake, recipe, seed=0)
        loop.train_epoch(state, images, labels, recipe, loop.make_step(state, recipe))
        assert state.step == 3
        assert state.sums.device.type == embed(fake, images, quiet=True).device.type == "cuda"
        if isinstance(fake.head, HeatedSoftmax):
            assert fake.head.logits(fake.normalization(embed(fake, images, quiet=True))).is_cuda


class CopyRecorder(TorchDispatchMode):
    """Record every copy between devices, and whether the CPU may go on without it."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        tensors = [each for each in tree_leaves((args, result)) if isinstance(each, Tensor)]
        if len({each.device.type for each in tensors}) > 1:
            self.copies.append(bool((kwargs or {}).get("non_blocking")))  # of `to`
        return result


@pytest.mark.parametrize("variant", HEATED)
def test_the_only_copies_of_a_step_are_the_draws_of_each_augmentation(variant, monkeypatch):
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}  # fused ones lack the device
    optimizers["adam_tf"] = lambda groups, lr, eps: torch.optim.Adam(groups, lr, eps=eps)
    monkeypatch.setattr(train_state, "OPTIMIZERS", optimizers)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # lacks it, too
    changes, copies = HEATED[variant] | {"sampler": SHUFFLED}, []
    recipe = make_recipe(**CHANGES | {"batch_size": BATCH} | changes)
    for size in (BATCH, 3 * BATCH):
        meta = partial(torch.zeros, device="meta")
        state = TrainState.create(make_model(recipe).to("meta"), recipe, seed=0)
        images = InMemoryImages(meta(size, 8, 8, 1, dtype=torch.uint8))
        with CopyRecorder() as recorder:
            labels = meta(size, dtype=torch.int64)
            loop.train_epoch(state, images, labels, recipe, loop.make_step(state, recipe))
        assert all(recorder.copies)
        copies.append(len(recorder.copies))
    per_step = sum(DRAWS[step["name"]] for step in recipe.augment)
    once = 2  # the order of the epoch, for images and for labels
    assert copies == [once + per_step, once + 3 * per_step]
