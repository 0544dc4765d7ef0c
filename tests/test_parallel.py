import pytest
from conftest import Project

from heated.parallel import parsed, stale

STAGES = [f"{kind}@digits-{m}" for kind in ("evaluate", "train", "embed") for m in ("bn", "ln")]


def test_the_stages_of_a_run_come_in_the_order_they_depend_on_each_other():
    (run,) = stale({"embed@digits-bn"}, [*STAGES, "split@digits", "report"])
    assert run == ["train@digits-bn", "embed@digits-bn", "evaluate@digits-bn"]


def test_a_run_that_is_up_to_date_is_left_alone():
    assert stale({"check", "report"}, STAGES) == []


def test_new_data_put_all_their_runs_out_of_date():
    assert len(stale({"download@digits"}, STAGES)) == 2
    assert stale({"download@omniglot-small"}, STAGES) == []


def test_a_study_is_a_run_like_any_other():
    names = [
        "evaluate-shapes@digits-hbn-linear",
        "train-shapes@digits-hbn-linear",
        "train@digits-bn",
    ]
    assert stale({"train-shapes@digits-hbn-linear"}, names) == [[names[1], names[0]]]
    assert len(stale({"split-planes@digits"}, names)) == 2


@pytest.mark.parametrize("arguments", [[], ["0"], ["-1"], ["two"], ["1", "2"]])
def test_jobs_that_are_no_number_stop_with_what_is_allowed(arguments):
    with pytest.raises(SystemExit, match="allowed: a number of jobs from 1"):
        parsed(arguments)


def test_a_failing_stage_fails_the_whole_and_names_itself(project: Project):
    project.edit(("methods: [sm, ls,", "methods: [sm, lsx,"))
    told = project.run("python", "-m", "heated.parallel", "2", status=255)
    assert "run.methods.1: came 'lsx'" in told
