from dataclasses import replace

from reported import ENVIRONMENT, SCORES, SPLIT

from heated.evaluation.summary import summarize_seeds
from heated.reporting.provenance import (
    collect_provenance,
    format_commit,
    format_value,
    table_caption,
)


def changed(result, **record):
    return replace(result, record=result.record | record)


def test_every_fact_has_its_distinct_values(results):
    facts = dict(collect_provenance(results).facts)
    assert facts["Python"] == "3.11.7"
    assert facts["commit"] == "0123456789ab, 0123456789ab with changes"
    assert facts["data SHA-256"] == "ab" * 32
    assert facts["training"] == "61 s in total for 3 trainings"
    other = changed(results[1], environment={**ENVIRONMENT, "python": "3.12.1"})
    assert dict(collect_provenance([results[0], other]).facts)["Python"] == "3.11.7, 3.12.1"
    assert format_commit({"commit": None, "modified": False}) == "not in a git repository"


def test_parameters_are_listed_once_if_shared_else_by_method(results):
    found = collect_provenance(results)
    assert found.shared == {"lr": "0.05"}
    assert found.by_method["hbn"] == {"alpha": "constant (value 4)"}
    assert found.by_method["bn"] == {"alpha": "constant (value 16)"}
    other = changed(results[1], params={"lr": 0.05, "momentum": 0.9})
    found = collect_provenance([results[0], other])
    assert found.by_method["hbn"] == {"alpha": "constant (value 4)", "momentum": ""}
    assert found.by_method["bn"] == {"alpha": "", "momentum": "0.9"}


def test_a_named_choice_is_its_name_with_its_options():
    nested = {"name": "g", "batch_norm": {"eps": 0.001, "frozen": False}}
    assert format_value({"name": "none"}) == "none"
    assert format_value(nested) == "g (batch_norm eps 0.001, frozen False)"
    crop = [{"name": "crop", "size": 224}, {"name": "flip"}]
    assert format_value(crop) == "crop (size 224), flip"
    assert (format_value(None), format_value(32)) == ("None", "32")


def test_the_caption_names_the_tested_and_trained_classes(results):
    expected = (
        "Measured on the test classes: 20 images of 4 classes; trained on 20 images of 4 classes."
    )
    assert table_caption(results).startswith(expected)
    fold = "validation classes, fold 1 of 5 of the training classes"
    other = changed(results[0], split={**SPLIT, "tested": fold})
    assert table_caption([other]).startswith(f"Measured on the {fold}: 20 images")
    apart = {**SPLIT, "gallery": {"images": 30, "classes": 4}}
    assert "of 4 classes, searched in 30; trained" in table_caption(
        [changed(results[0], split=apart)]
    )


def test_the_caption_mentions_k_means_and_unanswerable_queries_only_if_they_matter(results):
    assert "k-means" not in table_caption(results)
    assert "queries" not in table_caption(results)
    extra = {
        "nmi_geometric_kmeans_std": 0.0123,
        "kmeans_objective": 0.3,
        "unanswerable_queries": 0.02,
    }
    scores = {seed: values | extra for seed, values in SCORES["bn"].items()}
    caption = table_caption([replace(results[1], metrics=summarize_seeds(scores))])
    assert "a standard deviation of at most 1.23." in caption
    assert "2.00 % of the queries have no other image of their class" in caption
