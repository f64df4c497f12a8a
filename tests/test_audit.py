"""The audit, as a stranger runs it: every way to tamper with the evidence is caught."""

import dataclasses
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pipeline import consistency
from pipeline.config import Config
from pipeline.data.batches import in_order
from pipeline.evaluation.accuracy import evaluate
from pipeline.evaluation.counts import counts, layer_counts
from pipeline.files import digest_of_file, json_bytes, sha256
from pipeline.layout import (
    DENSE_STAGES,
    PrunedRun,
    iterations_file,
    metrics_file,
    owner,
    record_file,
    recorded_network_file,
    weights_file,
)
from pipeline.models import build
from pipeline.provenance import changed_since, git_state
from pipeline.pruning.masks import apply_, largest, prunable_weights
from pipeline.report import ledger
from pipeline.report.deployment_tables import proof_table, read_proofs
from pipeline.sparse import load_sparse, save_sparse
from pipeline.tensors import load_tensors, save_tensors
from pipeline.verification import EVALUATED, RecordedTests
from stages import audit as audit_stage
from stages import prove as prove_stage
from tests.fabricated import finish as fabricate
from tests.fabricated import put, vouch
from tests.project import ROOT, run, stage_here

RUN = PrunedRun("quickstart", "reweighted-admm", 50, 0)
RECORD, NETWORK = record_file(RUN), recorded_network_file(RUN)
CLAIMS = """
claims:
  - id: C1
    claim: as good
    source: nowhere
    metric: difference
    rule: kept
    target: {ratio: 50, difference: 0.0}
    seeds: 1
    answers: [{experiment: quickstart, ratio: 50, dataset: mnist-5k, scale: reduced}]
choices: []
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A project with one record of a real sparse network, its figures measured on real digits, and an audit."""
    root = tmp_path_factory.mktemp("audit")
    for name in ("params.yaml", "runs.yaml"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "pipeline", root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "paper").mkdir()
    (root / "paper/claims.yaml").write_text(CLAIMS)
    put(root / "paper/published.yaml", {"published": []})
    measure(root)
    audit(root)
    return root


@pytest.fixture
def project(original, tmp_path):
    """A copy to tamper with."""
    return shutil.copytree(original, tmp_path / "project")


