"""Networks beside the ledger's records: small enough for git, named by file, digest and size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.files import digest_of_tree, read_json, sha256, write_bytes
from pipeline.layout import DENSE_STAGES, DenseRun, Run, recorded_dense_file, weights_file

LARGEST_BYTES = 5_000_000


def describe(network: Path, place: Path) -> dict[str, Any] | None:
    """How a record names a network that is to be kept at `place`; None: it is too large for git."""
    if network.stat().st_size >= LARGEST_BYTES:
        return None
    content = network.read_bytes()
    return {"file": place.as_posix(), "sha256": sha256(content), "bytes": len(content)}


def describe_dense(root: Path, run: DenseRun, inputs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The same for the dense networks among what `evaluate` read (digests by file), by the stage that left them."""
    found = {}
    for stage in DENSE_STAGES:
        place = weights_file(run, stage)
        digest = inputs.get(place.as_posix())
        if digest and (network := describe(root / place, recorded_dense_file(run, stage, digest))):
            found[stage] = network
    return found


def keep(root: Path, run: Run, stage: str, described: Mapping[str, Any]) -> None:
    """Copy the network that a stage left to its place.

    Raises:
        ArtifactError: it changed since it was described.
    """
    content = (root / weights_file(run, stage)).read_bytes()
    if sha256(content) != described["sha256"]:
        raise ArtifactError(f"{run.name} changed while it was recorded; record it again")
    write_bytes(root / described["file"], content)


def drop_unnamed(root: Path, run: DenseRun) -> None:
    """Remove dense networks of former trainings that no record of the experiment names any more."""
    records = (read_json(file) for file in root.glob(f"results/{run.experiment}/*.json"))
    named = {one["file"] for record in records for one in record.get("dense_networks", {}).values()}
    for file in root.glob(f"results/{run.folder}-*.safetensors"):
        if file.relative_to(root).as_posix() not in named:
            file.unlink()


def check(root: Path, record: Path, described: Mapping[str, Any]) -> None:
    """Check that a network is the one that a record names.

    Raises:
        ArtifactError: it is missing, or another one.
    """
    network = root / described["file"]
    if not network.is_file() or digest_of_tree(network) != described["sha256"]:
        raise ArtifactError(
            f"{described['file']} is not the network that {record} describes; "
            "restore both with git or record the run again"
        )
