"""The file of a sparse network: exact round trips, hand-computed codes, sizes, and damage that is noticed."""

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.bits import GapCode, decode_gaps, encode_gaps
from pipeline.errors import ArtifactError, ConfigError
from pipeline.sparse import FORMAT, load_sparse, save_sparse, sizes
from pipeline.tensors import digest_of_tensors, load_tensors

Change = Callable[[dict[str, Any], dict[str, Tensor]], None]
LENET5 = {
    "conv1": ((20, 1, 5, 5), 167),
    "conv2": ((50, 20, 5, 5), 373),
    "fc1": ((500, 800), 451),
    "fc2": ((10, 500), 218),
}
often = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sparse(shape: tuple[int, ...], survivors: int, seed: int = 0) -> Tensor:
    """Normal values at `survivors` random positions, zeros elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.zeros(shape).reshape(-1)
    flat[torch.randperm(flat.numel(), generator=generator)[:survivors]] = torch.randn(survivors, generator=generator)
    return flat.reshape(shape)


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Names, types, shapes and every bit are the same."""
    return digest_of_tensors(left) == digest_of_tensors(right)


def network() -> dict[str, Tensor]:
    """A small network with a norm; `prunable` of it are conv.weight and fc.weight."""
    return {
        "conv.weight": sparse((2, 3, 3, 3), 9),
        "conv.bias": torch.tensor([-0.0, 2.5]),
        "bn.running_var": torch.tensor([1.0, 4.0]),
        "bn.num_batches_tracked": torch.tensor(7),
        "fc.weight": sparse((4, 10), 3, seed=1),
    }


PRUNABLE = ["conv.weight", "fc.weight"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save_sparse(path, network(), PRUNABLE, {"seed": 3, "method": "admm"})
    return path


def rewrite(path: Path, change: Change, crc: bool = True) -> None:
    """Forge a file: change its description and streams, and give it a CRC that is right."""
    with safetensors.safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()[FORMAT])
        streams = {name: file.get_tensor(name) for name in file.keys()}
    del description["crc"]
    change(description, streams)
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    if crc:
        description["crc"] = zlib.crc32(text.encode())
    path.write_bytes(safetensors.torch.save(streams, metadata={FORMAT: json.dumps(description)}))


# The coding


def test_gaps_5_0_9_4_take_one_byte_of_quotients_and_one_of_remainders() -> None:
    # Width 2: quotients 1, 0, 2, 1 in unary 01 1 001 01, remainders 1, 0, 1, 0 in binary 01 00 01 00.
    code = encode_gaps(np.array([5, 6, 16, 21]))
    assert (code.width, code.quotients.tolist(), code.remainders.tolist()) == (2, [0b01100101], [0b01000100])
    assert decode_gaps(code, survivors=4, weights=22).tolist() == [5, 6, 16, 21]


def test_width_0_is_the_bitmask() -> None:
    mask = np.array([1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1], np.uint8)
    code = encode_gaps(np.flatnonzero(mask))
    assert (code.width, code.remainders.size) == (0, 0)
    assert code.quotients.tolist() == np.packbits(mask).tolist()


