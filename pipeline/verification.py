"""A record checked against itself: its sparse network is counted, and all its networks are evaluated again."""

import csv
import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from torch import Tensor, nn

from pipeline.data import sources
from pipeline.data.batches import PictureSet, in_order, picture_set
from pipeline.data.dataset import Options
from pipeline.data.preparation import prepared
from pipeline.errors import ArtifactError, ConfigError, DataError
from pipeline.evaluation.accuracy import evaluate
from pipeline.evaluation.counts import counts, layer_counts
from pipeline.files import digest_of_file, json_bytes, sha256
from pipeline.layout import DENSE_STAGES, data_file, iterations_file, metrics_file, owner, weights_file
from pipeline.models import build
from pipeline.params import Model, Prepare
from pipeline.pruning.control import converged
from pipeline.pruning.masks import prunable_weights, survivors_asked
from pipeline.report.kept_networks import LARGEST_BYTES
from pipeline.report.ledger import STAGES, Record
from pipeline.sparse import load_sparse
from pipeline.tensors import load_tensors

# Another processor may round another way: so many of 10,000 pictures may be answered differently.
PICTURES_OFF, OF = 2, 10_000
AFTER_LAST_UPDATE = 0.1  # the residual moves so much at most, in parts of it, in the steps after the last update
BATCH = 100  # small enough for the processor's caches
EVALUATED = {"retrain": "pruned_accuracy", "pretrain": "dense_accuracy", "reference": "reference_accuracy"}
T = TypeVar("T")
CUTS = ("gmp", "magnitude")  # methods that cut by their nature, so that there is nothing to converge
# No file of a network is larger: a value and a position for each survivor, a value for all else, classes and a header.
VALUE_BYTES, POSITION_BYTES, HEADER_BYTES, MOST_CLASSES = 4, 4, 65_536, 1_000
COUNTED = ("surviving_weights", "prunable_weights", "compression_ratio", "compression_ratio_all_parameters")


@dataclass(frozen=True)
class Checked:
    """What came of checking one record.

    `problems`: what is wrong; `not_verified`: why it could not be checked; `not_committed`: its sparse network is
    not in git, nor on this machine, so that only what the record says of itself was checked; `dense_verified`: both
    dense networks were evaluated too.
    """

    run: str
    problems: tuple[str, ...] = ()
    not_verified: str | None = None
    not_committed: bool = False
    pictures_off: int | None = None
    dense_verified: bool = False

    @property
    def verified(self) -> bool:
        return not (self.problems or self.not_verified or self.not_committed)

    @property
    def failed(self) -> bool:
        return bool(self.problems or self.not_verified)

    @property
    def sentence(self) -> str:
        if self.not_verified:
            return f"NOT VERIFIED  {self.run}: {self.not_verified}"
        if self.problems:
            return f"WRONG         {self.run}: {'; '.join(self.problems)}"
        if self.not_committed:
            return f"not committed {self.run}: its network is too large for git; the record fits itself"
        dense = "dense networks included" if self.dense_verified else "dense networks not committed"
        return f"verified      {self.run}: counts equal, {self.pictures_off} pictures answered differently, {dense}"


