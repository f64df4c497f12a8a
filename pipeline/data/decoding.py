"""Every picture file decoded once: to keep its pixels, or to know that it can be decoded later."""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import psutil
from PIL import Image

from pipeline.data import BROKEN
from pipeline.data.dataset import AnyPictures, ListedPictures, Options, Pictures, VariedPictures
from pipeline.errors import DataError

log = logging.getLogger(__name__)

AT_ONCE = 64
SECONDS_BETWEEN_REPORTS = 10
# The prepare stage takes up to two and a half times the memory of the pixels that it writes.
PART_OF_MEMORY = 1 / 3


class TooLarge(DataError):
    """Decoded pictures that do not fit into memory."""


@dataclass(frozen=True)
class Listing:
    """The files of one part of a data set and their labels int64 (N,)."""

    names: list[str]
    labels: np.ndarray


def rgb(content: bytes) -> np.ndarray:
    """A picture file as uint8 (3, H, W).

    Raises:
        OSError and the others of `BROKEN`: it is no picture, damaged, or has more than 8 bits a channel.
    """
    with Image.open(io.BytesIO(content)) as picture:
        if picture.mode[0] in "IF":
            raise ValueError("more than 8 bits a channel")
        return np.ascontiguousarray(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


def decode(
    name: str, read: Callable[[str], bytes], listings: Sequence[Listing], options: Options, place: dict[str, str]
) -> list[AnyPictures]:
    """The pictures of each listing of a data set: all of one kind.

    Of one size or of different sizes; or, where `options.decoded` is false or they do not fit into memory, their
    paths and the `place` they are in.

    Raises:
        DataError: pictures do not decode and may not be skipped, or all together do not fit into memory and have
            no place where they could stay.
    """

    def pixels_or_length(file: str) -> np.ndarray | int | None:
        try:
            content = read(file)
            image = rgb(content)
        except BROKEN:
            return None
        return image if options.decoded else len(content)

    files = [file for part in listings for file in part.names]
    try:
        found = list(_within_memory(name, _each(name, files, pixels_or_length)))
    except TooLarge as error:
        if not place:
            raise DataError(f"{error}; use smaller pictures or more memory") from None
        log.warning("%s; they stay files, and every epoch decodes them, as with prepare.decoded: false", error)
        return decode(name, read, listings, replace(options, decoded=False), place)
    _answer_broken(name, [file for file, one in zip(files, found, strict=True) if one is None], found, options)
    return _parts(name, listings, found, options, place)


def _each(name: str, files: Sequence[str], work: Callable[[str], object]) -> Iterator:
    """The work on every file, in order and in threads, with the time left in the log."""
    started = shown = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), AT_ONCE):
            yield from pool.map(work, files[start : start + AT_ONCE])
            now, done = time.monotonic(), min(start + AT_ONCE, len(files))
            if now - shown >= SECONDS_BETWEEN_REPORTS:
                shown, left = now, (now - started) / done * (len(files) - done)
                times = f"{left // 60:.0f} min {left % 60:02.0f} s left"
                log.info("%s: %s of %s pictures decoded, %s", name, f"{done:,}", f"{len(files):,}", times)


def _within_memory(name: str, found: Iterator) -> Iterator:
    limit, total = psutil.virtual_memory().available * PART_OF_MEMORY, 0
    for count, one in enumerate(found, start=1):
        total += one.nbytes if isinstance(one, np.ndarray) else 0
        if total > limit:
            raise TooLarge(
                f"{name} does not fit into memory: its first {count:,} pictures take {total / 1e9:.1f} GB decoded"
            )
        yield one


def _answer_broken(name: str, broken: Sequence[str], found: Sequence, options: Options) -> None:
    if not broken:
        return
    examples = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
    what = f"{len(broken):,} of {len(found):,} pictures of {name} do not decode: {examples}"
    if not options.skip_broken:
        raise DataError(f"{what}; replace or delete them, or set prepare.skip_broken: true to leave them out")
    log.warning("%s; they are left out", what)


def _parts(
    name: str,
    listings: Sequence[Listing],
    found: list[np.ndarray | int | None],
    options: Options,
    place: dict[str, str],
) -> list[AnyPictures]:
    one_size = options.decoded and len({one.shape for one in found if one is not None}) == 1
    parts: list[AnyPictures] = []
    for listing in listings:
        mine, found = found[: len(listing.names)], found[len(listing.names) :]
        kept = [index for index, one in enumerate(mine) if one is not None]
        if not kept:
            raise DataError(f"a part of {name} has no picture left that decodes; replace its pictures")
        values, labels = [mine[index] for index in kept], listing.labels[kept]
        if one_size:
            parts.append(Pictures(np.stack(values), labels))
        elif options.decoded:
            parts.append(VariedPictures(values, labels))
        else:
            names = [listing.names[index] for index in kept]
            parts.append(ListedPictures(names, np.array(values, np.int64), labels, place))
    return parts