@often
@given(st.sets(st.integers(0, 5000), max_size=200), st.integers(0, 12))
def test_positions_round_trip_and_no_width_is_cheaper(chosen: set[int], width: int) -> None:
    positions = np.array(sorted(chosen), np.int64)
    code = encode_gaps(positions)
    assert decode_gaps(code, positions.size, 5001).tolist() == positions.tolist()
    gaps = np.diff(positions, prepend=-1) - 1
    other = -(-int((gaps >> width).sum() + gaps.size) // 8) + -(-gaps.size * width // 8)
    assert code.size <= other


@often
@given(st.binary(max_size=12), st.binary(max_size=12), st.integers(0, 28), st.integers(0, 40), st.integers(0, 99))
def test_any_bytes_decode_to_positions_inside_or_are_refused(
    quotients: bytes, remainders: bytes, width: int, survivors: int, weights: int
) -> None:
    code = GapCode(width, np.frombuffer(quotients, np.uint8), np.frombuffer(remainders, np.uint8))
    try:
        positions = decode_gaps(code, survivors, weights)
    except ArtifactError:
        return
    assert positions.size == survivors
    assert (np.diff(positions, prepend=-1) > 0).all() and (positions < weights).all()


@pytest.mark.parametrize(
    ("quotients", "remainders", "survivors", "weights", "why"),
    [
        ([0b01100101], [0b01000100], 3, 22, "hold 4 survivors, expected 3"),
        ([0b01100101], [0b01000100], 4, 21, "outside"),
        ([0b01100101], [0b01000100], 4, 15, "outside"),
        ([0b01100101, 0], [0b01000100], 4, 22, "bytes after the last"),
        ([0b01100101], [0b01000100, 0], 4, 22, "take 2 bytes, expected 1"),
        ([0b01100001], [0b01000101], 3, 99, "bits after the last"),
    ],
)
def test_codes_that_do_not_fit_are_refused(
    quotients: list[int], remainders: list[int], survivors: int, weights: int, why: str
) -> None:
    code = GapCode(2, np.array(quotients, np.uint8), np.array(remainders, np.uint8))
    with pytest.raises(ArtifactError, match=why):
        decode_gaps(code, survivors, weights)


def test_a_gap_that_wraps_round_64_bits_is_refused() -> None:
    # Quotient 8 and width 61 make a gap of 2^64, which is 0 in 64 bits.
    code = GapCode(61, np.array([0, 0b10000000], np.uint8), np.zeros(8, np.uint8))
    with pytest.raises(ArtifactError, match="outside"):
        decode_gaps(code, survivors=1, weights=5)


# Round trips


def test_a_network_round_trips_with_what_it_is_about(saved: Path) -> None:
    tensors, about = load_sparse(saved)
    assert equal(tensors, network())
    assert about == {"seed": 3, "method": "admm"}
    storages = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    assert len(storages) == len(tensors)


@often
@given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=4), st.floats(0, 1)), max_size=4), st.integers(0, 99))
def test_any_shape_and_density_round_trips(tmp_path: Path, layers: list[tuple[list[int], float]], seed: int) -> None:
    state = {}
    for index, (shape, density) in enumerate(layers):
        survivors = round(density * int(np.prod(shape)))
        state[f"layer{index}.weight"] = sparse(tuple(shape), survivors, seed)
    path = tmp_path / "any.safetensors"
    save_sparse(path, state, list(state), {})
    assert equal(load_sparse(path)[0], state)
    length = sizes(path)
    assert length["total"] == path.stat().st_size
    assert length["total"] == length["header"] + length["indices"] + length["values"] + length["rest"]


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(0),
        torch.zeros(3, 0, 2),
        torch.tensor(0.0),
        torch.tensor(1.5),
        torch.zeros(7, 9),
        torch.ones(7, 9),
        torch.tensor([0.0] * 999 + [1e-45]),
        torch.arange(24.0).reshape(4, 6).T,
    ],
    ids=["empty", "empty3d", "zero", "scalar", "zeros", "dense", "denormal last", "transposed"],
)
@pytest.mark.parametrize("values", ["fp32", "fp16"])
def test_special_tensors_round_trip(tmp_path: Path, weight: Tensor, values: Any) -> None:
    path = tmp_path / "special.safetensors"
    save_sparse(path, {"weight": weight}, ["weight"], {}, values)
    expected = weight if values == "fp32" else weight.half().float()
    assert equal(load_sparse(path)[0], {"weight": expected})


@pytest.mark.parametrize(
    "kind",
    [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ],
)
def test_the_rest_keeps_its_type(tmp_path: Path, kind: torch.dtype) -> None:
    state = {
        "a": torch.tensor([0, 1, 1], dtype=kind),
        "b": torch.tensor(1, dtype=kind),
        "none": torch.zeros(0, dtype=kind),
    }
    save_sparse(tmp_path / "rest", state, [], {})
    assert equal(load_sparse(tmp_path / "rest")[0], state)


def test_zeros_load_as_plus_zero_but_the_rest_keeps_its_sign(tmp_path: Path) -> None:
    state = {
        "sparse": torch.tensor([-0.0, 1.0] + [0.0] * 98),
        "dense": torch.tensor([-0.0] + [1.0] * 99),
        "bias": torch.tensor([-0.0]),
    }
    save_sparse(tmp_path / "zeros", state, ["sparse", "dense"], {})
    loaded = load_sparse(tmp_path / "zeros")[0]
    assert not loaded["sparse"][0].signbit() and not loaded["dense"][0].signbit()
    assert loaded["bias"][0].signbit()


def test_a_value_that_fp16_rounds_to_zero_is_pruned(tmp_path: Path) -> None:
    # The least fp16 is 2^-24: 2^-26 becomes 0, and 1 + 2^-12 becomes 1. The bias, which would lose 2^-26, stays.
    weight = torch.zeros(100)
    weight[3], weight[50] = 2.0**-26, 1 + 2.0**-12
    save_sparse(tmp_path / "half", {"w": weight, "b": weight.clone()}, ["w"], {}, "fp16")
    loaded = load_sparse(tmp_path / "half")[0]
    assert (loaded["w"].nonzero().tolist(), loaded["w"][50].item()) == ([[50]], 1.0)
    assert torch.equal(loaded["b"], weight)
    assert sizes(tmp_path / "half")["values"] == 2


