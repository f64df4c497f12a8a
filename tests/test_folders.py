"""Class folders of picture files, on disk and in zips: found, checked and decoded, or refused with one sentence."""

import io
import logging
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Imagenette
from torchvision.models import ResNet50_Weights

from pipeline.data import IMAGENET_ROOT, MIRROR, cifar10, decoding, imagenet, sources
from pipeline.data.dataset import Options, Pictures, VariedPictures
from pipeline.data.folders import Folder, Zip, listing
from pipeline.data.pictures import picture_set
from pipeline.data.split import split
from pipeline.errors import ConfigError, DataError
from pipeline.files import digest_of_file
from pipeline.tensors import load_tensors
from pipeline.yaml_files import read_yaml
from stages import prepare
from tests.picture_files import encoded, pixels_of, stored, tree
from tests.project import ROOT, write_params


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """The working directory is a project with `pets/train` and `pets/test`."""
    monkeypatch.chdir(tmp_path)
    return tree(tmp_path / "pets", ("train", "test"))


def load(**options):
    return sources.load("folder", None, Options(**{"folder": "pets", **options}))


# What is found


def test_a_users_folder_with_its_own_test_pictures(pets):
    dataset = load()
    assert (dataset.name, dataset.classes, dataset.test_size) == ("folder:pets", 2, 10)
    assert dataset.mean == (0.485, 0.456, 0.406)
    assert isinstance(dataset.train, VariedPictures)
    for part, found in (("train", dataset.train), ("test", dataset.test)):
        assert found.labels.tolist() == [0] * 5 + [1] * 5
        expected = [image for name, image in pets.items() if name.startswith(part)]
        assert all((one == other).all() for one, other in zip(found.images, expected, strict=True))


@pytest.mark.parametrize(("test", "size"), [(None, 4), (6, 6)])
def test_a_folder_without_test_pictures_has_some_set_aside(tmp_path, monkeypatch, test, size):
    monkeypatch.chdir(tmp_path)
    written = tree(tmp_path / "pets", ("",), count=10)
    dataset = load(test=test)
    parts, again, other = (split(dataset, 2, seed) for seed in (0, 0, 1))
    assert np.bincount(parts["test"].labels).tolist() == [size // 2] * 2
    assert len(parts["validate"].labels) == 2
    everything = [image.tobytes() for part in parts.values() for image in part.images]
    assert sorted(everything) == sorted(image.tobytes() for image in written.values())
    images = [[image.tobytes() for image in each["test"].images] for each in (parts, again, other)]
    assert images[0] == images[1] != images[2]


def test_pictures_of_one_size_are_kept_as_one_array(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "pets", ("train", "test"), size=8)
    dataset = load()
    assert isinstance(dataset.train, Pictures)
    assert dataset.train.images.shape == (10, 3, 8, 8)
    assert set(stored(tmp_path, dataset)["train"][1]) == {
        "dataset", "dataset_digest", "classes", "mean", "std", "digest"
    }  # fmt: skip


def test_a_class_may_be_called_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "pets", ("",), classes=("bus", "train"))
    assert load().classes == 2


def test_labels_follow_the_order_of_the_classes(pets):
    found = listing(Folder(Path("pets")), "train", ("dog", "cat"), 10)
    assert found.names[::5] == ["train/dog/00.png", "train/cat/00.png"]
    assert found.labels[::5].tolist() == [0, 1]


def test_hidden_files_are_no_pictures(pets, tmp_path):
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "pets/train/cat" / name).write_bytes(b"no picture")
    for name in (".cache", "__pycache__", "cat/__pycache__"):
        (tmp_path / "pets/train" / name).mkdir()
        (tmp_path / "pets/train" / name / "tools.pyc").write_bytes(b"no picture")
    assert (load().classes, len(load().train.labels)) == (2, 10)


def test_grey_pictures_become_colour_pictures(pets, tmp_path):
    Image.new("L", (5, 4), 7).save(tmp_path / "pets/train/cat/00.png")
    assert (load().train.images[0] == np.full((3, 4, 5), 7)).all()


