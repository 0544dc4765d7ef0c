import pytest
import torch

from heated.common.geometry import class_means, l2_normalize
from heated.evaluation.metrics import GEOMETRY, retrieval_metrics
from heated.training import monitor


class State:
    """A training of three finished epochs."""

    def __init__(self):
        self.model, self.history, self.angles = None, (1, 2, 3), {}


def monitored(embeddings, labels, state=None, **masks):
    """The monitor's values for a model that gives the embeddings; all are queries and gallery."""
    masks = masks or dict.fromkeys(("query", "gallery"), torch.ones(len(labels), dtype=torch.bool))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "embed", lambda *_, **__: embeddings)
        return monitor.make_monitor(state or State(), None, labels, **masks)()


def evaluated(embeddings, labels, **masks):
    """The same values by the final evaluation."""
    options = {"recall_at_k": [1], "with_map_at_r": False, **masks}
    recall = retrieval_metrics(embeddings, labels, **options).values
    means = class_means(l2_normalize(embeddings), labels)
    return recall | {name: metric(means) for name, metric in GEOMETRY.items()}


def random_case(size, classes, dim, noise):
    torch.manual_seed(0)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (size - classes,))])
    centers = torch.randn(classes, dim)
    return centers[labels] + noise * torch.randn(size, dim), labels


torch.manual_seed(1)
# few different values, so that many cosines are equal
TIED, SEVEN = torch.randint(-1, 2, (120, 3)).float(), torch.arange(120) % 7
CASES = {
    "random": random_case(300, 10, 16, 0.5),
    "mixed": random_case(300, 10, 2, 3.0),
    "many classes": random_case(300, 140, 8, 1.0),
    "one class": random_case(20, 1, 4, 1.0),
    "tied": (TIED, SEVEN),
    "nearly tied": (TIED + 1e-9 * torch.randn(120, 3).double(), SEVEN),
    "collapsed": (torch.full((60, 5), 0.3), torch.arange(60) % 4),
    "zero": (torch.zeros(12, 5), torch.arange(12) % 3),
    "zero rows": (TIED * (torch.arange(120) % 5 > 0)[:, None], SEVEN),
    "only single queries": (random_case(9, 9, 4, 1.0)[0], torch.arange(9)),
    "a single query": (torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1])),
}


@pytest.mark.parametrize("case", CASES)
def test_the_monitor_equals_the_evaluation_exactly(case, monkeypatch):
    embeddings, labels = CASES[case]
    expected = evaluated(embeddings, labels)
    for entries in (1, 1000, monitor.ENTRIES):
        monkeypatch.setattr(monitor, "ENTRIES", entries)
        assert monitored(embeddings, labels) == expected


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.1, 1), (1, 0.1), (0.02, 0.02)])
@pytest.mark.parametrize("case", ["random", "many classes", "tied", "nearly tied", "zero rows"])
def test_queries_and_gallery_are_those_of_the_evaluation(case, shares, monkeypatch):
    embeddings, labels = CASES[case]
    random = torch.Generator().manual_seed(2)
    masks = {}
    for name, share in zip(("query", "gallery"), shares, strict=True):
        masks[name] = torch.rand(len(labels), generator=random) < share
        masks[name][:3] = True  # a class alone in the gallery, and more than K samples
    expected = evaluated(embeddings, labels, **masks)
    for entries in (1, 1000, monitor.ENTRIES):
        monkeypatch.setattr(monitor, "ENTRIES", entries)
        assert monitored(embeddings, labels, **masks) == expected
    if case == "many classes":
        assert expected != evaluated(embeddings, labels)


def test_an_embedding_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="got embeddings that hold NaN or infinity"):
        monitored(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), torch.tensor([0, 0]))


def test_angles_are_stored_for_two_dimensions_only():
    state, labels = State(), torch.arange(4) % 2
    monitored(torch.randn(4, 3), labels, state)
    assert not state.angles
    angles = torch.tensor([0.1, -3.0, 2.0, 0.2])
    monitored(torch.stack([angles.cos(), angles.sin()], dim=1), labels, state)
    assert list(state.angles) == [3]
    torch.testing.assert_close(state.angles[3], angles)