def measure(root) -> None:
    """Record a network pruned by magnitude with what is measured of it."""
    config = Config(root)
    params = config.params_of(RUN, ledger.BLOCKS)
    found = ledger.Record(RUN, params, {"evaluate": {"dataset": "mnist-5k"}}, {}, None)
    test = RecordedTests(root).any_of(found)
    pruned = build(config.experiment("quickstart").model, 10, 0)
    weights = prunable_weights(pruned)
    apply_(weights, largest(weights, 430_500 // 50))
    accuracy = evaluate(pruned, in_order(test, 500))["accuracy"]
    fabricate(root, RUN)
    path = root / weights_file(RUN, "retrain")
    save_sparse(path, pruned.state_dict(), list(weights), {"run": RUN.name})
    dense = {}
    for seed, stage in enumerate(DENSE_STAGES, start=1):
        network = build(config.experiment("quickstart").model, 10, seed)
        save_tensors(root / weights_file(RUN.dense, stage), network.state_dict(), {"run": RUN.dense.name})
        dense[EVALUATED[stage]] = evaluate(network, in_order(test, 500))["accuracy"]
    dense["dense_best_accuracy"] = max(dense.values())
    data = {"dataset": "mnist-5k", "dataset_digest": test.digest, "test_images": len(test)}
    change(root, "evaluate", **data, **dense, pruned_accuracy=accuracy)
    (root / iterations_file(RUN)).write_text("iteration,nonzeros,primal_residual\n1,9000,0.2\n2,8700,0.0124\n")
    change(root, "prune", survivors_asked=8610, nonzeros_at_handover=8700, converged=True, primal_residual=0.0123)
    for name, epochs in {"pretrain": 15, "reference": 40, "prune": 12, "retrain": 28}.items():
        change(root, name, epochs=epochs)
    change(root, "benchmark", counts=counts(pruned, weights, torch.zeros(1, 1, 28, 28)), layers=layer_counts(weights))
    for name in ledger.STAGES:
        vouch(root, RUN, name)
    ledger.write_record(root, ledger.gather(root, config, RUN))


def change(root, stage_name, **values) -> None:
    file = root / metrics_file(owner(RUN, stage_name), stage_name)
    put(file, {**json.loads(file.read_text()), **values})


def audit(root, *arguments):
    return stage_here(root, audit_stage.main, *arguments)


def rewrite(root, change_) -> None:
    """Change a record's content, and make its digest right again."""
    content = json.loads((root / RECORD).read_text())
    content.pop("digest")
    change_(content)
    put(root / RECORD, {**content, "digest": ledger._digest(content)})


def rewrite_network(root, change_) -> None:
    """Change the sparse network, and make all digests right again."""
    state, about = load_sparse(root / NETWORK)
    prunable = [name for name in state if name.endswith("weight")]
    change_(state)
    save_sparse(root / NETWORK, state, prunable, about)
    content = (root / NETWORK).read_bytes()
    described = {"file": NETWORK.as_posix(), "sha256": ledger.sha256(content), "bytes": len(content)}
    rewrite(root, lambda record: record.update(sparse_network=described))


def test_untouched_evidence_is_verified(project):
    before = (project / "results/audit.json").read_bytes()
    printed = audit(project).stdout
    assert "1 of 1 records verified, 1 with their dense networks" in printed
    assert (project / "results/audit.json").read_bytes() == before
    (claim,) = json.loads(before)["claims"]
    assert claim["verdict"] in ("reproduced", "not reproduced")
    assert claim["evidence"] == [RECORD.as_posix()]


def more_accurate(content):
    content["metrics"]["evaluate"]["pruned_accuracy"] += 0.02


def fewer_survivors(content):
    content["metrics"]["benchmark"]["counts"]["surviving_weights"] -= 1


def more_compressed(content):
    content["metrics"]["benchmark"]["counts"]["compression_ratio"] *= 1.01


def worse_reference(content):
    content["metrics"]["evaluate"]["dense_best_accuracy"] -= 0.01


def never_converged(content):
    content["metrics"]["prune"]["primal_residual"] = 0.3


def cut_by_nature(content):
    content["metrics"]["prune"]["converged"] = None


def nearer_at_the_end(content):
    content["metrics"]["prune"].update(nonzeros_at_handover=8650, primal_residual=0.005)


def easier_opponent(content):
    content["metrics"]["evaluate"].update(dense_accuracy=0.01, reference_accuracy=0.01, dense_best_accuracy=0.01)


def harder_data(content):
    content["dataset"]["name"] = content["metrics"]["evaluate"]["dataset"] = "imagenet"


def smaller_test(content):
    content["dataset"]["test_images"] = content["metrics"]["evaluate"]["test_images"] = 999


def longer_training(content):
    content["provenance"]["retrain"]["params"] = {"extra_epochs": content["params"]["extra_epochs"]}
    content["params"]["extra_epochs"] += 1


def another_pruning(content):
    content["provenance"]["prune"]["outputs"][weights_file(RUN, "prune").as_posix()] = "0" * 64


def another_start(content):
    content["provenance"]["prune"]["inputs"][weights_file(RUN.dense, "pretrain").as_posix()] = "0" * 64


def consistent(stage_name, **values):
    """Other figures of a stage, and the digest of its metrics made right."""

    def change_(content):
        content["metrics"][stage_name].update(values)
        digest = sha256(json_bytes(content["metrics"][stage_name]))
        file = metrics_file(owner(RUN, stage_name), stage_name).as_posix()
        content["provenance"][stage_name]["outputs"][file] = digest

    return change_


def other_pictures(content):
    """Retrained on other pictures than pruned."""
    for stage_name, digest in {"prune": "0" * 64, "retrain": "1" * 64}.items():
        content["provenance"][stage_name]["inputs"]["data/quickstart/train.safetensors"] = digest


def hidden_network(content):
    content["sparse_network"] = None


def another_data_set(content):
    content["dataset"]["digest"] = content["metrics"]["evaluate"]["dataset_digest"] = "0" * 64


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (more_accurate, "the record says"),
        (fewer_survivors, "surviving_weights is 8610, the record says 8609"),
        (more_compressed, "compression_ratio is"),
        (worse_reference, "dense_best_accuracy is not the better"),
        (never_converged, "converged does not follow"),
        (another_data_set, "NOT VERIFIED"),
        (cut_by_nature, "converged is None, which reweighted-admm cannot be"),
        (nearer_at_the_end, "its figures of prune are not those that the stage wrote"),
        (easier_opponent, "its figures of evaluate are not those that the stage wrote"),
        (harder_data, "it was not evaluated on mnist-5k"),
        (smaller_test, "pictures, not 999"),
        (longer_training, "its parameters extra_epochs are not those that the stage retrain ran with"),
        (another_pruning, "the network that was retrained is not the one that was pruned"),
        (another_start, "its stage prune did not start from the dense network"),
        (consistent("prune", primal_residual=0.005), "its primal residual is 0.005"),
        (consistent("prune", nonzeros_at_handover=8650), "it had 8650 nonzeros at the hand-over"),
        (consistent("prune", updates=3), "it had 3 updates"),
        (consistent("retrain", epochs=100), "did not take 40 extra epochs each"),
        (consistent("reference", epochs=1), "did not take 40 extra epochs each"),
        (consistent("pretrain", epochs=1), "it was pretrained for 1 epochs, not 15"),
        (other_pictures, "its stages read different files data/quickstart/train.safetensors"),
        (hidden_network, "is small enough for git, and is not recorded"),
    ],
)
def test_a_changed_record_is_caught_even_with_its_digest_made_right(project, tamper, said):
    rewrite(project, tamper)
    found = audit(project)
    assert found.returncode == 1
    assert said in found.stdout + found.stderr


