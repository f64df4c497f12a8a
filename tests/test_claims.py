"""Claims as data, and verdicts by their rules: every case by hand."""

import pytest
import yaml

from pipeline.config import Config
from pipeline.data.sources import SOURCES
from pipeline.errors import ConfigError
from pipeline.files import read_json
from pipeline.layout import PrunedRun, weights_file
from pipeline.method_params import chosen_values
from pipeline.report.claims import Claim, read_claims
from pipeline.report.economy import economy
from pipeline.report.judging import judge
from pipeline.report.ledger import Record
from pipeline.report.published import read_published
from pipeline.yaml_files import read_yaml
from tests.fabricated import MACHINE, PARAMS, metrics_of
from tests.test_config import ROOT

ANSWER = {"experiment": "fabricated", "ratio": 10, "dataset": "mnist", "scale": "full"}
CLAIM = {"id": "C1", "claim": "as good", "source": "s", "metric": "m", "seeds": 3}
KEPT = {**CLAIM, "rule": "kept", "target": {"ratio": 9.5, "difference": 0.0}, "answers": [ANSWER]}
SUPERIOR = {**CLAIM, "rule": "superior", "target": {"difference": 0.0}, "against": [["magnitude"]], "answers": [ANSWER]}
ECONOMICAL = {
    **CLAIM,
    "seeds": 1,
    "rule": "economical",
    "target": {"within": 0.001},
    "against": [["gmp"]],
    "answers": [ANSWER],
}


def record(
    seed=0, pruned=0.97, method="reweighted-admm", converged=True, ratio=10, experiment="fabricated", start="", **params
) -> Record:
    """Dense best is 0.98; `start`: the digest of the dense network."""
    metrics = metrics_of(pruned, converged)
    run = PrunedRun(experiment, method, ratio, seed)
    params = {**PARAMS, "prune": {}, **params}
    dense = {weights_file(run.dense, "pretrain").as_posix(): start}
    provenance = {"prune": {"commit": "0" * 40, "machine": MACHINE, "inputs": dense}}
    return Record(run, params, metrics, provenance, None)


def verdict(claim, records, studies=None):
    return judge(Claim.model_validate(claim), records, studies or {})


def seeds(*accuracies, **more):
    return [record(seed, accuracy, **more) for seed, accuracy in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (seeds(0.98, 0.981, 0.979), "reproduced"),  # a mean of exactly the dense accuracy
        (seeds(0.98, 0.98, 0.979), "not reproduced"),
        (seeds(0.9753, 0.9753, 0.9894), "reproduced"),  # a mean of zero that floating point makes negative
        (seeds(0.99, 0.99), "inconclusive"),
        (seeds(0.99, 0.99, 0.99, converged=False), "inconclusive"),
        (seeds(0.99, 0.99) + [record(2, 0.90, converged=False)], "inconclusive"),
        (seeds(0.99, 0.99, 0.99, ratio=20), "not run"),
        ([], "not run"),
    ],
)
def test_accuracy_kept(records, expected):
    assert verdict(KEPT, records)["verdict"] == expected


def test_what_a_verdict_shows():
    found = verdict(KEPT, seeds(0.97, 0.975, 0.98))
    (measured,) = found["measured"]
    assert measured["mean"] == pytest.approx(-0.005)
    # t(0.975, 2) = 4.303, std 0.005: +- 4.303 * 0.005 / sqrt(3)
    assert measured["interval"] == pytest.approx([-0.005 - 0.012421, -0.005 + 0.012421], abs=1e-5)
    assert found["n_seeds"] == 3
    assert found["scale"] == "full"
    assert found["evidence"] == [f"results/fabricated/reweighted-admm-10x-s{seed}.json" for seed in range(3)]
    assert "4 more for pruning and retraining" in found["protocol"][0]


def test_a_ratio_below_the_target_supports_nothing():
    claim = {**KEPT, "target": {"ratio": 10.5, "difference": 0.0}}
    found = verdict(claim, seeds(0.99, 0.99, 0.99))
    assert (found["verdict"], found["why"].count("below the target")) == ("inconclusive", 1)


def test_another_data_set_answers_nothing():
    claim = {**KEPT, "answers": [{**ANSWER, "dataset": "imagenet"}]}
    assert verdict(claim, seeds(0.99, 0.99, 0.99))["verdict"] == "not run"