# What is refused


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda top: shutil.rmtree(top / "test/dog"), "pets/test must hold 2 class folders, got 1, 1 missing .as dog"),
        (lambda top: (top / "test/emu").mkdir(), "pets/test must hold 2 class folders, got 3, 1 unknown .as emu"),
        (lambda top: shutil.rmtree(top / "test"), "class folders in train/, so that it must have both"),
        (lambda top: shutil.rmtree(top / "train"), "class folders in test/, so that it must have both"),
        (lambda top: shutil.rmtree(top / "train/cat"), "must hold at least 2 class folders, got 1"),
        (lambda top: shutil.rmtree(top), "prepare.folder must be a folder, seen from the project's top, got pets"),
        (lambda top: [path.unlink() for path in (top / "train/cat").iterdir()], "train/cat holds no pictures"),
        (lambda top: (top / "train/cat/a\nb.png").touch(), "line break in its name; rename it"),
    ],
)
def test_folders_that_do_not_fit_are_named(pets, tmp_path, spoil, message):
    spoil(tmp_path / "pets")
    with pytest.raises(DataError, match=message):
        load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": None}, "prepare.folder must be set for prepare.dataset: folder"),
        ({"test": 5}, "prepare.test must be left out, as folder:pets has a folder test/, got 5"),
        ({"folder": "pets/train", "test": 10}, "prepare.test must be < 10, the pictures of folder:train, got 10"),
    ],
)
def test_options_that_do_not_fit_the_folder_are_named(pets, options, message):
    with pytest.raises(ConfigError, match=message):
        load(**options)


def deep_grey() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("decoded", [True, False])
@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", encoded("a", 40, 40, "JPEG")[:-200], encoded("a", 40, 40)[:-200], deep_grey()],
    ids=["empty", "text", "cut jpeg", "cut png", "16 bits"],
)
def test_a_picture_that_does_not_decode_is_named_or_skipped(pets, tmp_path, caplog, content, decoded):
    (tmp_path / "pets/train/cat/02.png").write_bytes(content)
    (tmp_path / "pets/test/dog/04.png").write_bytes(content)
    with pytest.raises(DataError, match="2 of 20 pictures .* train/cat/02.png, test/dog/04.png; .*skip_broken: true"):
        load(decoded=decoded)
    dataset = load(skip_broken=True, decoded=decoded)
    assert (
        "2 of 20 pictures of folder:pets do not decode: train/cat/02.png, test/dog/04.png; they are left" in caplog.text
    )
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 5
    assert dataset.test.labels.tolist() == [0] * 5 + [1] * 4
    if decoded:
        assert (dataset.train.images[2] == pets["train/cat/03.png"]).all()
    else:
        assert dataset.train.paths[2] == "train/cat/03.png"


def test_a_class_of_broken_pictures_cannot_be_skipped(pets, tmp_path):
    for path in (tmp_path / "pets/test/dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="a class of folder:pets has no picture left"):
        load(skip_broken=True)


def test_a_part_of_broken_pictures_cannot_be_skipped(tmp_path, monkeypatch):
    tree(tmp_path / "pets", ("train", "test"), size=8)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "pets/test").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="a part of folder:pets has no picture left"):
        load(skip_broken=True)


def test_a_picture_that_changes_after_it_was_prepared_is_named(pets, tmp_path):
    """As long as before, and damaged in its header."""
    dataset = load(decoded=False)
    images = picture_set(*stored(tmp_path / "data", dataset)["test"]).images
    damaged = tmp_path / "pets/test/dog/04.png"
    content = bytearray(damaged.read_bytes())
    content[8:12] = b"\0\0\0\x01"
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"test/dog/04.png is not the picture that was prepared"):
        [images[index] for index in range(len(images))]


def small_memory(monkeypatch):
    monkeypatch.setattr(decoding.psutil, "virtual_memory", lambda: SimpleNamespace(available=30_000))


def test_pictures_beyond_memory_stay_files(pets, monkeypatch, caplog):
    small_memory(monkeypatch)
    dataset = load()
    assert (
        "folder:pets does not fit into memory: its first 6 pictures take 0.0 GB decoded; they stay files" in caplog.text
    )
    assert dataset.train.about == {"kind": "files", "root": "folder", "folder": "pets"}
    wanted = load(decoded=False)
    assert (dataset.train.paths, dataset.test.paths) == (wanted.train.paths, wanted.test.paths)
    assert dataset.train.labels.tolist() == [0] * 5 + [1] * 5


def test_pictures_of_a_zip_beyond_memory_are_refused(small_zip, monkeypatch):
    small_memory(monkeypatch)
    with pytest.raises(
        DataError, match="cifar10-jpeg does not fit .* GB decoded; use smaller pictures or more memory$"
    ):
        sources.load("cifar10-jpeg", None)


