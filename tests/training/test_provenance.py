from test_training_run import SETTINGS, run_in

from heated.training import provenance


def key(folder, method="hln", params=SETTINGS):
    return provenance.of(run_in(folder), {"recipe": "digits", "method": method}, params)["key"]


def test_a_key_tells_methods_that_are_trained_alike_and_processors_apart(tmp_path, monkeypatch):
    here = key(tmp_path)
    assert key(tmp_path) == here
    assert key(tmp_path, method="tuned-hln") != here
    assert key(tmp_path, params=SETTINGS | {"note": "at another epoch"}) != here
    found = provenance.collect_environment  # another processor rounds differently
    monkeypatch.setattr(
        provenance, "collect_environment", lambda d: found(d) | {"device": "another"}
    )
    assert key(tmp_path) != here
