"""Class folders of picture files, on disk or in a zip: part/class/picture."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.data import MIRROR
from pipeline.data.dataset import COLOUR_MEAN, COLOUR_STD, Dataset, Options
from pipeline.data.decoding import Listing, decode
from pipeline.errors import ConfigError, DataError
from pipeline.files import digest_of_file

# Written by file managers and by Python, and by nobody looked at.
NO_PICTURES = {"Thumbs.db", "desktop.ini", "__pycache__"}


class Files(Protocol):
    """Where picture files are: `place` for messages, the files of each class folder of a part, their content."""

    place: str

    def classes(self, part: str) -> dict[str, list[str]]: ...

    def read(self, name: str) -> bytes: ...


def _looked_at(name: str) -> bool:
    return name[0] != "." and name not in NO_PICTURES


class Folder:
    """part/class/picture below a folder; what begins with a dot is not looked at."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, str(path)

    def classes(self, part: str) -> dict[str, list[str]]:
        """The class folders of a part, each with its files as part/class/..., sorted; none where it is not there."""
        top = self.path / part
        folders = sorted(path for path in top.iterdir() if path.is_dir()) if top.is_dir() else []
        return {folder.name: sorted(self._below(folder)) for folder in folders if _looked_at(folder.name)}

    def _below(self, folder: Path) -> Iterator[str]:
        for place, folders, names in os.walk(folder):
            folders[:] = filter(_looked_at, folders)
            yield from (Path(place, name).relative_to(self.path).as_posix() for name in filter(_looked_at, names))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class Zip:
    """anything/part/class/picture in a zip file of a known digest.

    Raises:
        DataError: the file is another one, or cut short.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        found = digest_of_file(path)
        if found != sha256:
            raise DataError(
                f"{path} is damaged: {path.stat().st_size:,} bytes with SHA-256 {found}, expected {sha256}; "
                "get the file again"
            )
        self.place, self._archive = str(path), zipfile.ZipFile(path)

    def classes(self, part: str) -> dict[str, list[str]]:
        """As in `Folder`."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._archive.namelist()):
            parts = name.split("/")
            if len(parts) == 4 and parts[1] == part and parts[3]:
                found.setdefault(parts[2], []).append(name)
        return found

    def read(self, name: str) -> bytes:
        return self._archive.read(name)


def mirrored(name: str) -> Path | None:
    """A file or folder of the mirror, if there is a mirror that has it."""
    mirror = os.environ.get(MIRROR)
    path = Path(mirror, name) if mirror else None
    return path if path and path.exists() else None


def mirrored_zip(name: str, sha256: str, otherwise: str) -> Zip:
    """A zip file of the mirror.

    Raises:
        DataError: there is none, with what to do `otherwise`; it is damaged.
    """
    path = mirrored(name)
    if path is None:
        raise DataError(
            f"there is no {name} in the folder that {MIRROR} names ({os.environ.get(MIRROR) or 'not set'}): "
            f"put it there, or {otherwise}"
        )
    return Zip(path, sha256)


def listing(files: Files, part: str, classes: Sequence[str], expected: int | None) -> Listing:
    """All files of a part, labelled by the place of their folder among the classes.

    Raises:
        DataError: a class folder is missing, unknown or empty, or the number of pictures is not the one expected.
    """
    found, where = files.classes(part), f"{files.place}/{part}".rstrip("/")
    odd = {"missing": sorted(set(classes) - set(found)), "unknown": sorted(set(found) - set(classes))}
    if any(odd.values()):
        examples = ", ".join(f"{len(names):,} {kind} (as {names[0]})" for kind, names in odd.items() if names)
        raise DataError(
            f"{where} must hold {len(classes):,} class folders, got {len(found):,}, {examples}; "
            "rename, delete or unpack folders"
        )
    names = [name for one in classes for name in found[one]]
    if any("\n" in name for name in names):
        raise DataError(f"{where} has a file with a line break in its name; rename it")
    empty = [name for name in classes if not found[name]]
    if empty:
        raise DataError(f"{where}/{empty[0]} holds no pictures; put some there, or delete the folder")
    if expected is not None and len(names) != expected:
        raise DataError(
            f"{where} must hold {expected:,} pictures, got {len(names):,}; delete the folder and unpack it again"
        )
    return Listing(names, np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes]))


def class_folders(
    name: str,
    files: Files,
    classes: Sequence[str],
    parts: dict[str, int | None],
    options: Options,
    place: dict[str, str] | None = None,
) -> Dataset:
    """A data set of colour pictures in class folders.

    `parts` are the folder of the training pictures and that of the test pictures, if there is one, each with
    the number of pictures expected; without one, a fifth is to be set aside. `place` tells readers of
    pictures that stay files where they are.

    Raises:
        DataError: files are missing, too many or broken.
    """
    listings = [listing(files, part, classes, expected) for part, expected in parts.items()]
    train, *test = decode(name, files.read, listings, options, place or {})
    if any(len(np.unique(part.labels)) < len(classes) for part in (train, *test)):
        raise DataError(f"a class of {name} has no picture left that decodes; replace its pictures")
    size = len(test[0].labels) if test else round(len(train.labels) / 5)
    return Dataset(name, train, test[0] if test else None, size, len(classes), COLOUR_MEAN, COLOUR_STD)


def own_folder(download: Path, options: Options) -> Dataset:
    """A user's class folders: train/class and test/class, or class alone, and a test set is set aside.

    Raises:
        ConfigError: no folder is named, or the test pictures asked for cannot be had.
        DataError: the folder is not there, or its sub-folders or pictures are not usable.
    """
    if options.folder is None:
        raise ConfigError("prepare.folder must be set for prepare.dataset: folder; name the folder with the pictures")
    files = Folder(Path(options.folder))
    if not files.path.is_dir():
        raise DataError(f"prepare.folder must be a folder, seen from the project's top, got {options.folder}")
    parts = _parts(files)
    classes = list(files.classes(next(iter(parts))))
    if len(classes) < 2:
        raise DataError(f"{files.place} must hold at least 2 class folders, got {len(classes)}; add class folders")
    place = {"root": "folder", "folder": options.folder}
    found = class_folders(f"folder:{files.path.resolve().name}", files, classes, parts, options, place)
    return found if options.test is None else _with_test(found, options.test)


def _parts(files: Folder) -> dict[str, int | None]:
    """train and test, or the folder itself."""
    below = {part: files.path / part for part in ("train", "test")}
    if all(path.is_dir() for path in below.values()):
        return dict.fromkeys(below)
    for part in below:
        if files.classes(part):  # a class may be called train, but then it holds pictures
            raise DataError(
                f"{files.place} has class folders in {part}/, so that it must have both train/ and test/; "
                "add the other one, or put all class folders side by side"
            )
    return {"": None}


def _with_test(dataset: Dataset, size: int) -> Dataset:
    total = len(dataset.train.labels)
    if dataset.test is not None:
        raise ConfigError(f"prepare.test must be left out, as {dataset.name} has a folder test/, got {size:,}")
    if not 0 < size < total:
        raise ConfigError(f"prepare.test must be < {total:,}, the pictures of {dataset.name}, got {size:,}")
    return replace(dataset, test_size=size)
