"""How one sparse tensor is coded: its survivors' positions in Golomb-Rice codes, or all of it dense.

The gaps (zeros before each survivor, in C order) are split at `width` bits, one width for a tensor:

* quotients (gap >> width) in unary, that many 0 bits and a 1, so the ones of the stream are the survivors;
* remainders (the lowest `width` bits), `width` bits each.

Both are separate streams, most significant bit first, filled up with 0 bits to a whole byte. Apart, both
decode without a loop over survivors. Width 0 is the plain bitmask, without the zeros after the last survivor.
Rice's code is at most a few percent above the entropy of random positions for densities below one half,
where a fixed width with escapes is 10 to 20 percent above.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ArtifactError

LARGEST_WIDTH = 28
# Zeros cost nothing in a file, so a forged shape could ask for any memory: 1 GB of fp32 is the most.
LARGEST_SIZE = 2**LARGEST_WIDTH
Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Shape = tuple[int, ...]
Rest = dict[str, dict[str, Shape]]


@dataclass(frozen=True)
class GapCode:
    """The survivors of one tensor: bits of a remainder, and the two packed streams (uint8, 1-D)."""

    width: int
    quotients: Bytes
    remainders: Bytes

    @property
    def size(self) -> int:
        """Bytes of both streams."""
        return self.quotients.size + self.remainders.size


@dataclass(frozen=True)
class Coded:
    """What a file says about one coded tensor; `width` None: dense, without codes.

    Attributes:
        survivors: nonzeros, of dense tensors too.
        quotient_bytes: bytes of the unary stream; those of the remainders follow from the width.
    """

    name: str
    shape: Shape
    width: int | None
    survivors: int
    quotient_bytes: int

    @classmethod
    def parse(cls, name: Any, shape: Any, width: Any, survivors: Any, quotient_bytes: Any) -> Self:
        """Take an entry from an untrusted header.

        Raises:
            ArtifactError: a field is of another type or out of its range.
        """
        weights = math.prod(checked_shape(name, shape))
        if not (width is None or _is_count(width, LARGEST_WIDTH)):
            raise ArtifactError(f"{name} has a width of {width!r}")
        if not _is_count(survivors, weights):
            raise ArtifactError(f"{name} has {survivors!r} survivors of {weights} weights")
        # Every bit of the unary stream passes a weight or ends at a survivor: n + k bits at the very most.
        if not _is_count(quotient_bytes, 0 if width is None else whole_bytes(weights + survivors)):
            raise ArtifactError(f"{name} has {quotient_bytes!r} bytes of quotients")
        return cls(name, tuple(shape), width, survivors, quotient_bytes)

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def stored(self) -> int:
        """How many values are stored."""
        return self.weights if self.width is None else self.survivors

    @property
    def code_bytes(self) -> int:
        return self.quotient_bytes + whole_bytes(self.survivors * (self.width or 0))

    @property
    def entropy_bits(self) -> float:
        """n H(k / n): the least that positions of k survivors among n weights take if they are random."""
        counts = (self.survivors, self.weights - self.survivors)
        return sum(count * math.log2(self.weights / count) for count in counts if count)


def whole_bytes(bits: int) -> int:
    return -(-bits // 8)


def checked_shape(name: Any, shape: Any) -> Shape:
    """A tensor's shape from an untrusted header.

    Raises:
        ArtifactError: the name is no text, or the shape is no list of counts, or too large.
    """
    if not isinstance(name, str):
        raise ArtifactError(f"a tensor has the name {name!r}")
    sides = shape if isinstance(shape, list) and len(shape) <= 64 else [None]
    if not (
        all(_is_count(side, LARGEST_SIZE) for side in sides)
        and math.prod(max(side, 1) for side in sides) <= LARGEST_SIZE
    ):
        raise ArtifactError(f"{name} has the shape {shape!r}")
    return tuple(shape)


def checked_lists(coded: list[Any], rest: dict[str, Any]) -> tuple[list[Coded], Rest]:
    """All tensors of an untrusted header: the coded ones, and names and shapes of the others by type.

    Raises:
        ArtifactError: a field is wrong, a name is there twice, or all together are too large.
    """
    try:
        entries = [Coded.parse(*fields) for fields in coded]
        others = {
            tag: {name: checked_shape(name, shape) for name, shape in dict(members).items()}
            for tag, members in rest.items()
        }
    except (TypeError, ValueError) as error:
        raise ArtifactError("its header lists a tensor with other fields") from error
    shapes = [(entry.name, entry.shape) for entry in entries]
    shapes += [member for members in others.values() for member in members.items()]
    if len(dict(shapes)) != len(shapes):
        raise ArtifactError("its header lists a tensor twice")
    if sum(math.prod(shape) for _, shape in shapes) > LARGEST_SIZE:
        raise ArtifactError(f"it has more than {LARGEST_SIZE} values")
    return entries, others


def encode_tensor(name: str, shape: Shape, flat: Floats, value_bytes: int) -> tuple[Coded, Bytes, Floats]:
    """Code a tensor (flat, C order) in the cheaper way: its entry, its codes, and the values to store."""
    positions = np.flatnonzero(flat)
    code = encode_gaps(positions)
    if flat.size * value_bytes <= code.size + positions.size * value_bytes:
        return Coded(name, shape, None, positions.size, 0), np.empty(0, np.uint8), flat
    entry = Coded(name, shape, code.width, positions.size, code.quotients.size)
    return entry, np.concatenate([code.quotients, code.remainders]), flat[positions]


def decode_tensor(entry: Coded, codes: Bytes, values: Floats) -> Floats:
    """The flat tensor (n,) from its `code_bytes` of codes and its `stored` values.

    Raises:
        ArtifactError: the codes do not fit the entry, or the survivors are not its nonzeros.
    """
    flat = np.zeros(entry.weights, np.float32)
    if entry.width is None:
        flat[:] = values
    else:
        code = GapCode(entry.width, codes[: entry.quotient_bytes], codes[entry.quotient_bytes :])
        flat[decode_gaps(code, entry.survivors, entry.weights)] = values
    if np.count_nonzero(flat) != entry.survivors:
        raise ArtifactError(f"{entry.name} has {np.count_nonzero(flat)} nonzeros, expected {entry.survivors}")
    return flat


def encode_gaps(positions: Integers) -> GapCode:
    """Code increasing positions (int64, 1-D, below 2^28) with the width that takes the fewest bytes."""
    gaps = np.diff(positions, prepend=-1) - 1
    width = _cheapest_width(gaps)
    ones = np.cumsum((gaps >> width) + 1) - 1
    unary = np.zeros(ones[-1] + 1 if ones.size else 0, np.uint8)
    unary[ones] = 1
    return GapCode(width, np.packbits(unary), _pack_lowest_bits(gaps, width))


def decode_gaps(code: GapCode, survivors: int, weights: int) -> Integers:
    """Positions (int64, strictly increasing, all in 0 .. weights - 1) of `survivors` survivors.

    Raises:
        ArtifactError: the streams do not code exactly that many positions inside the tensor.
    """
    ones = np.flatnonzero(np.unpackbits(code.quotients))
    if ones.size != survivors:
        raise ArtifactError(f"the codes hold {ones.size} survivors, expected {survivors}")
    used = int(ones[-1]) + 1 if survivors else 0
    if code.quotients.size != whole_bytes(used):
        raise ArtifactError("the codes have bytes after the last survivor")
    # Within these limits the sums below stay under 2^58; past them they could wrap round to a valid position.
    if code.width > LARGEST_WIDTH or used > 2 * LARGEST_SIZE:
        raise ArtifactError("the codes point outside the tensor")
    gaps = np.diff(ones, prepend=-1) - 1
    gaps <<= code.width
    gaps += _unpack_bits(code.remainders, survivors, code.width)
    positions = np.cumsum(gaps + 1) - 1
    if survivors and positions[-1] >= weights:
        raise ArtifactError("the codes point outside the tensor")
    return positions


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _cheapest_width(gaps: Integers) -> int:
    """The width with the fewest bytes, the smallest of equals."""

    def cost(width: int) -> int:
        return whole_bytes(int((gaps >> width).sum()) + gaps.size) + whole_bytes(gaps.size * width)

    longest = int(gaps.max()) if gaps.size else 0
    return min(range(longest.bit_length() + 1), key=cost)


def _pack_lowest_bits(numbers: Integers, width: int) -> Bytes:
    bits = np.empty((numbers.size, width), np.uint8)
    for column in range(width):
        bits[:, column] = (numbers >> (width - 1 - column)) & 1
    return np.packbits(bits)


def _unpack_bits(packed: Bytes, count: int, width: int) -> Integers:
    """`count` numbers of `width` bits.

    Raises:
        ArtifactError: the stream is of another length, or the bits that fill the last byte are not 0.
    """
    if packed.size != whole_bytes(count * width):
        raise ArtifactError(f"the remainders take {packed.size} bytes, expected {whole_bytes(count * width)}")
    unpacked = np.unpackbits(packed)
    if unpacked[count * width :].any():
        raise ArtifactError("the remainders have bits after the last one")
    bits = unpacked[: count * width].reshape(count, width)
    numbers = np.zeros(count, np.int64)
    for column in range(width):
        numbers <<= 1
        numbers |= bits[:, column]
    return numbers