def test_progress_says_how_long_it_takes(pets, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(decoding, "AT_ONCE", 5)
    monkeypatch.setattr(decoding, "SECONDS_BETWEEN_REPORTS", 0)
    load()
    assert "folder:pets: 5 of 20 pictures decoded, 0 min 00 s left" in caplog.text


# Zip files


@pytest.fixture
def small_zip(tmp_path, monkeypatch):
    """A mirror with a CIFAR-10 of two training pictures and one test picture a class; gives the path and a writer."""
    path = tmp_path / "mirror" / cifar10.ZIP
    path.parent.mkdir()

    def write(size=32, leave_out="nothing"):
        with zipfile.ZipFile(path, "w") as archive:
            for part, count in (("test", 1), ("train", 2)):
                for klass in reversed(cifar10.CLASSES):
                    for number in range(count):
                        name = f"cifar10-jpeg/{part}/{klass}/{number:04}.png"
                        if not name.startswith(f"cifar10-jpeg/{leave_out}"):
                            archive.writestr(name, encoded(name, size, size))
        monkeypatch.setattr(cifar10, "ZIP_SHA256", digest_of_file(path))

    monkeypatch.setattr(cifar10, "SIZES", {"train": 20, "test": 10})
    monkeypatch.setenv(MIRROR, str(path.parent))
    write()
    return path, write


def test_a_zip_is_read_in_the_official_order_of_classes(small_zip):
    dataset = sources.load("cifar10-jpeg", None)
    assert dataset.name == "cifar10-jpeg"
    assert dataset.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
    expected = pixels_of("cifar10-jpeg/train/cat/0001.png", 32, 32).transpose(2, 0, 1)
    assert (dataset.train.images[2 * 3 + 1] == expected).all()


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_zip_is_refused(small_zip, damage):
    content = small_zip[0].read_bytes()
    small_zip[0].write_bytes(content[:-1000] if damage == "cut" else content[:99] + b"\0\0" + content[101:])
    with pytest.raises(DataError, match="cifar10-jpeg.zip is damaged: .* bytes with SHA-256 .* get the file again"):
        sources.load("cifar10-jpeg", None)


def test_no_zip_says_where_it_must_be(small_zip, monkeypatch):
    small_zip[0].unlink()
    with pytest.raises(DataError, match="no cifar10-jpeg.zip in the folder that DATASETS_MIRROR .* cifar10, which"):
        sources.load("cifar10-jpeg", None)
    monkeypatch.delenv(MIRROR)
    with pytest.raises(DataError, match="no imagenette2-112.zip in the .* .not set.: .* imagenette, which"):
        sources.load("imagenette2-112", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leave_out": "train/cat"}, "train must hold 10 class folders, got 9, 1 missing .as cat"),
        ({"leave_out": "train/cat/0001"}, "train must hold 20 pictures, got 19; delete"),
        ({"size": 33}, "must have pictures of 32x32 pixels"),
    ],
)
def test_a_zip_of_other_pictures_is_refused(small_zip, change, message):
    small_zip[1](**change)
    with pytest.raises(DataError, match=message):
        sources.load("cifar10-jpeg", None)


@pytest.mark.skipif(not os.environ.get(MIRROR), reason=f"{MIRROR} is not set: no real zip files to look into")
@pytest.mark.parametrize(
    ("module", "classes", "sizes"),
    [(cifar10, cifar10.CLASSES, cifar10.SIZES), (imagenet, imagenet.TEN_CLASSES, imagenet.TEN_SIZES)],
    ids=["cifar10-jpeg", "imagenette2-112"],
)
def test_the_real_zip_holds_what_is_expected(module, classes, sizes):
    path = os.path.join(os.environ[MIRROR], module.ZIP)
    if not os.path.exists(path):
        pytest.skip(f"no {module.ZIP} in {MIRROR}")
    files = Zip(Path(path), module.ZIP_SHA256)
    for part, size in sizes.items():
        found = files.classes(part)
        assert tuple(found) == classes
        assert sum(map(len, found.values())) == size
    assert decoding.rgb(files.read(found[classes[0]][0])).shape[0] == 3


# ImageNet


@pytest.fixture
def small_imagenet(tmp_path, monkeypatch):
    """Three classes of five and of two pictures, in place of all of ImageNet."""
    classes = imagenet.CLASSES[:3]
    monkeypatch.setattr(imagenet, "CLASSES", classes)
    monkeypatch.setattr(imagenet, "SIZES", {"train": 15, "val": 6})
    root = tmp_path / "ImageNet"
    tree(root, ("train",), classes, count=5)
    tree(root, ("val",), classes, count=2)
    monkeypatch.setenv(IMAGENET_ROOT, str(root))
    return root