def description_of(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[FORMAT])


def test_fp16_rounds_the_rest_but_for_what_it_cannot_hold(tmp_path: Path) -> None:
    state = {
        "bias": torch.tensor([0.1, -0.0, 3e-6, 65_504.0]),
        "many.bias": torch.tensor([1.0, 65_520.0]),  # would become infinite
        "few.bias": torch.tensor([1.0, 2.0**-26]),  # would become 0
        "norm.running_var": torch.tensor([0.3, 0.0]),
        "dead.running_var": torch.tensor([0.3, 3e-6]),  # 0.7% off: fp16 has steps of 6e-8 there
        "norm.running_mean": torch.tensor([0.3, 3e-6]),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "half": torch.tensor([0.1], dtype=torch.float16),
        "norm.num_batches_tracked": torch.tensor(70_000),
    }
    save_sparse(tmp_path / "half", state, [], {}, "fp16")
    halved = {"bias", "norm.running_var", "norm.running_mean"}
    assert set(description_of(tmp_path / "half")["rest"]["F32H"]) == halved
    expected = {name: value.half().float() if name in halved else value for name, value in state.items()}
    loaded = load_sparse(tmp_path / "half")[0]
    assert equal(loaded, expected)
    assert loaded["bias"][1].signbit()
    assert sizes(tmp_path / "half")["rest"] == 4 * 2 + 2 * 2 * 2 + 3 * 2 * 4 + 8 + 2 + 8
    save_sparse(tmp_path / "again", loaded, [], {}, "fp16")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "half").read_bytes()


def test_only_files_with_a_rounded_rest_are_of_version_2(tmp_path: Path) -> None:
    for values, bias, version in (("fp32", 1.0, 1), ("fp16", 1e5, 1), ("fp16", 1.0, 2)):
        save_sparse(tmp_path / "one", {"bias": torch.tensor([bias])}, [], {}, values)  # type: ignore[arg-type]
        assert description_of(tmp_path / "one")["version"] == version


RECORDED = Path(__file__).parent.parent / "results/lenet5/reweighted-admm-355.9x-s0.safetensors"


def test_the_recorded_lenet5_at_355_9_takes_6500_bytes_in_fp16(tmp_path: Path) -> None:
    state, about = load_sparse(RECORDED)
    prunable = [name for name in state if name.endswith("weight")]
    save_sparse(tmp_path / "half", state, prunable, about, "fp16")
    assert (tmp_path / "half").stat().st_size <= 6500
    rounded = load_sparse(tmp_path / "half")[0]
    assert equal(rounded, {name: value.half().float() for name, value in state.items()})
    for name, value in state.items():
        assert ((rounded[name] - value).abs() <= value.abs() * 2.0**-11 + 2.0**-25).all()
    save_sparse(tmp_path / "full", state, prunable, about)
    assert (tmp_path / "full").read_bytes() == RECORDED.read_bytes()


def test_equal_networks_give_equal_bytes(saved: Path, tmp_path: Path) -> None:
    state = dict(reversed(network().items()))
    state["conv.weight"] = state["conv.weight"].to(memory_format=torch.channels_last)
    save_sparse(tmp_path / "again", state, PRUNABLE[::-1], {"method": "admm", "seed": 3})
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


# Sizes


def lenet5() -> dict[str, Tensor]:
    """LeNet-5 at 355.9x: 1,209 survivors of 430,500 weights, and 580 biases."""
    weights = {f"{name}.weight": sparse(shape, k) for name, (shape, k) in LENET5.items()}
    return weights | {f"{name}.bias": torch.ones(shape[0]) for name, (shape, _) in LENET5.items()}


@pytest.mark.parametrize(("values", "value_bytes", "limit"), [("fp32", 4, 9200), ("fp16", 2, 5500)])
def test_lenet5_at_355_9_is_near_the_bound(tmp_path: Path, values: Any, value_bytes: int, limit: int) -> None:
    path = tmp_path / "lenet5"
    about = {"experiment": "lenet5_admm", "method": "admm", "seed": 0, "compression_ratio": 355.9}
    save_sparse(path, lenet5(), [f"{name}.weight" for name in LENET5], about, values)
    length = sizes(path)
    # n H(k/n) = 459.48 + 2796.94 + 5066.78 + 1292.81 = 9616.0 bits of positions, 1202 bytes.
    assert length["bound"] == 1202 + 1209 * value_bytes + 580 * value_bytes
    assert (length["values"], length["rest"]) == (1209 * value_bytes, 580 * value_bytes)
    assert length["indices"] <= 1.02 * 1202
    assert length["total"] <= limit