def test_only_reduced_results_say_so():
    answers = [{**ANSWER, "experiment": "elsewhere"}, {**ANSWER, "scale": "reduced"}]
    assert verdict({**KEPT, "answers": answers}, seeds(0.99, 0.99, 0.99))["scale"] == "reduced"


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((0.98, 0.97, 0.99), (0.97, 0.959, 0.981), "reproduced"),
        ((0.97, 0.959, 0.981), (0.98, 0.97, 0.99), "not reproduced"),
        ((0.98, 0.97, 0.99), (0.97, 0.98, 0.99), "inconclusive"),
        ((0.98, 0.97, 0.99), (0.97, 0.975, 0.97), "inconclusive"),  # better in the mean, and worse for one seed
        ((0.97, 0.975, 0.97), (0.98, 0.97, 0.99), "inconclusive"),
        ((0.99, 0.99), (0.90, 0.90), "inconclusive"),
    ],
)
def test_superiority_is_paired_by_seed(ours, theirs, expected):
    assert verdict(SUPERIOR, seeds(*ours) + seeds(*theirs, method="magnitude", converged=None))["verdict"] == expected


def test_the_better_variant_of_a_method_judges():
    claim = {**SUPERIOR, "against": [["admm-l0", "admm-l0-copied"]]}
    records = seeds(0.98, 0.97, 0.99)
    worse = seeds(0.90, 0.90, 0.90, method="admm-l0")
    better = seeds(0.981, 0.971, 0.991, method="admm-l0-copied")
    found = verdict(claim, records + worse + better)
    assert found["verdict"] == "not reproduced"
    assert found["measured"][0]["compared"] == "reweighted-admm - admm-l0-copied"


def test_a_variant_that_did_not_converge_or_has_no_pair_does_not_judge():
    claim = {**SUPERIOR, "against": [["admm-l0", "admm-l0-copied"]]}
    records = seeds(0.98, 0.97, 0.99) + seeds(0.97, 0.959, 0.981, method="admm-l0")
    cut = [record(0, 0.96, "admm-l0-copied"), *(record(n, 0.999, "admm-l0-copied", False) for n in (1, 2))]
    for copied in (cut, [record(7, 0.999, "admm-l0-copied")]):
        found = verdict(claim, records + copied)
        assert found["verdict"] == "reproduced"
        assert found["measured"][0]["compared"] == "reweighted-admm - admm-l0"


def test_comparisons_of_too_few_seeds_are_counted_beside_a_verdict():
    elsewhere = {**ANSWER, "ratio": 20}
    records = seeds(0.98, 0.97, 0.99) + seeds(0.97, 0.959, 0.981, method="magnitude", converged=None)
    records += [record(0, 0.5, ratio=20), record(0, 0.9, "magnitude", None, ratio=20)]
    found = verdict({**SUPERIOR, "answers": [ANSWER, elsewhere]}, records)
    assert found["verdict"] == "reproduced"
    assert found["why"].endswith("; besides: 1 undecided (too few comparable seeds that converged)")
    assert found["measured"][1]["why"].startswith("1 of 3 seeds, mean -40.000 pp")


def test_a_claim_that_names_several_networks_needs_a_decision_for_each():
    claim = {**SUPERIOR, "every": True, "answers": [ANSWER, {**ANSWER, "experiment": "elsewhere"}]}
    records = seeds(0.98, 0.97, 0.99) + seeds(0.97, 0.959, 0.981, method="magnitude", converged=None)
    found = verdict(claim, records)
    assert (found["verdict"], found["why"]) == ("inconclusive", "nothing decided for elsewhere; besides: 1 in favour")


def test_each_network_that_a_claim_names_needs_each_comparison():
    claim = {**SUPERIOR, "every": True, "against": [["gmp"], ["magnitude"]]}
    claim["answers"] = [ANSWER, {**ANSWER, "experiment": "elsewhere"}]
    better, worse = (0.98, 0.97, 0.99), (0.97, 0.959, 0.981)
    records = seeds(*better) + seeds(*worse, method="magnitude", converged=None)
    records += seeds(*better, experiment="elsewhere")
    records += seeds(*worse, experiment="elsewhere", method="gmp", converged=None)
    found = verdict(claim, records)
    gaps = "nothing decided for fabricated against gmp; nothing decided for elsewhere against magnitude"
    assert (found["verdict"], found["why"]) == ("inconclusive", f"{gaps}; besides: 2 in favour")
    records += seeds(*worse, method="gmp", converged=None)
    records += seeds(*worse, experiment="elsewhere", method="magnitude", converged=None)
    assert verdict(claim, records)["verdict"] == "reproduced"


def test_a_comparison_of_one_seed_is_shown_with_its_figure():
    records = [record(0, 0.98), record(0, 0.97, "magnitude", None)]
    found = verdict(SUPERIOR, records)
    assert found["verdict"] == "inconclusive"
    assert "fabricated at 10x, reweighted-admm - magnitude: 1 of 3 seeds, mean +1.000 pp" in found["why"]