class RecordedTests:
    """The test sets of records, each prepared once from its source, and what networks answered on them.

    Several threads may ask; one that asks for what another is finding waits for it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, Lock] = {}
        self._guard = Lock()

    def of(self, record: Record) -> PictureSet:
        """The record's test pictures.

        Raises:
            ArtifactError: the data set found has another digest than the record's.
            DataError, ConfigError: the data set is not there.
        """
        found = self.any_of(record)
        if found.digest != record.dataset["digest"]:
            raise ArtifactError(
                f"{record.dataset['name']} found here has the digest {found.digest[:12]}, "
                f"the record names {record.dataset['digest'][:12]}"
            )
        return found

    def any_of(self, record: Record) -> PictureSet:
        """As `of`, whatever its digest."""
        block = Prepare.model_validate(record.params["prepare"])
        return self.remembered(block.model_dump_json(), lambda: _prepare(self._root, block))

    def remembered(self, key: Hashable, find: Callable[[], T]) -> T:
        """What is found once: a test set, or an accuracy, as many records name the same dense networks."""
        with self._guard:
            lock = self._locks.setdefault(key, Lock())
        with lock:
            if key not in self._found:
                self._found[key] = find()
            return self._found[key]


def _prepare(root: Path, block: Prepare) -> PictureSet:
    options = Options(block.folder, block.test, block.skip_broken, block.decoded)
    dataset = sources.load(block.dataset, root / "data" / "download", options)
    tensors, about = prepared(dataset, block.validation, block.split_seed)
    return picture_set(tensors["test"], about)


def check(root: Path, record: Record, pictures: RecordedTests, without_dense: Collection[str] = ()) -> Checked:
    """Check the record's figures, load its networks, count the survivors, evaluate each network on the test set.

    Networks that are too large to be committed are taken from where the run left them, if they still are there.
    `without_dense`: experiments whose records need not have the dense networks.
    """
    problems = [*_arithmetic_problems(record), *_chain_problems(record), *_curve_problems(root, record)]
    try:
        problems += _missing_networks(record, without_dense)
    except (ConfigError, ArtifactError) as error:
        return Checked(record.run.name, not_verified=str(error))
    files = {stage: network_file(root, record, stage) for stage in EVALUATED}
    if files["retrain"] is None:
        return Checked(record.run.name, tuple(problems), not_committed=True)
    try:
        test = pictures.of(record)
    except (DataError, ConfigError, ArtifactError) as error:
        return Checked(record.run.name, not_verified=str(error))
    if record.metrics["evaluate"]["test_images"] != len(test):
        problems.append(f"the test set has {len(test)} pictures, not {record.metrics['evaluate']['test_images']}")
    off = 0
    for stage, file in files.items():
        if file is None:
            continue
        try:
            wrong, pictures_off = _answers(record, stage, file, test, pictures)
        except (ArtifactError, ConfigError) as error:
            problems.append(str(error))
        else:
            problems += wrong
            off = max(off, pictures_off)
    return Checked(record.run.name, tuple(problems), pictures_off=off, dense_verified=None not in files.values())


def _answers(
    record: Record, stage: str, file: Path, test: PictureSet, pictures: RecordedTests
) -> tuple[Sequence[str], int]:
    """Check one network of a record, that of retrain also for its survivors: problems, and how many pictures are off.

    Raises:
        ArtifactError, ConfigError: it cannot be read, or is no such network.
    """
    sparse, whose = stage == "retrain", owner(record.run, stage).name
    name = "its network" if sparse else f"its dense network of {stage}"
    state, about = load_sparse(file) if sparse else load_tensors(file)
    network = build(Model.model_validate(record.params["model"]), test.classes, record.run.seed, state)
    problems = [] if about.get("run") == whose else [f"{name} is that of {about.get('run')}"]
    crop = record.params["training"].get("crop")
    if sparse:
        problems += _count_problems(record, network, next(in_order(test, 1, crop))[0])
    key = (digest_of_file(file), test.digest, str(record.params["model"]), str(crop))
    accuracy = pictures.remembered(key, lambda: evaluate(network, in_order(test, BATCH, crop))["accuracy"])
    said = record.metrics["evaluate"][EVALUATED[stage]]
    off = round(abs(accuracy - said) * len(test))
    if off * OF > PICTURES_OFF * len(test):
        problems.append(f"{name} has an accuracy of {100 * accuracy:.2f} %, the record says {100 * said:.2f} %")
    return problems, off


def network_file(root: Path, record: Record, stage: str = "retrain") -> Path | None:
    """Where a network of a record is: committed beside it, or where the run left it; None: neither."""
    recorded = record.sparse_network if stage == "retrain" else record.dense_networks.get(stage)
    if recorded is not None:
        return root / recorded["file"]
    place = weights_file(owner(record.run, stage), stage)
    made = record.provenance[stage]["outputs"].get(place.as_posix())
    return root / place if (root / place).is_file() and digest_of_file(root / place) == made else None


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


def _missing_networks(record: Record, without_dense: Collection[str]) -> Iterator[str]:
    """Networks that are not recorded, although no file of such a network is too large for git."""
    network = build(Model.model_validate(record.params["model"]), MOST_CLASSES, record.run.seed)
    values = sum(tensor.numel() for tensor in network.state_dict().values())
    prunable = sum(weight.numel() for weight in prunable_weights(network).values())
    survivors = survivors_asked(prunable, record.run.ratio)
    sparse = survivors * (VALUE_BYTES + POSITION_BYTES) + (values - prunable) * VALUE_BYTES + HEADER_BYTES
    if record.sparse_network is None and sparse < LARGEST_BYTES:
        yield "its network is small enough for git, and is not recorded"
    if values * VALUE_BYTES + HEADER_BYTES >= LARGEST_BYTES or record.run.experiment in without_dense:
        return
    for stage in DENSE_STAGES:
        if stage not in record.dense_networks:
            yield f"its dense network of {stage} is small enough for git, and is not recorded"


def _count_problems(record: Record, network: nn.Module, picture: Tensor) -> Sequence[str]:
    weights = prunable_weights(network)
    found, said = counts(network, weights, picture), record.metrics["benchmark"]["counts"]
    problems = [f"{key} is {found[key]}, the record says {said[key]}" for key in COUNTED if found[key] != said[key]]
    if layer_counts(weights) != record.metrics["benchmark"]["layers"]:
        problems.append("survivors of its layers are not those of the record")
    if found["surviving_weights"] > record.metrics["prune"]["survivors_asked"]:
        problems.append(f"more weights survive than the {record.metrics['prune']['survivors_asked']} asked for")
    return problems


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