@pytest.mark.parametrize("density", [0.002, 0.05, 0.236, 0.4, 0.5, 0.9])
def test_every_density_is_within_a_tenth_of_the_bound(tmp_path: Path, density: float) -> None:
    save_sparse(tmp_path / "one", {"w": sparse((200, 500), round(density * 100_000))}, ["w"], {})
    length = sizes(tmp_path / "one")
    assert length["bound"] <= length["indices"] + length["values"] <= 1.1 * length["bound"]


def test_sizes_of_a_tensor_computed_by_hand(tmp_path: Path) -> None:
    # 1 of 16 survives, the last: gap 15 in width 1 is 7 zeros, a one, and 1 bit more: 2 bytes, as in width 0.
    # 16 H(1/16) = log2(16) + 15 log2(16/15) = 5.40 bits, 1 byte.
    save_sparse(tmp_path / "one", {"w": torch.tensor([0.0] * 15 + [1.0]), "b": torch.ones(3)}, ["w"], {})
    length = sizes(tmp_path / "one")
    assert (length["indices"], length["values"], length["rest"], length["bound"]) == (2, 4, 12, 1 + 4 + 12)


def test_a_tensor_with_few_zeros_is_stored_dense(tmp_path: Path) -> None:
    save_sparse(tmp_path / "dense", {"w": sparse((100,), 99)}, ["w"], {})
    length = sizes(tmp_path / "dense")
    assert (length["indices"], length["values"]) == (0, 400)


# Damage


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="absent does not exist; run the stage"):
        load_sparse(tmp_path / "absent")


def test_another_tensor_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(safetensors.torch.save({"w": torch.ones(3)}))
    with pytest.raises(ArtifactError, match=re.escape(str(path)) + " is damaged or no sparse network .*; delete it"):
        load_sparse(path)


def test_what_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    for load in (load_sparse, load_tensors):
        with pytest.raises(ArtifactError, match=re.escape(str(tmp_path)) + " cannot be read .*; correct it and try"):
            load(tmp_path)


def test_a_file_cut_short_anywhere_or_too_long_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    lengths = [0, 7, 8, 9, *range(10, len(content), 7), len(content) - 1]
    for damaged in [content[:length] for length in lengths] + [content + b"\0"]:
        saved.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="damaged"):
            load_sparse(saved)


def test_a_flipped_bit_in_any_byte_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    for place in range(0, len(content) * 8, 7):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        saved.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            load_sparse(saved)


def test_a_later_version_asks_for_an_update(saved: Path) -> None:
    rewrite(saved, lambda description, _: description.update(version=3, new={}))
    with pytest.raises(ArtifactError, match="version 3 of its format, and this code reads up to 2; update"):
        load_sparse(saved)


def entry(**fields: Any) -> Change:
    """Change fields of the first coded tensor, conv.weight: 9 survivors of 54."""
    order = ["name", "shape", "width", "survivors", "quotient_bytes"]

    def change(description: dict[str, Any], _: dict[str, Tensor]) -> None:
        for field, value in fields.items():
            description["coded"][0][order.index(field)] = value

    return change


def described(**fields: Any) -> Change:
    return lambda description, _: description.update(fields)