@pytest.mark.parametrize(
    "changed",
    [
        {"extra_epochs": 40},
        {"training": {"batch_size": 1, "precision": "bf16"}},
        {"start": "another"},
        {"prune": {"rho": 1}},
    ],
)
def test_runs_of_different_settings_are_not_compared(changed):
    theirs = seeds(0.97, 0.959, 0.981, method="magnitude", converged=None)
    assert verdict(SUPERIOR, seeds(0.98, 0.97, 0.99) + theirs)["verdict"] == "reproduced"
    ours = [*seeds(0.98, 0.97), record(2, 0.99, **changed)]
    found = verdict(SUPERIOR, ours + theirs)
    assert (found["verdict"], "differ in more than method and seed" in found["why"]) == ("inconclusive", True)


def test_seeds_of_different_settings_are_not_averaged():
    found = verdict(KEPT, [*seeds(0.99, 0.99), record(2, 0.99, extra_epochs=40)])
    assert (found["verdict"], "differ in more than method and seed" in found["why"]) == ("inconclusive", True)


def test_without_a_common_seed_nothing_is_compared():
    assert verdict(SUPERIOR, [record(0, 0.98), record(1, 0.97, "magnitude", None)])["verdict"] == "not run"


def test_what_did_not_converge_is_no_evidence():
    records = seeds(0.98, 0.97) + [record(2, 0.99, converged=False)]
    records += seeds(0.5, 0.5, 0.5, method="magnitude", converged=None)
    assert [
        file for file in verdict(SUPERIOR, records)["evidence"] if file.endswith("reweighted-admm-10x-s2.json")
    ] == []


def test_a_method_that_did_not_converge_is_shown_and_decides_nothing():
    records = seeds(0.98, 0.97, 0.99) + seeds(0.5, 0.5, 0.5, method="magnitude", converged=False)
    found = verdict(SUPERIOR, records)
    assert found["verdict"] == "inconclusive"
    assert "not converged, mean +48.000 pp" in found["measured"][0]["why"]


def test_one_lost_comparison_loses_the_claim():
    claim = {**SUPERIOR, "against": [["magnitude"], ["gmp"]]}
    ours, worse = seeds(0.98, 0.97, 0.99), seeds(0.97, 0.959, 0.981, method="magnitude", converged=None)
    better = seeds(0.985, 0.976, 0.995, method="gmp", converged=None)
    found = verdict(claim, ours + worse + better)
    assert found["verdict"] == "not reproduced"
    assert "gmp" in found["why"]
    assert "magnitude" not in found["why"]


def test_a_method_that_nothing_was_decided_against_leaves_the_claim_open():
    claim = {**SUPERIOR, "against": [["magnitude"], ["admm-l1"]]}
    ours, worse = seeds(0.98, 0.97, 0.99), seeds(0.97, 0.959, 0.981, method="magnitude", converged=None)
    cut = seeds(0.5, 0.5, 0.5, method="admm-l1", converged=False)
    for records in (ours + worse, ours + worse + cut):
        found = verdict(claim, records)
        assert found["verdict"] == "inconclusive"
        assert found["why"].split(";")[0] == "nothing decided against admm-l1"


def trial(method, seconds, accuracy, converged=True, **values):
    identity = {"method": method, "ratio": 10, "values": values}
    return {"trial": identity, "seconds": seconds, "validation_accuracy": accuracy, "converged": converged}


@pytest.fixture
def declared(monkeypatch):
    """Values that a person chooses for a method, as a test needs them."""
    values = {"reweighted-admm": ("a",), "gmp": ("a", "b"), "magnitude": ("a",), "admm-l1": ("a",)}
    monkeypatch.setattr("pipeline.report.economy.chosen_values", values.get)
    return values


def test_economy_counts_the_trials_before_the_first_good_one(declared):
    rows = [trial("gmp", 10, 0.95, lr=1), trial("gmp", 20, 0.9895, lr=2), trial("gmp", 40, 0.99, lr=3, ramp=1)]
    rows += [trial("magnitude", 5, 0.98, lr=1), trial("admm-l1", 5, 0.999, converged=False, rho=1)]
    found = economy(rows, within=0.001)
    assert (found["gmp"].seconds, found["gmp"].seconds_all, found["gmp"].values_chosen) == (30, 70, 2)
    assert found["magnitude"].seconds is None
    assert (found["admm-l1"].seconds, found["admm-l1"].best) == (None, None)
    assert found["gmp"].best == 0.99
    assert found["gmp"].faster_than(found["magnitude"])
    assert not found["magnitude"].faster_than(found["gmp"])


