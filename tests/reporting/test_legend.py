from dataclasses import replace

from reported import SCORES, SPLIT

from heated.evaluation.summary import summaries
from heated.reporting.legend import basis, legend


def test_the_legend_says_what_was_tested_and_how_much_of_it_there_is(results):
    told = "On the test classes: 20 images of 4 classes, after training on 20 of 4."
    assert legend(results).startswith(told)
    held_out = {**SPLIT, "tested": "validation classes, fold 1 of 5 of the training classes"}
    other = replace(results[0], record={**results[0].record, "split": held_out})
    assert legend([other]).startswith("On the validation classes, fold 1 of 5 of the training")


def test_a_gallery_apart_is_told():
    split = {**SPLIT, "gallery": {"images": 30, "classes": 4}}
    assert "20 images of 4 classes, looked for among 30, after" in basis(split)


def test_nothing_is_told_where_there_is_nothing_to_tell(results):
    assert "k-means" not in legend(results)
    assert "queries" not in legend(results)


def test_what_metrics_rest_on_is_told(results):
    beside = {"nmi_geometric_kmeans_std": 0.0123, "kmeans_objective": 0.3, "without_match": 0.02}
    scores = {seed: values | beside for seed, values in SCORES["bn"].items()}
    told = legend([replace(results[1], metrics=summaries(scores))])
    assert "standard deviation is at most 1.23." in told
    assert "2.00 % of the queries have no other image of their class" in told
