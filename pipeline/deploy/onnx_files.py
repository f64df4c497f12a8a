"""ONNX files: a network for other runtimes, checked before it is written, and a session to run one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as failures
from torch import Tensor, nn

from pipeline.deploy.answers import TOLERANCE, difference
from pipeline.errors import ArtifactError
from pipeline.files import write_bytes

OPSET = 18  # what the exporter writes without translating, and what runtimes since 2023 know
FORMAT = "format"
INPUT, OUTPUT, BATCH = "pictures", "logits", "batch"
CHECKED_BATCHES = (2, 3)  # two sizes, as a batch that became fixed fails one of them
UNUSABLE = (
    failures.Fail, failures.InvalidArgument, failures.InvalidGraph, failures.InvalidProtobuf, failures.NoModel,
    failures.NotImplemented, failures.RuntimeException,
)  # fmt: skip


def export(path: Path, network: nn.Module, picture: Tensor, about: Mapping[str, str]) -> float:
    """Write a network in eval mode as one ONNX file, for batches of any size; `picture` (1, C, H, W) is an input.

    Returns the largest difference of ONNX Runtime's answers from PyTorch's, as a part of the largest answer.
    `about` goes into the file's metadata, beside the format. Equal input gives equal bytes.

    Raises:
        ArtifactError: the network is in training mode or cannot be exported, or the runtime's answers
            differ; no file is written, and an older one stays.
        PipelineError: the file cannot be written.
    """
    if network.training:
        raise ArtifactError(f"cannot write {path}: the network is in training mode; call its eval() first")
    model = _exported(path, network, picture)
    onnx.helper.set_model_props(model, {FORMAT: f"onnx opset {OPSET}", **about})
    content = model.SerializeToString(deterministic=True)
    found = max(_difference(path, content, network, picture, size) for size in CHECKED_BATCHES)
    if not found <= TOLERANCE:
        raise ArtifactError(
            f"cannot write {path}: ONNX Runtime's answers differ from PyTorch's by {found:.1e} of the largest, "
            f"more than {TOLERANCE:.0e}"
        )
    write_bytes(path, content)
    return found


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime's session for a file, on the CPU, with so many threads for each operation.

    Raises:
        ArtifactError: the file is missing, damaged, or of an opset or IR version that the runtime does not know.
    """
    if threads < 1:
        raise ArtifactError(f"threads must be >= 1, got {threads}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); export the run that it is of") from error
    return _session(path, content, threads)


def _session(path: Path, content: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except UNUSABLE as error:
        if any(word in str(error).lower() for word in ("opset", "ir version")):
            raise ArtifactError(
                f"{path} is of {_versions(content)}, which ONNX Runtime {onnxruntime.__version__} does not know; "
                "install a later ONNX Runtime or export the run again"
            ) from None
        raise ArtifactError(
            f"{path} is damaged or no ONNX file ({' '.join(str(error).split())[:160]}); export its run again"
        ) from None


def _versions(content: bytes) -> str:
    """The opsets and the format's version that a file names, for a message."""
    model = onnx.load_model_from_string(content)
    opsets = ", ".join(f"{entry.domain} {entry.version}".strip() for entry in model.opset_import)
    return f"opset {opsets} and IR version {model.ir_version}"


def _exported(path: Path, network: nn.Module, picture: Tensor) -> onnx.ModelProto:
    """The checked model, without the names of source files that the exporter notes."""
    pictures = picture.expand(CHECKED_BATCHES[0], *picture.shape[1:]).contiguous()
    try:
        program = torch.onnx.export(
            network, (pictures,), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH)},), external_data=False, verbose=False,
        )  # fmt: skip
        model = program.model_proto
        _strip(model)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the exporter runs the network's own code
        lines = str(error).strip().splitlines() or [""]
        raise ArtifactError(
            f"cannot write {path}: the network cannot be exported ({type(error).__name__}: {lines[0][:160]})"
        ) from error
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Remove what tells of the exporting machine, and would make equal networks different bytes."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@torch.no_grad()
def _difference(path: Path, content: bytes, network: nn.Module, picture: Tensor, size: int) -> float:
    generator = torch.Generator().manual_seed(size)
    pictures = torch.randn(size, *picture.shape[1:], generator=generator).to(picture.dtype)
    expected = network(pictures)
    answers: list[Any] = _session(path, content, 1).run(None, {INPUT: pictures.numpy()})
    return difference(expected, torch.from_numpy(answers[0]))