@pytest.mark.parametrize(
    ("rows", "gmp", "expected"),
    [
        ([trial("reweighted-admm", 5, 0.99), trial("gmp", 9, 0.99)], ("a", "b"), "reproduced"),
        ([trial("reweighted-admm", 9, 0.99), trial("gmp", 5, 0.99)], ("a",), "not reproduced"),
        ([trial("reweighted-admm", 5, 0.99), trial("gmp", 9, 0.99)], ("a",), "inconclusive"),
        ([trial("gmp", 9, 0.99)], ("a",), "not run"),
        ([trial("reweighted-admm", 9, 0.99)], ("a",), "not run"),
    ],
)
def test_the_verdict_on_economy(declared, rows, gmp, expected):
    declared["gmp"] = gmp
    found = verdict(ECONOMICAL, [], {"fabricated-tuning": rows})
    assert found["verdict"] == expected
    assert found["evidence"] == ([] if expected == "not run" else ["results/fabricated-tuning.json"])


def test_the_projects_own_claims_are_valid_and_answerable():
    """Every experiment that is to answer is in params.yaml, but for those that need other machines."""
    found = read_claims(ROOT, read_published(ROOT))
    assert [claim.id for claim in found.claims] == [f"C{number}" for number in range(1, 7)]
    listed = read_yaml(ROOT / "params.yaml")["experiments"]
    for claim in found.claims:
        for answer in [*claim.answers, *claim.also]:
            assert answer.experiment in listed, claim.id
            assert answer.dataset in SOURCES, claim.id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rule": "best"}, "line 3: claims.0.rule should be 'kept', 'superior' or 'economical', got 'best'"),
        ({"ratio_": 1}, "claims.0.ratio_ is not a known field"),
        ({"source": None}, "claims.0.source"),
        ({"against": [["magic"]]}, "got magic"),
        ({"target": {"ratio": 0.5, "difference": 0}}, "claims.0.target.ratio should be greater than 1, got 0.5"),
        ({"target": {"ratio": 2}}, "the rule kept needs target.difference"),
        ({"target": {"ratio": 2, "difference": -0.01}}, "the rule kept needs target.difference >= 0, got -0.01"),
        ({**SUPERIOR, "seeds": 1}, "the rule superior needs seeds >= 3"),
    ],
)
def test_a_mistake_in_the_claims_names_its_line(tmp_path, change, said):
    (tmp_path / "paper").mkdir()
    text = yaml.safe_dump({"claims": [{"rule": "kept", **KEPT, **change}], "choices": []}, sort_keys=False)
    (tmp_path / "paper/claims.yaml").write_text("# head\n" + text)
    with pytest.raises(ConfigError, match=r"paper/claims\.yaml: 1 to correct") as caught:
        read_claims(tmp_path, [])
    assert said in str(caught.value)


def test_claims_and_published_numbers_must_agree(tmp_path):
    """A target that was made easier is noticed."""
    (tmp_path / "paper").mkdir()
    text = (ROOT / "paper/claims.yaml").read_text()
    (tmp_path / "paper/claims.yaml").write_text(text.replace("ratio: 355.9", "ratio: 300"))
    with pytest.raises(ConfigError, match="disagree on the ratio of C1: 300 and 355.9"):
        read_claims(tmp_path, read_published(ROOT))


def test_a_wrong_published_entry_names_its_line(tmp_path):
    (tmp_path / "paper").mkdir()
    text = (ROOT / "paper/published.yaml").read_text().replace("year: 2024", "year: soon", 1)
    (tmp_path / "paper/published.yaml").write_text(text)
    line = text[: text.index("soon")].count("\n") + 1
    with pytest.raises(ConfigError, match=f"line {line}: published.0.year"):
        read_published(tmp_path)


@pytest.mark.parametrize("file", sorted(ROOT.glob("results/*-tuning.json")), ids=lambda file: file.stem)
def test_the_parameters_are_those_of_the_best_trial(file):
    """Of a method's trials the best on validation, those that converged before those that did not."""
    content = read_json(file)
    config = Config(ROOT)
    best: dict = {}
    for row in content["trials"]:
        standing = row["converged"] is not False, row["validation_accuracy"]
        method = row["trial"]["method"]
        if method not in best or standing > best[method][0]:
            best[method] = standing, row["trial"]["values"]
    experiment = config.experiment(content["experiment"])
    counts = {method: sum(row["trial"]["method"] == method for row in content["trials"]) for method in best}
    assert len(set(counts.values())) == 1
    for method, (_, values) in best.items():
        chosen = experiment.prune.method(method)
        assert set(values) == set(chosen_values(method))
        assert {name: getattr(chosen, name) for name in values} == values, method
