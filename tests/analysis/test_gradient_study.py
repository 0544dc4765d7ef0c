"""The gradients of the paper (part 1) on trained networks."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recipes import make_recipe
from sklearn.datasets import load_digits

from heated.analysis.gradients import (
    QUANTILES,
    evenly_spaced,
    gradient_norms,
    gradients_by_kind,
    lowest_per_class,
    margins,
    normalized_embeddings,
    samples_by_kind,
)
from heated.data.packed_dataset import InMemoryImages
from heated.models.embedding_model import (
    Architecture,
    ModelWithLoss,
    load_model_with_loss,
    save_model,
)
from heated.training.loop import train
from heated.training.train_state import TrainState

pytestmark = pytest.mark.xdist_group("gradient-study")  # one process trains the shared models
SM = {"name": "none"}
LN = {"name": "l2"}
BN = {"name": "batch", "momentum": 0.05, "eps": 1e-3}
ALPHAS = [0.25, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 40, 50, 60]
CPU = torch.device("cpu")


@cache
def digits():
    """1,797 images of ten digits; every hundredth has a wrong label, which no network learns."""
    images, labels = load_digits(return_X_y=True)
    gray = torch.from_numpy(np.round(images * (255 / 16)).astype(np.uint8)).view(-1, 8, 8, 1)
    labels = torch.from_numpy(labels).long()
    labels[::100] = (labels[::100] + 1) % 10
    return gray, labels


def built(normalize, smoothing=0.0):
    network = {"backbone": {"name": "conv4", "width": 16}, "embedding_dim": 16, "augment": []}
    recipe = make_recipe(**network, normalize=normalize, label_smoothing=smoothing)
    torch.manual_seed(0)
    return ModelWithLoss(Architecture.of(vars(recipe), image_shape=(8, 8, 1), num_classes=10))


def trained(normalize, alpha=16.0, **options):
    """A model after five epochs of digits."""
    model = built(normalize, **options)
    images, labels = digits()
    recipe = make_recipe(alphas=[alpha] * 5, lrs=[0.02] * 5, batch_size=64)
    train(TrainState.create(model, recipe, seed=0), InMemoryImages(images), labels, recipe)
    return model


@pytest.fixture(scope="module", params=[LN, BN], ids=["ln", "bn"])
def model(request):
    return trained(request.param)


def study(model, alphas=ALPHAS, samples=10_000, data=None):
    images, labels = digits() if data is None else data
    return gradients_by_kind(model, InMemoryImages(images), labels, alphas=alphas, samples=samples)


@pytest.fixture(scope="module")
def found(model):
    """The study of the model."""
    return study(model)


def samples_of(model, kind=None):
    """Normalized embeddings, labels and margins of the digits, or of a kind's samples."""
    images, labels = digits()
    embeddings = normalized_embeddings(model, InMemoryImages(images)).double()
    found = embeddings, labels, margins(model.head, embeddings, labels)
    if kind is None:
        return found
    indices = samples_by_kind(embeddings, found[2], labels)[kind]
    return tuple(each[indices] for each in found)


def test_a_correct_sample_is_pulled_most_at_a_middle_alpha_and_no_more_at_a_large_one(
    model, subtests
):
    for kind in ["centroid", "boundary"]:
        with subtests.test(kind=kind):
            embeddings, labels, ahead = samples_of(model, kind)
            alphas = np.geomspace(1e-3, 60 / ahead.min().item(), 200)
            norms = gradient_norms(model.head, embeddings, labels, alphas.tolist()).numpy()
            peaks = norms.max(axis=1)
            assert (norms[:, 0] < 0.01 * peaks).all()
            assert (norms[:, -1] < 0.01 * peaks).all()
            past = np.arange(199) >= norms.argmax(axis=1)[:, None]
            rises = np.diff(norms, axis=1) > 0
            single = (rises != past).all(axis=1)
            assert single.mean() > 0.9  # the others have a rival near and several further off


def test_the_centroids_samples_peak_at_a_smaller_alpha_and_lower_than_the_boundarys(found):
    kinds = found["kinds"]
    assert kinds["centroid"]["peak_alpha"] < kinds["boundary"]["peak_alpha"]
    assert kinds["centroid"]["peak_norm"] < kinds["boundary"]["peak_norm"]
    assert ALPHAS[0] < kinds["centroid"]["peak_alpha"] < 8  # the paper's is at about 4
    assert kinds["centroid"]["quantiles"]["0.5"][-1] < 0.01 * kinds["centroid"]["peak_norm"]


def test_a_misclassified_samples_gradient_grows_without_bound_and_its_slope_to_a_constant(
    model, found
):
    found = found["kinds"]["misclassified"]
    median = found["quantiles"]["0.5"]
    assert median == sorted(median)
    assert found["peak_alpha"] == ALPHAS[-1]
    embeddings, labels, _ = samples_of(model, "misclassified")
    norms = gradient_norms(model.head, embeddings, labels, [1e2, 1e4, 1e6])
    slopes = norms / torch.tensor([1e2, 1e4, 1e6])
    unit = torch.nn.functional.normalize(model.head.weight.detach().double(), dim=1)
    rivals = (embeddings @ unit.T).argmax(dim=1)
    expected = (unit[labels] - unit[rivals]).norm(dim=1)
    torch.testing.assert_close(slopes[:, 2], expected, rtol=1e-3, atol=0)
    assert found["final_slope"] == pytest.approx(np.median(expected.numpy()))
    far, near = ((slopes[:, i] - expected).abs() for i in (0, 1))
    assert (near <= far + 1e-12).all()


