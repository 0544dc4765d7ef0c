from dataclasses import replace

import pytest
from reported import ENVIRONMENT

from heated.reporting.makings import commit, makings, text


def test_every_fact_is_told_with_the_values_it_had(results):
    facts = dict(makings(results).facts)
    assert facts["Python"] == "3.11.7"
    assert facts["commit"] == "0123456789ab, 0123456789ab with changes"
    assert facts["data SHA-256"] == "ab" * 32
    assert facts["training"] == "61 s in all, of 3 trainings"
    other = {**results[1].record, "environment": {**ENVIRONMENT, "python": "3.12.1"}}
    facts = dict(makings([results[0], replace(results[1], record=other)]).facts)
    assert facts["Python"] == "3.11.7, 3.12.1"


def test_parameters_are_told_once_where_all_runs_share_them_else_by_method(results):
    found = makings(results)
    assert found.shared == {"lr": "0.05"}
    assert found.own == {
        "hbn": {"alpha": "constant (value 4)"},
        "bn": {"alpha": "constant (value 16)"},
    }


def test_a_parameter_that_only_some_have_is_empty_for_the_others(results):
    other = {**results[1].record, "params": {"lr": 0.05, "momentum": 0.9}}
    found = makings([results[0], replace(results[1], record=other)])
    assert found.own["hbn"] == {"alpha": "constant (value 4)", "momentum": ""}
    assert found.own["bn"] == {"alpha": "", "momentum": "0.9"}


def test_a_choice_is_its_name_with_its_options(subtests):
    cases = [
        ({"name": "none"}, "none"),
        (
            {"name": "g", "batch_norm": {"eps": 0.001, "frozen": False}},
            "g (batch_norm eps 0.001, frozen False)",
        ),
        ([{"name": "crop", "size": 224}, {"name": "flip"}], "crop (size 224), flip"),
        (None, "None"),
        (32, "32"),
    ]
    for value, expected in cases:
        with subtests.test(value=value, expected=expected):
            assert text(value) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"commit": "0123456789abcdef", "modified": False}, "0123456789ab"),
        ({"commit": "0123456789abcdef", "modified": True}, "0123456789ab with changes"),
        ({"commit": None, "modified": False}, "not in a git repository"),
    ],
)
def test_a_commit_is_told_with_whether_the_tree_differed(source, expected):
    assert commit(source) == expected
