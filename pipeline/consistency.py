"""A record checked against itself and its curves: figures that follow from others, chains of digests, limits."""

import csv
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import digest_of_file, json_bytes, sha256
from pipeline.layout import DENSE_STAGES, data_file, iterations_file, metrics_file, owner, weights_file
from pipeline.models import build
from pipeline.params import Model
from pipeline.pruning.control import converged
from pipeline.pruning.masks import prunable_weights, survivors_asked
from pipeline.report.kept_networks import LARGEST_BYTES
from pipeline.report.ledger import STAGES, Record

AFTER_LAST_UPDATE = 0.1  # the residual moves so much at most, in parts of it, in the steps after the last update
CUTS = ("gmp", "magnitude")  # methods that cut by their nature, so that there is nothing to converge
# No file of a network is larger: a value and a position for each survivor, a value for all else, classes and a header.
VALUE_BYTES, POSITION_BYTES, HEADER_BYTES, MOST_CLASSES = 4, 4, 65_536, 1_000


def contradictions(root: Path, record: Record) -> list[str]:
    """What the record says, and cannot be."""
    return [*_arithmetic_problems(record), *_chain_problems(record), *_curve_problems(root, record)]


def _arithmetic_problems(record: Record) -> Sequence[str]:
    """What a record says of itself and cannot be: figures that follow from others, and limits of the method."""
    evaluate_: Mapping[str, Any] = record.metrics["evaluate"]
    prune: Mapping[str, Any] = record.metrics["prune"]
    problems = []
    if evaluate_["dense_best_accuracy"] != max(evaluate_["dense_accuracy"], evaluate_["reference_accuracy"]):
        problems.append("dense_best_accuracy is not the better of the two dense ones")
    asked = survivors_asked(record.metrics["benchmark"]["counts"]["prunable_weights"], record.run.ratio)
    if prune["survivors_asked"] != asked:
        problems.append(f"survivors_asked is {prune['survivors_asked']}, {record.run.ratio}x asks for {asked}")
    if prune["converged"] is not None and prune["converged"] != converged(
        prune["nonzeros_at_handover"], prune["survivors_asked"], prune.get("primal_residual", math.nan)
    ):
        problems.append("converged does not follow from nonzeros and primal residual at the hand-over")
    return problems


def _chain_problems(record: Record) -> Iterator[str]:
    """Where the record's parts do not belong together: each stage's metrics, the network, the data set."""
    run, made = record.run, record.provenance
    for stage in STAGES:
        file = metrics_file(owner(run, stage), stage).as_posix()
        if made[stage]["outputs"].get(file) != sha256(json_bytes(record.metrics[stage])):
            yield f"its figures of {stage} are not those that the stage wrote"
        for block, value in made[stage]["params"].items():
            if record.params.get(block) != value:
                yield f"its parameters {block} are not those that the stage {stage} ran with"
    place = weights_file(run, "prune").as_posix()
    if made["retrain"]["inputs"].get(place, "none") != made["prune"]["outputs"].get(place):
        yield "the network that was retrained is not the one that was pruned"
    place = weights_file(run, "retrain").as_posix()
    evaluated = made["evaluate"]["inputs"].get(place)
    recorded = record.sparse_network["sha256"] if record.sparse_network else evaluated
    if not recorded == evaluated == made["retrain"]["outputs"].get(place):
        yield "its network is not the one that was retrained and evaluated"
    for stage in DENSE_STAGES:
        place = weights_file(run.dense, stage).as_posix()
        evaluated = made["evaluate"]["inputs"].get(place)
        recorded = record.dense_networks[stage]["sha256"] if stage in record.dense_networks else evaluated
        if not recorded == evaluated == made[stage]["outputs"].get(place):
            yield f"its dense network of {stage} is not the one that was trained and evaluated"
    place = weights_file(run.dense, "pretrain").as_posix()
    for stage in ("reference", "prune"):
        if made[stage]["inputs"].get(place) != made["pretrain"]["outputs"].get(place):
            yield f"its stage {stage} did not start from the dense network"
    for part in ("train", "validate"):
        place = data_file(run.experiment, part).as_posix()
        if len({one["inputs"][place] for one in made.values() if place in one["inputs"]}) > 1:
            yield f"its stages read different files {place}"
    epochs = {
        stage: record.metrics[stage].get("epochs", math.nan) for stage in ("pretrain", "reference", "prune", "retrain")
    }
    if epochs["pretrain"] != record.params["pretrain"]["epochs"]:
        yield f"it was pretrained for {epochs['pretrain']} epochs, not {record.params['pretrain']['epochs']}"
    if not epochs["reference"] == epochs["prune"] + epochs["retrain"] == record.params["extra_epochs"]:
        yield f"its pruning, retraining and reference did not take {record.params['extra_epochs']} extra epochs each"
    if record.dataset["name"].partition(":")[0] != record.params["prepare"]["dataset"]:  # folder:its-name
        yield f"it was not evaluated on {record.params['prepare']['dataset']}, which its parameters name"
    if (record.converged is None) != (run.method in CUTS):
        yield f"converged is {record.converged}, which {run.method} cannot be"


def _curve_problems(root: Path, record: Record) -> Iterator[str]:
    """Where the committed iterations are not the pruning's, or end elsewhere than the record says."""
    place = iterations_file(record.run)
    if not (root / place).is_file() or digest_of_file(root / place) != record.provenance["prune"]["outputs"].get(
        place.as_posix()
    ):
        yield f"{place} is missing, or not what the stage prune wrote"
        return
    prune = record.metrics["prune"]
    if prune["converged"] is None:
        return
    updates = list(csv.DictReader((root / place).read_text().splitlines()))
    last = updates[-1] if updates else {}
    nonzeros, residual = (float(last.get(name, math.nan)) for name in ("nonzeros", "primal_residual"))
    said = prune.get("primal_residual", math.nan)
    if len(updates) != prune["updates"]:
        yield f"it had {prune['updates']} updates, {place} has {len(updates)}"
    if nonzeros != prune["nonzeros_at_handover"]:
        yield f"it had {prune['nonzeros_at_handover']} nonzeros at the hand-over, {place} ends at {nonzeros:.0f}"
    if not math.isclose(said, residual, rel_tol=AFTER_LAST_UPDATE):
        yield f"its primal residual is {said:.3f}, {place} ends at {residual:.3f}"


def missing_networks(record: Record, without_dense: Collection[str]) -> Iterator[str]:
    """Networks that are not recorded, although no file of such a network is too large for git."""
    if len(record.networks) == 1 + len(DENSE_STAGES):
        return
    said = record.metrics["benchmark"]["bytes"]
    network = build(Model.model_validate(record.params["model"]), MOST_CLASSES, record.run.seed)
    values = sum(tensor.numel() for tensor in network.state_dict().values())
    prunable = sum(weight.numel() for weight in prunable_weights(network).values())
    survivors = survivors_asked(prunable, record.run.ratio)
    sparse = survivors * (VALUE_BYTES + POSITION_BYTES) + (values - prunable) * VALUE_BYTES + HEADER_BYTES
    if record.sparse_network is None and min(sparse, said["sparse"]) < LARGEST_BYTES:
        yield "its network is small enough for git, and is not recorded"
    dense = min(values * VALUE_BYTES + HEADER_BYTES, said["dense"])
    if dense >= LARGEST_BYTES or {record.run.experiment, record.run.name} & set(without_dense):
        return
    for stage in DENSE_STAGES:
        if stage not in record.dense_networks:
            yield f"its dense network of {stage} is small enough for git, and is not recorded"
