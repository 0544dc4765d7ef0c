from dataclasses import replace

from reported import ENVIRONMENT, SCORES, SPLIT

from heated.evaluation.summary import summaries
from heated.reporting.makings import basis, commit, legend, makings, text


def changed(result, **record):
    return replace(result, record=result.record | record)


def test_every_fact_is_told_with_the_values_it_had(results):
    facts = dict(makings(results).facts)
    assert facts["Python"] == "3.11.7"
    assert facts["commit"] == "0123456789ab, 0123456789ab with changes"
    assert facts["data SHA-256"] == "ab" * 32
    assert facts["training"] == "61 s in all, of 3 trainings"
    other = changed(results[1], environment={**ENVIRONMENT, "python": "3.12.1"})
    assert dict(makings([results[0], other]).facts)["Python"] == "3.11.7, 3.12.1"
    assert commit({"commit": None, "modified": False}) == "not in a git repository"


def test_parameters_are_told_once_where_all_runs_share_them_else_by_method(results):
    found = makings(results)
    assert found.shared == {"lr": "0.05"}
    assert found.own["hbn"] == {"alpha": "constant (value 4)"}
    assert found.own["bn"] == {"alpha": "constant (value 16)"}
    found = makings([results[0], changed(results[1], params={"lr": 0.05, "momentum": 0.9})])
    assert found.own["hbn"] == {"alpha": "constant (value 4)", "momentum": ""}
    assert found.own["bn"] == {"alpha": "", "momentum": "0.9"}


def test_a_choice_is_its_name_with_its_options():
    nested = {"name": "g", "batch_norm": {"eps": 0.001, "frozen": False}}
    assert text({"name": "none"}) == "none"
    assert text(nested) == "g (batch_norm eps 0.001, frozen False)"
    assert text([{"name": "crop", "size": 224}, {"name": "flip"}]) == "crop (size 224), flip"
    assert (text(None), text(32)) == ("None", "32")


def test_the_legend_says_what_was_tested_and_how_much_of_it_there_is(results):
    told = "On the test classes: 20 images of 4 classes, after training on 20 of 4."
    assert legend(results).startswith(told)
    held_out = {**SPLIT, "tested": "validation classes, fold 1 of 5 of the training classes"}
    other = changed(results[0], split=held_out)
    assert legend([other]).startswith("On the validation classes, fold 1 of 5 of the training")
    apart = {**SPLIT, "gallery": {"images": 30, "classes": 4}}
    assert "20 images of 4 classes, looked for among 30, after" in basis(apart)


def test_what_metrics_rest_on_is_told_where_there_is_something_to_tell(results):
    assert "k-means" not in legend(results)
    assert "queries" not in legend(results)
    beside = {"nmi_geometric_kmeans_std": 0.0123, "kmeans_objective": 0.3, "without_match": 0.02}
    scores = {seed: values | beside for seed, values in SCORES["bn"].items()}
    told = legend([replace(results[1], metrics=summaries(scores))])
    assert "standard deviation is at most 1.23." in told
    assert "2.00 % of the queries have no other image of their class" in told
