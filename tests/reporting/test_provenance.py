from dataclasses import replace

from reported import ENVIRONMENT, KMEANS_AND_UNANSWERABLE, SCORES, SPLIT

from heated.evaluation.metrics import summarize_seeds
from heated.reporting.run_results import collect_provenance, format_value, table_caption


def with_record(result, **record):
    return replace(result, record=result.record | record)


def test_every_fact_has_its_distinct_values(results):
    facts = dict(collect_provenance(results).facts)
    assert facts["Python"] == "3.11.7"
    assert facts["commit"] == "0123456789ab, 0123456789ab with changes"
    assert facts["data SHA-256"] == "ab" * 32
    assert facts["training"] == "61 s in total for 3 trainings"
    newer = with_record(results[1], environment={**ENVIRONMENT, "python": "3.12.1"})
    assert dict(collect_provenance([results[0], newer]).facts)["Python"] == "3.11.7, 3.12.1"
    unknown = with_record(results[0], source={"commit": None, "modified": None})
    assert ("commit", "unknown") in collect_provenance([unknown]).facts


def test_parameters_are_listed_once_if_shared_else_by_method(results):
    found = collect_provenance(results)
    hbn, bn = ({"alpha": f"constant (value {value})"} for value in (4, 16))
    assert found.shared == {"lr": "0.05"}
    assert found.by_method == {"hbn": hbn, "bn": bn}
    changed = with_record(results[1], params={"lr": 0.05, "momentum": 0.9})
    expected = {"hbn": hbn | {"momentum": ""}, "bn": {"alpha": "", "momentum": "0.9"}}
    assert collect_provenance([results[0], changed]).by_method == expected


def test_a_named_choice_is_its_name_with_its_options():
    nested = {"name": "g", "batch_norm": {"eps": 0.001, "frozen": None}}
    assert format_value([nested, {"name": "flip"}]) == "g (batch_norm eps 0.001, frozen None), flip"


def test_the_caption_names_the_classes_and_k_means_and_unanswerable_queries_if_any(results):
    caption, part = table_caption(results), "20 images of 4 classes"
    assert caption.startswith(f"Measured on the test classes: {part}; trained on {part}.")
    assert "k-means" not in caption
    assert "queries" not in caption
    assert "†: the interval has values outside [0, 100]." in caption
    assert "†" not in table_caption(results[:1])  # of one seed
    fold = "validation classes, fold 1 of 5 of the training classes"
    validated = with_record(results[0], split={**SPLIT, "tested": fold})
    assert table_caption([validated]).startswith(f"Measured on the {fold}: 20 images")
    larger = with_record(results[0], split={**SPLIT, "gallery": {"images": 30, "classes": 4}})
    assert "of 4 classes, searched in 30; trained" in table_caption([larger])
    scores = {seed: values | KMEANS_AND_UNANSWERABLE for seed, values in SCORES["bn"].items()}
    caption = table_caption([replace(results[1], metrics=summarize_seeds(scores))])
    assert "a standard deviation of at most 1.23." in caption
    assert "2.00 % of the queries have no other image of their class" in caption