def test_a_changed_record_is_caught_by_its_digest(project):
    text = (project / RECORD).read_text()
    (project / RECORD).write_text(text.replace('"seconds": 1.5', '"seconds": 0.5', 1))
    found = audit(project)
    assert found.returncode == 1
    assert "was changed since it was recorded" in found.stderr


def test_a_changed_byte_of_the_network_is_caught(project):
    content = bytearray((project / NETWORK).read_bytes())
    content[-3] ^= 1
    (project / NETWORK).write_bytes(content)
    assert "is not the network that" in audit(project).stderr


def other_mask(state):
    """One more survivor."""
    weight = state["fc2.weight"] if "fc2.weight" in state else next(t for n, t in state.items() if n.endswith("weight"))
    place = (weight == 0).nonzero()[0]
    weight[tuple(place)] = 0.5


def moved_mask(state):
    """One survivor elsewhere in another layer: the number of survivors stays."""
    one, other = [tensor for name, tensor in state.items() if name.endswith("weight")][:2]
    one[tuple(one.nonzero()[0])] = 0.0
    other[tuple((other == 0).nonzero()[0])] = 0.5


def other_weights(state):
    """The same mask, weights of another sign."""
    for name in state:
        if name.endswith("weight"):
            state[name] = -state[name]


def slightly_other_weights(state):
    """A change that no picture notices."""
    state["fc1.weight"] *= 1.0001


@pytest.mark.parametrize("tamper", [other_mask, moved_mask, other_weights, slightly_other_weights])
def test_another_network_is_caught_even_with_all_digests_made_right(project, tamper):
    rewrite_network(project, tamper)
    found = audit(project)
    assert found.returncode == 1
    assert "WRONG" in found.stdout


@pytest.mark.parametrize("relabel", [{"method": "magnitude"}, {"seed": 1}])
def test_a_record_under_another_name_is_caught_even_with_all_digests_made_right(project, relabel):
    """As a copy would be that is to make up a seed, or a method that loses."""
    content = json.loads((project / RECORD).read_text())
    content.pop("digest")
    content["run"] |= relabel
    named = PrunedRun(**content["run"])
    content["sparse_network"]["file"] = recorded_network_file(named).as_posix()
    shutil.copy(project / NETWORK, project / recorded_network_file(named))
    put(project / record_file(named), {**content, "digest": ledger._digest(content)})
    found = audit(project)
    assert found.returncode == 1
    assert f"WRONG         {named.name}" in found.stdout
    assert f"its network is that of {RUN.name}" in found.stdout


def rewrite_dense(root, stage, change_) -> None:
    """Change a recorded dense network, and make its digest right everywhere in the record."""
    place = weights_file(RUN.dense, stage).as_posix()

    def point(content):
        old = content["dense_networks"][stage]
        file = root / old["file"]
        state, about = load_tensors(file)
        save_tensors(file, *change_(state, about))
        digest = digest_of_file(file)
        content["dense_networks"][stage] = {**old, "sha256": digest}
        content["provenance"][stage]["outputs"][place] = content["provenance"]["evaluate"]["inputs"][place] = digest

    rewrite(root, point)


@pytest.mark.parametrize("stage", DENSE_STAGES)
@pytest.mark.parametrize(
    ("change_", "said"),
    [
        (lambda state, about: ({name: -tensor for name, tensor in state.items()}, about), "has an accuracy of"),
        (lambda state, about: (state, {"run": "quickstart-dense-s1"}), "is that of quickstart-dense-s1"),
        (lambda state, about: ({name: state[name] for name in list(state)[1:]}, about), "the file has none"),
    ],
)
def test_another_dense_network_is_caught_even_with_all_digests_made_right(project, stage, change_, said):
    rewrite_dense(project, stage, change_)
    printed = audit(project).stdout
    assert f"WRONG         {RUN.name}" in printed
    assert said in printed, printed


