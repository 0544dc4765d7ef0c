import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heated.common.geometry import class_means, l2_normalize
from heated.data.batches import Held
from heated.evaluation.metrics import GEOMETRY
from heated.evaluation.retrieval import retrieval_metrics
from heated.training import monitor
from heated.training.monitor import measure


def evaluated(embeddings, labels):
    """The same numbers by the final evaluation."""
    recall = retrieval_metrics(embeddings, labels, recall_at_k=[1], with_map_at_r=False).values
    means = class_means(l2_normalize(embeddings), labels)
    return recall | {name: metric(means) for name, metric in GEOMETRY.items()}


def random_case(size, classes, dim, noise):
    torch.manual_seed(0)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (size - classes,))])
    centers = torch.randn(classes, dim)
    return centers[labels] + noise * torch.randn(size, dim), labels


def tied(size=120, dim=3):
    """Embeddings with few different values, so that many cosines are equal."""
    torch.manual_seed(1)
    return torch.randint(-1, 2, (size, dim)).float(), torch.arange(size) % 7


CASES = {
    "random": random_case(300, 10, 16, 0.5),
    "mixed": random_case(300, 10, 2, 3.0),
    "many classes": random_case(300, 140, 8, 1.0),
    "one class": random_case(20, 1, 4, 1.0),
    "tied": tied(),
    "nearly tied": (tied()[0] + 1e-9 * torch.randn(120, 3).double(), tied()[1]),
    "collapsed": (torch.full((60, 5), 0.3), torch.arange(60) % 4),
    "zero": (torch.zeros(12, 5), torch.arange(12) % 3),
    "zero rows": (tied()[0] * (torch.arange(120) % 5 > 0)[:, None], tied()[1]),
    "lone queries": (random_case(9, 9, 4, 1.0)[0], torch.arange(9)),
    "a lone query": (torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1])),
}


@pytest.mark.parametrize("case", CASES)
def test_the_monitor_equals_the_evaluation_exactly(case, monkeypatch):
    embeddings, labels = CASES[case]
    expected = evaluated(embeddings, labels)
    for entries in (1, 1000, monitor.ENTRIES):
        monkeypatch.setattr(monitor, "ENTRIES", entries)
        assert measure(l2_normalize(embeddings), labels) == expected


@given(
    st.lists(
        st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0])),
        min_size=2,
        max_size=12,
    ),
    st.data(),
)
@settings(deadline=None)
def test_the_monitor_equals_the_evaluation_on_ties_of_any_kind(rows, data):
    drawn = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    labels = torch.unique(torch.tensor(drawn), return_inverse=True)[1]
    embeddings = torch.tensor(rows)
    assert measure(l2_normalize(embeddings), labels) == evaluated(embeddings, labels)


def test_an_embedding_that_is_not_finite_is_told():
    with pytest.raises(FloatingPointError, match="got embeddings that hold NaN or infinity"):
        measure(l2_normalize(torch.tensor([[1.0, torch.nan], [0.0, 1.0]])), torch.tensor([0, 0]))


def test_a_look_stores_angles_of_two_dimensions_only(monkeypatch):
    class Training:
        model = None
        history = (1, 2, 3)

    images, labels = Held(torch.zeros(4, 1, 1, 1, dtype=torch.uint8)), torch.arange(4) % 2
    angles = torch.tensor([0.1, -3.0, 2.0, 0.2])
    plane = torch.stack([angles.cos(), angles.sin()], dim=1)
    for embeddings, epochs in ((plane, [3]), (torch.randn(4, 3), [])):
        monkeypatch.setattr(monitor, "embed", lambda *_, found=embeddings, **__: found)
        training = Training()
        training.pictures = {}
        monitor.make_monitor(training, images, labels)()
        assert list(training.pictures) == epochs
        for stored in training.pictures.values():
            torch.testing.assert_close(stored, angles)
