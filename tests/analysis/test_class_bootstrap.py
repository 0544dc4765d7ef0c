import numpy as np
import pytest
import torch

from heated.analysis.class_bootstrap import bootstrap_interval, class_effects
from heated.common.class_scores import read_class_scores
from heated.common.errors import InputError
from heated.common.io import write_csv
from heated.evaluation.metrics import retrieval_metrics

COMPARISON = {"metric": "map_at_r", "higher": ["bn-heat", "hbn"], "lower": ["bn", "bn-drop"]}
METHODS = (*COMPARISON["higher"], *COMPARISON["lower"])


def scores_of(seed):
    """The retrieval scores of random embeddings, of 12 classes of 3 to 8 images, 5 to 9 alone."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(12).repeat_interleave(torch.arange(12) % 6 + 3)
    embeddings = torch.nn.functional.one_hot(labels) + torch.rand(len(labels), 12, generator=random)
    query = torch.rand(len(labels), generator=torch.Generator().manual_seed(7)) < 0.6
    return retrieval_metrics(embeddings, labels, recall_at_k=[1], query=query)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Class scores of four methods and three seeds, as read from files, and the metrics' means."""
    folder, scores, means = tmp_path_factory.mktemp("runs"), {}, {}
    for index, method in enumerate(METHODS):
        rows = []
        for seed in range(3):
            found = scores_of(100 * index + seed)
            means[method, seed] = found.values["map_at_r"]
            rows += [{"seed": seed, **row} for row in found.by_class]
        write_csv(folder / f"{method}.csv", rows)
        scores[method] = read_class_scores(folder / f"{method}.csv")
    return scores, means


def test_scores_by_class_average_to_the_metrics():
    found = scores_of(1)
    rows = found.by_class
    assert [row["label"] for row in rows] == sorted({row["label"] for row in rows})
    queries = np.array([row["queries"] for row in rows])
    for metric, value in found.values.items():
        by_class = [row[metric] for row in rows]
        assert np.average(by_class, weights=queries) == pytest.approx(value, abs=1e-12)
    assert np.ptp([row["map_at_r"] for row in rows]) > 0.1


def test_effects_by_class_average_to_the_effect_over_seeds(runs):
    scores, means = runs
    labels, queries, effects = class_effects(COMPARISON, scores)
    sides = (
        [means[m, s] for m in COMPARISON[side] for s in range(3)] for side in ("higher", "lower")
    )
    higher, lower = map(np.mean, sides)
    assert np.average(effects, weights=queries) == pytest.approx(higher - lower, abs=1e-12)
    assert len(labels) == len(queries) == len(effects) <= 12


def test_only_seeds_that_all_methods_have_count(runs):
    scores, _ = runs
    fewer = {m: {s: each[s] for s in each if s or m != "bn"} for m, each in scores.items()}
    expected = class_effects(COMPARISON, {m: {1: x[1], 2: x[2]} for m, x in scores.items()})
    for a, b in zip(class_effects(COMPARISON, fewer), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_test_classes_are_refused(runs):
    scores, _ = runs
    other = {s: {k: v[1:] for k, v in each.items()} for s, each in scores["bn"].items()}
    with pytest.raises(InputError, match="got other test classes for one of bn-heat, hbn, bn"):
        class_effects(COMPARISON, scores | {"bn": other})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "damaged"),
        ("seed,label,queries\n0,1,nan\n", "seed 0: got NaN or infinity"),
        ("seed,label,queries\n0,1,2\n1,2,2\n", "seed 1: got other classes"),
        ("seed,label,queries\n0,1\n", "damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, problem):
    path = tmp_path / "class_scores.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"{problem}.*runs the stage 'evaluate' again"):
        read_class_scores(path)


def test_the_interval_covers_the_mean_of_the_population_of_classes():
    random, covered, trials = np.random.default_rng(0), 0, 150
    for _ in range(trials):
        queries = random.integers(5, 30, size=80).astype(float)
        low, high = bootstrap_interval(random.normal(0.02, 0.1, size=80), queries)
        covered += low < 0.02 < high
    assert 0.89 < covered / trials < 0.99  # 95 %, within three standard errors of the trials


def test_classes_count_by_their_queries_and_one_class_gives_no_interval():
    effects = np.array([0.0] * 10 + [1.0] * 10)
    equal, heavy = (bootstrap_interval(effects, q) for q in (np.ones(20), 1 + 98 * effects))
    assert equal[0] < 0.5 < equal[1] < 0.9 < heavy[0]
    assert bootstrap_interval(effects, np.ones(20)) == equal
    assert bootstrap_interval(np.array([0.1]), np.ones(1)) is None