def test_correct_samples_have_a_final_slope_only_with_smoothed_labels():
    plain, smooth = (study(trained(SM, alpha=1.0, smoothing=s))["kinds"] for s in (0.0, 0.1))
    for kind in ("centroid", "boundary"):
        assert plain[kind]["final_slope"] == 0
        assert smooth[kind]["final_slope"] > 0
        assert smooth[kind]["peak_alpha"] == ALPHAS[-1]


def test_the_study_is_json_with_a_number_per_alpha(model, tmp_path):
    few = study(model, samples=20)
    assert json.loads(json.dumps(few, allow_nan=False)) == few
    assert (few["alpha"], few["alphas"], few["images"]) == (16, ALPHAS, 1797)
    assert list(few["counts"]) == list(few["kinds"]) == ["centroid", "boundary", "misclassified"]
    for kind in few["kinds"].values():
        assert set(kind) == {"n", "quantiles", "peak_alpha", "peak_norm", "final_slope"}
        curves = [kind["quantiles"][str(q)] for q in QUANTILES]
        assert {len(curve) for curve in curves} == {len(ALPHAS)}
        assert (np.diff(curves, axis=0) >= 0).all()
        assert kind["n"] <= 20
    save_model(tmp_path / "model.safetensors", model)
    saved = load_model_with_loss(tmp_path / "model.safetensors", CPU)
    assert study(saved, alphas=ALPHAS[::-1], samples=20) == few


def test_statistics_are_of_each_samples_own_peak(model, found):
    embeddings, labels, _ = samples_of(model, "boundary")
    norms = gradient_norms(model.head, embeddings, labels, ALPHAS).numpy()
    found = found["kinds"]["boundary"]
    assert found["n"] == len(norms)
    assert found["peak_norm"] == pytest.approx(np.median([max(row) for row in norms]))
    own = [ALPHAS[row.tolist().index(max(row))] for row in norms]
    assert found["peak_alpha"] == pytest.approx(np.median(own))
    assert found["quantiles"]["0.25"] == pytest.approx(np.quantile(norms, 0.25, axis=0).tolist())


@pytest.mark.parametrize("normalize", [SM, LN, BN], ids=["sm", "ln", "bn"])
def test_the_normalized_embeddings_are_the_classifiers_input(normalize):
    model, (images, _) = built(normalize), digits()
    raw = model.eval().network(model.prepare(images)).detach()
    found = normalized_embeddings(model.train(), InMemoryImages(images))
    assert not model.training
    torch.testing.assert_close(found, model.normalization(raw))


def test_every_kind_has_the_samples_of_its_name(model):
    embeddings, labels, margin = samples_of(model)
    found = samples_by_kind(embeddings, margin, labels)
    means = torch.stack([embeddings[labels == label].mean(dim=0) for label in range(10)])
    distances, correct = (embeddings - means[labels]).norm(dim=1), margin > 0
    assert torch.equal(found["misclassified"], (~correct).nonzero()[:, 0])
    for values, indices in ((distances, found["centroid"]), (margin, found["boundary"])):
        assert correct[indices].all()
        for label in range(10):
            every = values[correct & (labels == label)].sort().values
            chosen = values[indices[labels[indices] == label]].sort().values
            torch.testing.assert_close(chosen, every[: -(-len(every) // 10)])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), max_size=60))
def test_the_lowest_of_each_class_are_a_tenth_of_it_and_at_least_one(pairs):
    labels, values = (torch.tensor([pair[i] for pair in pairs]).long() for i in (0, 1))
    numbers = lowest_per_class(values, labels).tolist()
    assert numbers == sorted(set(numbers))
    for label in set(labels.tolist()):
        own = [i for i in range(len(pairs)) if labels[i] == label]
        taken = [i for i in numbers if labels[i] == label]
        assert len(taken) == -(-len(own) // 10)
        rest = [values[i].item() for i in own if i not in taken]
        assert max(values[i].item() for i in taken) <= min(rest, default=9)


@given(st.integers(0, 50), st.integers(1, 60))
def test_evenly_spaced_indices_are_unique_and_in_order(size, count):
    found = evenly_spaced(torch.arange(size), count).tolist()
    assert len(found) == min(size, count)
    assert found == sorted(set(found))
    assert not 1 < count <= size or (found[0], found[-1]) == (0, size - 1)


def test_a_kind_without_samples_has_a_count_and_no_curves(model):
    images, _ = digits()
    embeddings = normalized_embeddings(model, InMemoryImages(images)).double()
    unit = torch.nn.functional.normalize(model.head.weight.detach().double(), dim=1)
    labels = (embeddings @ unit.T).argmax(dim=1)  # the model's predictions
    found = study(model, data=(images, labels))
    assert found["counts"]["misclassified"] == 0
    assert list(found["kinds"]) == ["centroid", "boundary"]
    found = study(model, data=(images[:1], labels[:1]))
    assert found["counts"] == {"centroid": 1, "boundary": 1, "misclassified": 0}
    assert found["kinds"]["centroid"] == found["kinds"]["boundary"]
    found = study(model, data=(images, (labels + 1) % 10))
    assert found["counts"] == {"centroid": 0, "boundary": 0, "misclassified": 1797}
    assert list(found["kinds"]) == ["misclassified"]


def test_a_class_without_samples_does_not_change_the_others(model):
    images, labels = digits()
    kept = labels != 4
    found = study(model, data=(images[kept], labels[kept]))
    assert found["images"] == kept.sum()
    embeddings, own, _ = samples_of(model, "boundary")
    norms = gradient_norms(model.head, embeddings, own, ALPHAS)[own != 4].numpy()
    assert found["kinds"]["boundary"]["quantiles"]["0.5"] == pytest.approx(
        np.median(norms, axis=0).tolist(), abs=1e-5
    )
