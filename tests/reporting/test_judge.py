import json
import re

import pytest
from conftest import ROOT

from heated import config
from heated.analysis.claims import assess_claims
from heated.common.errors import InputError
from heated.reporting.judge import judge_results, values_by_seed
from heated.reporting.release import claims_markdown, links_from_root

CLAIMS = {name: claim.model_dump() for name, claim in config.load_params(ROOT).claims.items()}
RELEASED = sorted((ROOT / "results").glob("*.json"))
# The longest training of each set of images.
LONGEST = ("omniglot-e60", "omniglot-small-e100", "cub100-224", "cars196-half-224")
# README's columns, from the second on: effects with batch norm.
COLUMNS = ("bn-heat-recall", "bn-heat-map", "bn-drop-recall", "bn-drop-map")


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_released_verdicts_follow_from_the_released_numbers_and_the_claims(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    claims = assess_claims(CLAIMS, values_by_seed(document), document["dataset"])
    for one, released in zip(claims, document["claims"], strict=True):
        assert one.keys() == released.keys()
        for key in one.keys() - {"interval", "parts"}:
            exact = not isinstance(one[key], float)
            assert released[key] == (one[key] if exact else pytest.approx(one[key]))
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert claims_markdown(document["claims"]) in text
    assert links_from_root(text) in (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    for link in re.findall(r"]\(([^)#]+)\)", text):
        assert (path.parent / link).exists(), link


def test_a_released_metric_that_lacks_a_seed_is_refused(tmp_path):
    path = tmp_path / RELEASED[0].name
    document = json.loads(RELEASED[0].read_text(encoding="utf-8"))
    method = next(iter(document["studies"]["run"]))
    document["studies"]["run"][method]["recall_at_1"]["seeds"].pop("1")
    path.write_text(json.dumps(document), encoding="utf-8")
    lacks = f"study run, method {method}: recall_at_1 lacks the seed 1 of the other runs"
    with pytest.raises(InputError, match=rf"{path.name} is damaged .{lacks}\)\. Restore it"):
        judge_results(tmp_path, CLAIMS)


def test_judging_changes_only_the_claims(tmp_path):
    path = ROOT / "results" / "cub100-224.json"  # with a section after the claims
    released = [path.with_suffix(suffix) for suffix in (".json", ".md")]
    document, old = (path.read_text(encoding="utf-8") for path in released)
    paths = [tmp_path / path.name for path in released]
    paths[0].write_text(document, encoding="utf-8")
    paths[1].write_text(old.replace("### Replication results", "### Verdicts"), encoding="utf-8")
    judge_results(tmp_path, CLAIMS)  # also reads the former title
    before = [path.read_text(encoding="utf-8") for path in paths]
    assert before[0] == document
    ends = re.compile(r"### (Verdicts|Replication results)\n.*?(?=\n\n### )", re.S)
    assert ends.sub("", before[1]) == ends.sub("", old)
    assert "### Main effects over test classes" in before[1]
    judge_results(tmp_path, CLAIMS)
    assert [path.read_text(encoding="utf-8") for path in paths] == before
    judge_results(tmp_path, {name: CLAIMS[name] for name in ("hbn-over-bn", "bn-over-sm")})
    document = json.loads(paths[0].read_text(encoding="utf-8"))
    assert [one["claim"] for one in document.pop("claims")] == ["hbn-over-bn", "bn-over-sm"]
    assert document == {k: v for k, v in json.loads(before[0]).items() if k != "claims"}


def is_tested(document, claim):
    return next(not one["missing"] for one in document["claims"] if one["claim"] == claim)


def test_readmes_table_has_the_released_numbers():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documents = {path.stem: json.loads(path.read_bytes()) for path in RELEASED}
    measured = {name for name, each in documents.items() if is_tested(each, "bn-heat-map")}
    assert {row[0].split("`")[1] for row in rows} == measured
    assert len(rows) == len(measured) >= 11
    for name, n, *effects in rows:
        path = ROOT / "results" / f"{name.split('`')[1]}.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        claims = {one["claim"]: one for one in document["claims"]}
        assert int(n) == claims["hbn-over-bn"]["n"]
        for cell, column in zip(effects, COLUMNS, strict=True):
            numbers = (claims[column]["effect"], *claims[column]["interval"])
            effect, low, high = (f"{100 * each:+.2f}".replace("-", "−") for each in numbers)
            assert cell.replace("*", "") == f"{effect} ({low} to {high})"
            significant = claims[column]["verdict_adjusted"] in ("supported", "contradicted")
            assert cell.startswith("**") == significant


def test_readmes_summary_follows_from_the_longest_trainings():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    documents = [json.loads((ROOT / "results" / f"{n}.json").read_bytes()) for n in LONGEST]
    claims = [{one["claim"]: one for one in each["claims"]} for each in documents]
    intervals = {each["dataset"]: each["test_classes"] for each in documents}
    percents = {
        claim: [f"{100 * each[claim]['effect']:+.2f}" for each in claims]
        for claim in ("hbn-over-bn", "hbn-over-bn-map", "bn-heat-recall", "bn-heat-map")
    }
    assert "is {}, {}, {} and {} points of MAP@R".format(*percents["hbn-over-bn-map"]) in readme
    assert "{}, {}, {} and {} of Recall@1".format(*percents["hbn-over-bn"]) in readme
    heat = (
        "heat raised MAP@R by 2 to 3 points, significantly on all four. Recall@1 rose by 0.5 to "
        "3, significantly on two (`omniglot-small-e100`, `cars196-half-224`). "
    )
    assert heat in readme
    assert "It was significant on the same sets for the paper's heat with drop" in readme
    for claim, least in (("bn-heat-map", 2), ("bn-heat-recall", 0.5)):
        halves = [round(2 * float(each)) / 2 for each in percents[claim]]
        assert (min(halves), max(halves)) == (least, 3)
    for each in claims:
        for claim in ("bn-heat-map", "hbn-over-bn-map"):
            assert each[claim]["verdict_adjusted"] == "supported"
        for heat in ("bn-heat-recall", "bn-heat-map"):
            assert intervals[each["hbn-over-bn"]["dataset"]][heat]["interval"][0] > 0
    for claim in ("bn-heat-recall", "hbn-over-bn"):
        undecided = [each[claim]["verdict_adjusted"] == "undecided" for each in claims]
        assert undecided == [True, False, True, False]
    e100 = claims[LONGEST.index("omniglot-small-e100")]
    for control in ("heat-over-constants", "heat-over-lr"):
        for metric in ("recall", "map"):
            assert e100[f"{control}-{metric}"]["verdict_adjusted"] == "supported"
    for metric, sentence in (("map", "MAP@R there by"), ("recall", "and Recall@1 by")):
        heat = e100[f"ln-heat-{metric}"]
        values = (f"{100 * each:+.2f}" for each in (heat["effect"], *heat["interval"]))
        effect, low, high = (each.replace("-", "−") for each in values)
        assert f"{sentence} {effect} ({low} to {high})" in readme
    assert e100["ln-heat-map"]["verdict_adjusted"] == "supported"


def test_readme_compares_with_the_untrained_network():
    """Its features are those of benchmarks/pretrained.py, on the same images and classes."""
    text = (ROOT / "benchmarks/results/pretrained-cub100.json").read_text(encoding="utf-8")
    pooled, document = json.loads(text), json.loads((ROOT / "results/cub100-224.json").read_bytes())
    bn = document["studies"]["run"]["bn"]["recall_at_1"]["mean"]
    points = f"{100 * (pooled['recall_at_1'] - bn):.1f} points less"
    for name in ("README.md", "RESULTS.md"):
        page = " ".join((ROOT / name).read_text(encoding="utf-8").split())
        assert points in page
        assert f"{pooled['dimensions']:,} pooled features" in page
    assert pooled["classes"] == document["split"]["query"]["classes"]


def test_readme_says_how_the_effect_of_heat_grows_with_the_training():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    small = {f"omniglot-small-e{epochs}": epochs for epochs in (10, 20, 40, 100)}
    heats = []
    for name, epochs in (small | {"omniglot": 10, "omniglot-e20": 20, "omniglot-e60": 60}).items():
        document = json.loads((ROOT / f"results/{name}.json").read_bytes())
        assert document["parameters"]["epochs"] == str(epochs)
        (heat,) = (one for one in document["claims"] if one["claim"] == "bn-heat-map")
        heats.append(f"{100 * heat['effect']:+.2f}")
    longer = (
        "after 10, 20, 40 and 100 epochs of `omniglot-small`, {}, {}, {} and {} points of MAP@R; "
        "after 10, 20 and 60 of `omniglot` (not the same seeds), {}, {} and {}."
    )
    assert longer.format(*heats) in readme


def test_readme_says_what_the_drop_changes_without_and_with_heat():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    changes = []
    for after, before in (("bn-drop", "bn"), ("hbn", "bn-heat")):
        for name in LONGEST:
            values = values_by_seed(json.loads((ROOT / "results" / f"{name}.json").read_bytes()))
            one, other = (values[method]["map_at_r"] for method in (after, before))
            mean = sum(one[seed] - other[seed] for seed in one) / len(one)
            changes.append(f"{100 * mean:+.2f}".replace("-", "−"))
    without = (
        "Without heat, the drop changed MAP@R by {}, {}, {} and {} points, "
        "with heat by {}, {}, {} and {} (looked at afterwards)."
    )
    assert without.format(*changes) in readme


def test_all_runs_of_the_plan_are_trained():
    """Each run of docs/preregistration.md has its methods and seeds."""
    bn, ln = (
        [name, f"{name}-drop", f"{name}-heat", heated]
        for name, heated in (("bn", "hbn"), ("ln", "hln"))
    )
    more = ["bn-4", "bn-8", "hbn-8-4-76", "hbn-8-2-76", "bn-lr-quarter", "bn-lr-4"]
    plan = {"omniglot-small-e100": ([*ln, *bn, *more], 8), "omniglot-e60": (bn, 5)}
    plan |= {f"omniglot-small-e{epochs}": (bn, 5) for epochs in (10, 20, 40)}
    plan |= {"mnist": (["ln-quarter", "ln-4", "ln-64", "ln", "hln-mnist"], 3)}
    plan |= {name: (bn, 5) for name in ("cub100-224", "cars196-half-224")}
    losses = config.load_params(ROOT).studies.heated_partners.methods
    assert len(losses) == 16
    plan |= {"omniglot-small-partners": ([*losses, "hbn"], 5)}
    for name, (methods, seeds) in plan.items():
        first = 200 if name.endswith("partners") else 100
        values = values_by_seed(json.loads((ROOT / "results" / f"{name}.json").read_bytes()))
        assert values.keys() == {*methods}
        for each in values.values():
            assert each["recall_at_1"].keys() >= {*range(first, first + seeds)}
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    whole = "All runs of that plan are trained, those at 224 × 224 with batch norm only"
    assert whole in readme


def test_readme_says_which_other_losses_heat_changes():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    path = ROOT / "results" / "omniglot-small-partners.json"
    tested = [
        one
        for one in json.loads(path.read_bytes())["claims"]
        if one["claim"].startswith("heated-") and one["status"] == "confirmatory" and one["n"]
    ]
    assert len(tested) == 16
    verdicts = {one["claim"]: one["verdict_adjusted"] for one in tested}
    assert "supported" not in verdicts.values()
    harmed = [name for name, verdict in verdicts.items() if verdict == "contradicted"]
    assert harmed == ["heated-supcon-recall", "heated-supcon-map"]
    sentence = "none was significantly better with heat, and SupCon was worse in both metrics"
    assert sentence in readme
