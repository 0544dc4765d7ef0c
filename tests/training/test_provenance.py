from test_training_run import SETTINGS, run_in

from heated.training import provenance


def key(folder, method="hln", params=SETTINGS):
    return provenance.of(run_in(folder), {"recipe": "digits", "method": method}, params)["key"]


def test_methods_that_are_trained_alike_have_keys_of_their_own(tmp_path):
    assert key(tmp_path) == key(tmp_path)
    assert key(tmp_path) != key(tmp_path, method="tuned-hln")
    assert key(tmp_path) != key(tmp_path, params=SETTINGS | {"note": "at another epoch"})


def test_another_processor_rounds_differently_and_has_another_key(tmp_path, monkeypatch):
    here = key(tmp_path)
    found = provenance.environment
    monkeypatch.setattr(provenance, "environment", lambda d: found(d) | {"device": "another"})
    assert key(tmp_path) != here
