"""A record checked against its networks: the sparse one is counted, and all are evaluated again on the test set."""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from torch import Tensor, nn

from pipeline.consistency import contradictions, missing_networks
from pipeline.data import sources
from pipeline.data.batches import PictureSet, in_order, picture_set
from pipeline.data.dataset import Options
from pipeline.data.preparation import prepared
from pipeline.errors import ArtifactError, ConfigError, DataError
from pipeline.evaluation.accuracy import evaluate
from pipeline.evaluation.counts import counts, layer_counts
from pipeline.files import digest_of_file
from pipeline.layout import owner, weights_file
from pipeline.models import build
from pipeline.params import Model, Prepare
from pipeline.pruning.masks import prunable_weights
from pipeline.report.ledger import Record
from pipeline.sparse import load_sparse
from pipeline.tensors import load_tensors

# Another processor may round another way: so many of 10,000 pictures may be answered differently.
PICTURES_OFF, OF = 2, 10_000
BATCH = 100  # small enough for the processor's caches
EVALUATED = {"retrain": "pruned_accuracy", "pretrain": "dense_accuracy", "reference": "reference_accuracy"}
T = TypeVar("T")
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
            return f"NOT VERIFIED  {self.run}: {'; '.join([self.not_verified, *self.problems])}"
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
    `without_dense`: experiments and runs whose records need not have the dense networks.
    """
    problems = contradictions(root, record)
    try:
        problems += missing_networks(record, without_dense)
    except (ConfigError, ArtifactError) as error:
        return Checked(record.run.name, tuple(problems), not_verified=str(error))
    files = {stage: network_file(root, record, stage) for stage in EVALUATED}
    if files["retrain"] is None:
        return Checked(record.run.name, tuple(problems), not_committed=True)
    try:
        test = pictures.of(record)
    except (DataError, ConfigError, ArtifactError) as error:
        return Checked(record.run.name, tuple(problems), not_verified=str(error))
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


def _count_problems(record: Record, network: nn.Module, picture: Tensor) -> Sequence[str]:
    weights = prunable_weights(network)
    found, said = counts(network, weights, picture), record.metrics["benchmark"]["counts"]
    problems = [f"{key} is {found[key]}, the record says {said[key]}" for key in COUNTED if found[key] != said[key]]
    if layer_counts(weights) != record.metrics["benchmark"]["layers"]:
        problems.append("survivors of its layers are not those of the record")
    if found["surviving_weights"] > record.metrics["prune"]["survivors_asked"]:
        problems.append(f"more weights survive than the {record.metrics['prune']['survivors_asked']} asked for")
    return problems