def test_a_weaker_opponent_is_caught_even_where_the_record_is_consistent(project):
    """The figures of `evaluate` lowered, and every digest of them made right."""

    def weaken(content):
        easier_opponent(content)
        file = metrics_file(RUN, "evaluate").as_posix()
        made = content["provenance"]["evaluate"]["outputs"]
        made[file] = sha256(json_bytes(content["metrics"]["evaluate"]))

    rewrite(project, weaken)
    assert "its dense network of pretrain has an accuracy of" in audit(project).stdout


def test_a_dense_network_that_was_not_evaluated_is_caught(project):
    def swap(content):
        dense = content["dense_networks"]
        dense["pretrain"], dense["reference"] = dense["reference"], dense["pretrain"]

    rewrite(project, swap)
    assert "its dense network of pretrain is not the one that was trained and evaluated" in audit(project).stdout


@pytest.mark.parametrize("named", [RUN.experiment, RUN.name])
def test_a_record_without_its_dense_networks_is_refused_but_where_the_claims_name_it(project, named):
    rewrite(project, lambda content: content.pop("dense_networks"))
    shutil.rmtree(project / "artifacts")
    found = audit(project)
    assert found.returncode == 1
    assert "its dense network of reference is small enough for git, and is not recorded" in found.stdout
    with (project / "paper/claims.yaml").open("a") as claims:
        claims.write(f"without_dense: [{named}]\n")
    audit(project, "--no-data")  # the claims' digest is another one
    found = audit(project)
    assert found.returncode == 0
    assert "0 pictures answered differently, dense networks not committed" in found.stdout
    assert "1 of 1 records verified, 0 with their dense networks" in found.stdout


def test_a_changed_claim_is_caught(project):
    text = (project / "paper/claims.yaml").read_text()
    (project / "paper/claims.yaml").write_text(text.replace("claim: as good", "claim: nearly as good"))
    found = audit(project, "--no-data")
    assert found.returncode == 1
    assert "results/audit.json said otherwise of C1, paper/claims.yaml" in found.stderr


def test_a_claim_made_easier_is_refused_whatever_the_digests(project):
    text = (project / "paper/claims.yaml").read_text()
    (project / "paper/claims.yaml").write_text(text.replace("difference: 0.0", "difference: -1.0"))
    assert "the rule kept needs target.difference >= 0, got -1.0" in audit(project, "--no-data").stderr


def test_a_network_that_only_claims_to_be_too_large_is_caught(project):
    rewrite(project, consistent("benchmark", bytes={"dense": 9_000_000, "sparse": 6_000_000}))
    rewrite(project, hidden_network)
    shutil.rmtree(project / "artifacts")
    assert "its network is small enough for git, and is not recorded" in audit(project).stdout


def test_a_network_too_large_to_be_committed_is_taken_from_its_run_or_said_to_be_absent(project, monkeypatch):
    monkeypatch.setattr(consistency, "LARGEST_BYTES", 50_000)
    rewrite(project, consistent("benchmark", bytes={"dense": 1_800_000, "sparse": 60_000}))
    rewrite(project, hidden_network)
    (project / NETWORK).unlink()
    found = audit(project)
    assert "1 of 1 records verified" in found.stdout
    (project / weights_file(RUN, "retrain")).unlink()
    found = audit(project)
    assert f"not committed {RUN.name}" in found.stdout
    assert "0 of 1 records verified, 0 with their dense networks; 1 more have networks too large" in found.stdout
    assert found.returncode == 0
    rewrite(project, easier_opponent)
    assert "its figures of evaluate are not those" in audit(project).stdout


def test_a_verdict_typed_by_hand_is_caught(project):
    file = project / "results/audit.json"
    content = json.loads(file.read_text())
    content["claims"][0]["verdict"] = "inconclusive"
    put(file, content)
    found = audit(project, "--no-data")
    assert "said otherwise of C1" in found.stderr
    assert json.loads(file.read_text())["claims"][0]["verdict"] != "inconclusive"