def streamed(**streams: Tensor) -> Change:
    return lambda _, old: old.update(streams)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (described(digest="?"), "digest does not match"),
        (described(version="1"), "version is '1'"),
        (described(version=0), "version is 0"),
        (described(about=[]), "no proper about"),
        (described(digest=None), "no proper digest"),
        (described(coded={}), "no proper coded"),
        (described(coded=[["w"]]), "other fields"),
        (described(coded=[7]), "other fields"),
        (described(rest={"F32": 7}), "other fields"),
        (described(rest={"F32": {"b": [-1]}}), "b has the shape"),
        (described(rest={"F32": {"conv.weight": [1]}}), "twice"),
        (described(rest={"F32": {str(i): [2**27] for i in range(3)}}), "more than 268435456 values"),
        (described(rest={"F99": {"b": [2]}}), "streams"),
        (entry(name=5), "the name 5"),
        (entry(name="fc.weight"), "twice"),
        (entry(shape=[2**40]), "conv.weight has the shape"),
        (entry(shape=[0, 2**20, 2**20]), "conv.weight has the shape"),
        (entry(shape=[54.0]), "conv.weight has the shape"),
        (entry(shape=54), "conv.weight has the shape"),
        (entry(shape=[2, 3, 3, 2]), "outside|expected"),
        (entry(shape=[8]), "9 survivors of 8 weights"),
        (entry(width=29), "width of 29"),
        (entry(width=True), "width of True"),
        (entry(survivors=-1), "-1 survivors"),
        (entry(survivors=8), "expected"),
        (entry(quotient_bytes=99), "99 bytes of quotients"),
        (entry(quotient_bytes=-1), "-1 bytes of quotients"),
        (streamed(values=torch.ones(12, dtype=torch.float64)), "values are F64"),
        (streamed(values=torch.ones(11)), "values are F32 of shape .11., expected"),
        (streamed(values=torch.ones(2, 6)), "values are F32 of shape .2, 6., expected"),
        (streamed(values=torch.full((12,), torch.nan)), "not finite"),
        (streamed(values=torch.zeros(12)), "0 nonzeros, expected 9"),
        (streamed(values=torch.ones(12)), "digest does not match"),
        (streamed(F32=torch.ones(4, dtype=torch.int32)), "F32 are I32"),
        (streamed(more=torch.ones(1)), "streams"),
        (lambda _, streams: streams.pop("codes"), "streams"),
        (lambda _, streams: streams.pop("F32"), "streams"),
        (lambda _, streams: streams["codes"].fill_(255), "survivors, expected 9"),
    ],
)
def test_forged_files_are_refused(saved: Path, change: Change, why: str) -> None:
    rewrite(saved, change)
    with pytest.raises(ArtifactError, match=why):
        load_sparse(saved)


def test_codes_that_point_outside_are_refused_with_a_right_crc(saved: Path) -> None:
    # The tensor shrinks to just before its last survivor; nothing else is wrong.
    last = int(network()["conv.weight"].reshape(-1).nonzero().max())
    rewrite(saved, entry(shape=[last]))
    with pytest.raises(ArtifactError, match="point outside the tensor"):
        load_sparse(saved)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "7", '{"version": 1}', "", "{", '{"version":' + "9" * 5000 + "}"],
    ids=["nested", "number", "bare", "empty", "open", "huge"],
)
def test_other_headers_are_refused(saved: Path, text: str) -> None:
    saved.write_bytes(safetensors.torch.save({"codes": torch.ones(1)}, metadata={FORMAT: text}))
    with pytest.raises(ArtifactError, match="damaged or no sparse network"):
        load_sparse(saved)


def test_an_edited_description_is_noticed(saved: Path) -> None:
    rewrite(saved, lambda description, _: description["about"].update(seed=4), crc=False)
    with pytest.raises(ArtifactError, match="CRC"):
        load_sparse(saved)


# What cannot be saved


@pytest.mark.parametrize(
    ("state", "prunable", "about", "why"),
    [
        ({"w": torch.tensor([1.0, torch.nan])}, ["w"], {}, "w has values that are not finite"),
        ({"b": torch.tensor([torch.inf])}, [], {}, "b has values that are not finite"),
        ({"w": torch.ones(2)}, ["v"], {}, "has no tensor v"),
        ({"w": torch.ones(2, dtype=torch.float64)}, ["w"], {}, "w is torch.float64"),
        ({"c": torch.ones(2, dtype=torch.complex64)}, [], {}, "c is torch.complex64"),
        ({"w": torch.ones(1).expand(2**29)}, ["w"], {}, "more than 268435456 values"),
        ({}, [], {"loss": float("nan")}, "JSON"),
        ({}, [], {"path": Path("x")}, "JSON"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(
    tmp_path: Path, state: dict[str, Tensor], prunable: list[str], about: dict[str, Any], why: str
) -> None:
    with pytest.raises(ArtifactError, match=f"cannot write .*net: .*{why}"):
        save_sparse(tmp_path / "net", state, prunable, about)
    assert not (tmp_path / "net").exists()


def test_a_weight_too_large_for_fp16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="w has values that are not finite, or too large for torch.float"):
        save_sparse(tmp_path / "net", {"w": torch.tensor([1e5])}, ["w"], {}, "fp16")
    with pytest.raises(ConfigError, match="fp32, fp16, got 'int8'"):
        save_sparse(tmp_path / "net", {}, [], {}, "int8")  # type: ignore[arg-type]
