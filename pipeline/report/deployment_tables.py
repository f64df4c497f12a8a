"""Tables of what a pruned network takes and costs where it is deployed: bytes, channels, operations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import read_json
from pipeline.layout import PROOFS_FILE, weights_file
from pipeline.report.ledger import Record, Result
from pipeline.report.render import NOTHING, Table, percent, whole

STORAGE_NOTE = (
    "*Bound*: the entropy of the positions, n H(k/n) bits a tensor, plus the stored values in fp32; *above bound*: how "
    "much larger the sparse file without its header is."
)


def storage_table(results: Sequence[Result]) -> Table:
    """A row a run: bytes of the network's files, and how near the sparse one comes to what no code can beat."""
    headers = (
        "run", "dense", "dense, zstd", "sparse", "of which header", "bound", "above bound (%)", "sparse, zstd",
        "sparse, fp16", "sparse, fp16, zstd",
    )  # fmt: skip
    stored = [(one.run.name, one.metrics["benchmark"]["bytes"]) for one in results]
    return Table(headers, [(name, *_storage_row(sizes)) for name, sizes in stored if "sparse_bound" in sizes])


def _storage_row(sizes: Mapping[str, int]) -> tuple[str, ...]:
    above = (sizes["sparse"] - sizes["sparse_header"]) / sizes["sparse_bound"] - 1
    before = [sizes[key] for key in ("dense", "dense_zstd", "sparse", "sparse_header", "sparse_bound")]
    after = [sizes[key] for key in ("sparse_zstd", "sparse_fp16", "sparse_fp16_zstd")]
    return (*map(whole, before), percent(above), *map(whole, after))


def proof_table(records: Sequence[Record], proofs: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row a proven run: how far what is deployed is from the recorded network, over the largest answer."""
    headers = (
        "run", "test pictures", "compacted, fp64", "compacted, fp32", "of another class", "sparse engine, fp32",
    )  # fmt: skip
    rows = [(one.run.name, proofs.get(one.run.name), _network(one)) for one in records]
    return Table(
        headers, [(name, *_proof_row(one)) for name, one, network in rows if one and one["network"] == network]
    )


def _proof_row(proof: Mapping[str, Any]) -> tuple[str, ...]:
    engine = proof["engine_difference"]
    return (
        whole(proof["pictures"]),
        f"{proof['fp64_difference']:.1e}",
        f"{proof['fp32_difference']:.1e}",
        whole(proof["fp32_changed"]),
        NOTHING if engine is None else f"{engine:.1e}",
    )


def read_proofs(root: Path) -> Mapping[str, Mapping[str, Any]]:
    """The proofs by run; none where there is no file."""
    return read_json(root / PROOFS_FILE) if (root / PROOFS_FILE).is_file() else {}


def _network(record: Record) -> str | None:
    """The digest of the record's network."""
    return record.provenance["retrain"]["outputs"].get(weights_file(record.run, "retrain").as_posix())


def compaction_table(results: Sequence[Result]) -> Table:
    """A row a run: what lossless compaction removes, and the layers that it does not know."""
    headers = (
        "run", "channels", "removed", "parameters", "after compaction", "FLOPs", "FLOPs after compaction",
        "layers left alone", "engine: nonzeros", "engine: compiler and flags",
    )  # fmt: skip
    found = [(one.run.name, one.metrics["benchmark"]) for one in results]
    return Table(headers, [(name, *_compaction_row(one)) for name, one in found if one.get("compaction")])


def _compaction_row(benchmark: Mapping[str, Any]) -> tuple[str, ...]:
    removed, engine = benchmark["compaction"], benchmark.get("sparse_engine") or {}
    counts = (
        "channels_before",
        "channels_removed",
        "parameters_before",
        "parameters_after",
        "flops_before",
        "flops_after",
    )
    compiled = " ".join(engine[key] for key in ("compiler", "flags") if key in engine)
    return (
        *(whole(removed[key]) for key in counts),
        ", ".join(removed["left_alone"]) or NOTHING,
        whole(engine["nonzeros"]) if "nonzeros" in engine else NOTHING,
        compiled or NOTHING,
    )