def test_what_is_deployed_is_proven_on_the_whole_test_set(project):
    found = stage_here(project, prove_stage.main, RUN.name)
    assert found.returncode == 0, found.stderr
    (proof,) = json.loads((project / "results/proofs.json").read_text()).values()
    record = ledger.read_record(project, RECORD)
    assert proof["pictures"] == record.metrics["evaluate"]["test_images"]
    assert proof["network"] == record.sparse_network["sha256"]
    assert proof["fp64_difference"] <= 1e-5
    assert proof["fp32_changed_beyond_difference"] == 0
    assert proof["engine_difference"] is None or proof["engine_difference"] <= 1e-4
    (row,) = proof_table([record], read_proofs(project)).rows
    assert row[:2] == (RUN.name, f"{proof['pictures']:,}")
    other = {RUN.name: {**proof, "network": "0" * 64}}
    assert proof_table([record], other).rows == []


def test_only_what_is_recorded_can_be_proven(project):
    assert "nothing is recorded of lenet6" in stage_here(project, prove_stage.main, RUN.name, "lenet6").stderr
    rewrite(project, lambda content: content.update(sparse_network=None))
    (project / weights_file(RUN, "retrain")).unlink()
    assert f"{RUN.name} has no committed network" in stage_here(project, prove_stage.main, "quickstart").stderr


def test_data_that_is_not_there_verifies_nothing(project):
    def mnist(content):
        content["params"]["prepare"]["dataset"] = "imagenet"

    rewrite(project, mnist)
    found = audit(project)
    assert found.returncode == 1
    (line,) = [line for line in found.stdout.splitlines() if "NOT VERIFIED" in line]
    assert "it was not evaluated on imagenet" in line  # what was found without the data is said too
    assert "0 of 1 records verified" in found.stdout


def test_records_of_changed_method_code_are_marked(project):
    run(project, "git", "init", "-q")
    run(project, "git", "add", "-A")
    run(project, "git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qm", "state")
    commit = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    rewrite(project, lambda content: content["provenance"]["prune"].update(commit=commit))
    audit(project, "--no-data")
    assert json.loads((project / "results/audit.json").read_text())["code_since"] == {}
    code = project / "pipeline/pruning/admm.py"
    code.write_text(code.read_text() + "# another thought\n")
    printed = audit(project, "--no-data").stdout
    assert f"1 records: the method's code has changed since: {RECORD}" in printed
    assert json.loads((project / "results/audit.json").read_text())["code_since"] == {RECORD.as_posix(): "changed"}
    rewrite(project, lambda content: content["provenance"]["evaluate"].update(dirty=True))
    assert f"1 records: made with code that was not all committed: {RECORD}" in audit(project, "--no-data").stdout
    rewrite(project, lambda content: content["provenance"]["evaluate"].update(dirty=False))
    audit(project, "--no-data")
    before = (project / "results/audit.json").read_bytes()
    assert b'"changed"' in before
    shutil.rmtree(project / ".git")  # as in a downloaded archive
    audit(project, "--no-data")
    assert (project / "results/audit.json").read_bytes() == before
    rewrite(project, lambda content: content["provenance"]["prune"].update(commit="0123456789abcdef"))
    assert "may have changed since (the commit is not in this clone)" in audit(project, "--no-data").stdout


def test_a_folder_of_ones_own_is_the_data_set_that_the_parameters_name(project):
    record = ledger.read_record(project, RECORD)
    said = "it was not evaluated on"
    for dataset, name, right in (("folder", "folder:leaves", True), ("mnist", "folder:leaves", False)):
        params = {**record.params, "prepare": {**record.params["prepare"], "dataset": dataset}}
        evaluated = {**record.metrics["evaluate"], "dataset": name}
        other = dataclasses.replace(record, params=params, metrics={**record.metrics, "evaluate": evaluated})
        assert any(said in problem for problem in consistency._chain_problems(other)) != right


def test_a_listed_run_without_a_record_is_named(project):
    text = (project / "runs.yaml").read_text()
    (line,) = [line for line in text.splitlines() if line.lstrip().startswith("quickstart-reweighted-admm-50x-s0:")]
    added = line.replace("50x-s0", "20x-s0").replace("ratio: 50", "ratio: 20")
    (project / "runs.yaml").write_text(text.replace(line, f"{line}\n{added}"))
    assert "listed, not recorded: quickstart-reweighted-admm-20x-s0" in audit(project, "--no-data").stdout


def test_threads_that_ask_for_the_same_find_it_once(tmp_path):
    tests, found = RecordedTests(tmp_path), []

    def find() -> int:
        found.append(None)
        time.sleep(0.1)
        return 7

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: tests.remembered("a network", find), range(4))) == [7] * 4
    assert len(found) == 1


def test_without_git_code_counts_as_uncommitted(tmp_path):
    assert git_state(tmp_path) == {"commit": "unknown", "dirty": True}
    assert changed_since(tmp_path, "0123456789abcdef", "pipeline") == "unknown"
