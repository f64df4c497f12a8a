"""Proofs beside the ledger: on the whole test set, what is deployed answers as the recorded network does."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from pipeline import provenance
from pipeline.benchmark.proof import proof
from pipeline.data.batches import PictureSet, in_order
from pipeline.deploy.compaction import compact
from pipeline.errors import ArtifactError, ConfigError
from pipeline.files import digest_of_file
from pipeline.models import build
from pipeline.params import Model
from pipeline.report.ledger import Record
from pipeline.sparse import load_sparse
from pipeline.sparse_engine.compiling import NoCompiler
from pipeline.sparse_engine.engine import SparseEngine, build_engine
from pipeline.verification import network_file

log = logging.getLogger(__name__)
BATCH = 250


def prove(root: Path, record: Record, test: PictureSet, folder: Path) -> dict[str, Any]:
    """What `proof` finds of a record's network, compacted and compiled (into `folder`), and where that was.

    Raises:
        ArtifactError: the network is not here, or cannot be loaded or traced.
    """
    file = network_file(root, record)
    if file is None:
        raise ArtifactError(f"{record.run.name} has no committed network, and none on this machine; run its stages")
    state, _ = load_sparse(file)
    network = build(Model.model_validate(record.params["model"]), test.classes, record.run.seed, state).eval()
    crop = record.params["training"].get("crop")
    picture = next(in_order(test, 1, crop))[0]
    engine = engine_of(network, tuple(picture.shape[1:]), folder)
    found = proof(network, compact(network, picture).network, engine, (one for one, _ in in_order(test, BATCH, crop)))
    return {
        "network": digest_of_file(file),
        **found,
        **provenance.git_state(root),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }


def engine_of(network: nn.Module, shape: tuple[int, ...], folder: Path) -> SparseEngine | None:
    """The network compiled; None, with a message, where it cannot be."""
    try:
        return build_engine(network, shape, folder)
    except (NoCompiler, ConfigError) as error:
        log.warning("the sparse engine is left out: %s", error)
        return None