@pytest.mark.parametrize("decoded", [True, False])
def test_imagenet_is_found_by_the_environment(small_imagenet, decoded):
    dataset = sources.load("imagenet", None, Options(decoded=decoded))
    assert (dataset.name, dataset.classes, dataset.test_size) == ("imagenet", 3, 6)
    assert dataset.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.train.about == ({"kind": "varied"} if decoded else {"kind": "files", "root": "imagenet"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: shutil.rmtree(root / "val"),
            "ImageNet/val must hold 3 class folders, got 0, 3 missing",
        ),
        (lambda root: (root / "val/n01440764/00.png").unlink(), "ImageNet/val must hold 6 pictures, got 5; delete"),
        (lambda root: (root / "train/n1").mkdir(), "must hold 3 class folders, got 4, 1 unknown .as n1.; rename"),
        (lambda root: shutil.rmtree(root), "IMAGENET_ROOT must be the folder that holds ImageNet's train/ and val/"),
    ],
)
def test_a_part_of_imagenet_is_refused(small_imagenet, spoil, message):
    spoil(small_imagenet)
    with pytest.raises(DataError, match=message):
        sources.load("imagenet", None)


def test_no_imagenet_says_what_to_set(monkeypatch):
    monkeypatch.delenv(IMAGENET_ROOT, raising=False)
    with pytest.raises(DataError, match="IMAGENET_ROOT must be the folder .*, got nothing"):
        sources.load("imagenet", None)


def test_999_classes_of_imagenet_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(IMAGENET_ROOT, str(tmp_path))
    for name in imagenet.CLASSES[:-1]:
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="must hold 1,000 class folders, got 999, 1 missing .as n15075141.;"):
        sources.load("imagenet", None)


def test_the_classes_have_the_labels_of_published_weights():
    assert len(imagenet.CLASSES) == len(set(imagenet.CLASSES)) == 1000
    assert list(imagenet.CLASSES) == sorted(imagenet.CLASSES)
    assert imagenet.TEN_CLASSES == tuple(sorted(Imagenette._WNID_TO_CLASS))
    names = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    for wordnet_id, (name, *_) in Imagenette._WNID_TO_CLASS.items():
        assert names[imagenet.CLASSES.index(wordnet_id)] == name


def test_imagenette_comes_from_the_mirror_or_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "TEN_SIZES", {"train": 20, "val": 10})
    tree(tmp_path / imagenet.FOLDER, ("train",), imagenet.TEN_CLASSES, count=2)
    tree(tmp_path / imagenet.FOLDER, ("val",), imagenet.TEN_CLASSES, count=1)
    monkeypatch.setenv(MIRROR, str(tmp_path))
    assert len(sources.load("imagenette", tmp_path / "download").test.labels) == 10
    assert not (tmp_path / "download").exists()
    monkeypatch.delenv(MIRROR)
    assert len(sources.load("imagenette", tmp_path).train.labels) == 20  # it is there already


def test_imagenette_without_mirror_and_network_has_three_ways_out(tmp_path, monkeypatch):
    monkeypatch.delenv(MIRROR, raising=False)

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(Imagenette, "_download", fail)
    with pytest.raises(DataError, match=".no network.; there are three ways out: .* imagenette2-112, which needs"):
        sources.load("imagenette", tmp_path)


# The stage


@pytest.mark.parametrize("decoded", [True, False])
def test_the_stage_writes_what_the_parameters_ask_for(pets, tmp_path, decoded):
    (tmp_path / "pets/train/cat/00.png").write_bytes(b"broken")
    block = {"dataset": "folder", "folder": "pets", "validation": 3, "split_seed": 0, "skip_broken": True}
    quickstart = read_yaml(ROOT / "params.yaml")["experiments"]["quickstart"]
    write_params(tmp_path, {"own": {**quickstart, "prepare": {**block, "decoded": decoded}}})
    prepare.main(["own"])
    counts = {}
    for part in ("train", "validate", "test"):
        tensors, about = load_tensors(tmp_path / f"data/own/{part}.safetensors")
        counts[part] = len(tensors["labels"])
        assert (about["dataset"], about["part"]) == ("folder:pets", part)
        assert about["kind"] == ("varied" if decoded else "files")
        assert ("pixels" in tensors) == decoded
    assert counts == {"train": 6, "validate": 3, "test": 10}
