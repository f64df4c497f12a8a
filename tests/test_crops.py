"""Pictures of different sizes, from memory and from files, served as equal crops by any number of processes."""

import logging
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from pipeline.data import IMAGENET_ROOT, imagenet, pictures, sources
from pipeline.data.batches import TRIES, Augmentation, PictureSet, TrainingBatches, crop_box, in_order, normalised
from pipeline.data.dataset import Options
from pipeline.data.pictures import picture_set
from pipeline.errors import ConfigError, DataError
from pipeline.tensors import load_tensors
from tests.picture_files import encoded, stored, tree

CROP = 16


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with 20 pictures in pets/, by path, and what is prepared from them with pixels and with paths."""
    top = tmp_path_factory.mktemp("project")
    written = tree(top / "pets", ("",), count=10)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        for decoded in (True, False):
            (top / f"data-{decoded}").mkdir()
            options = Options(folder="pets", test=2, decoded=decoded)
            found[decoded] = stored(top / f"data-{decoded}", sources.load("folder", None, options))
    return SimpleNamespace(top=top, written=written, stored=found)


@pytest.fixture(params=[True, False], ids=["pixels", "files"])
def kind(request, project, monkeypatch):
    """The working directory is the project; gives a function for a part as a later stage sees it."""
    monkeypatch.chdir(project.top)
    return lambda part: picture_set(*project.stored[request.param][part])


def epochs(pictures: PictureSet, count=2, seed=0, flip=True, **processes) -> list[tuple]:
    """The batches of some epochs, four pictures each, and the generator's last state."""
    generator = torch.Generator().manual_seed(seed)
    batches = TrainingBatches(pictures, 4, Augmentation(flip=flip, crop=CROP), **processes)
    return [batch for _ in range(count) for batch in batches.epoch(generator)] + [(generator.get_state(),)]


def equal(one: list[tuple], other: list[tuple]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


# Reading


def test_prepared_pictures_are_those_of_the_files(kind, project):
    found = {part: kind(part) for part in ("train", "validate", "test")}
    assert {part: len(each) for part, each in found.items()} == {"train": 16, "validate": 2, "test": 2}
    seen = [
        (int(label), each.images[index].numpy().tobytes())
        for each in found.values()
        for index, label in enumerate(each.labels)
    ]
    expected = [(int(name.startswith("dog")), image.tobytes()) for name, image in project.written.items()]
    assert sorted(seen) == sorted(expected)


def test_prepared_files_have_the_documented_tensors(project):
    tensors, about = project.stored[True]["test"]
    assert {name: (tensor.dtype, tensor.ndim) for name, tensor in tensors.items()} == {
        "pixels": (torch.uint8, 1), "sizes": (torch.int32, 2), "offsets": (torch.int64, 1), "labels": (torch.int64, 1)
    }  # fmt: skip
    assert about["kind"] == "varied"
    tensors, about = project.stored[False]["test"]
    names = bytes(tensors["paths"].tolist()).decode().split("\n")
    assert [name.split("/")[0] for name in names] == ["cat", "dog"]
    assert tensors["lengths"].tolist() == [(project.top / "pets" / name).stat().st_size for name in names]
    assert {key: about[key] for key in ("kind", "root", "folder")} == {
        "kind": "files", "root": "folder", "folder": "pets"
    }  # fmt: skip


def test_the_digest_of_files_follows_names_and_sizes(project, tmp_path, monkeypatch):
    shutil.copytree(project.top / "pets", tmp_path / "pets")
    monkeypatch.chdir(tmp_path)

    def digest() -> str:
        found = stored(tmp_path, sources.load("folder", None, Options(folder="pets", test=2, decoded=False)))
        return found["train"][1]["dataset_digest"]

    digests = [project.stored[False]["train"][1]["dataset_digest"], digest()]
    (tmp_path / "pets/cat/00.png").write_bytes((tmp_path / "pets/cat/00.png").read_bytes() + b" ")
    digests.append(digest())
    (tmp_path / "pets/cat/00.png").rename(tmp_path / "pets/cat/00a.png")
    digests.append(digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def another(path):
    path.write_bytes(encoded("another", 40, 40))


@pytest.mark.parametrize("spoil", [os.remove, another])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_changed_is_named(project, tmp_path, monkeypatch, spoil, workers):
    shutil.copytree(project.top / "pets", tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "pets").rglob("*.png"):
        spoil(path)
    batches = in_order(picture_set(*project.stored[False]["test"]), 2, CROP, workers)
    with pytest.raises(DataError, match=r"pets/cat/\d\d.png is not the picture that was prepared .*again") as caught:
        next(batches)
    assert "Traceback" not in str(caught.value)


def test_imagenet_may_move_between_stages(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "CLASSES", imagenet.CLASSES[:2])
    monkeypatch.setattr(imagenet, "SIZES", {"train": 6, "val": 6})
    tree(tmp_path / "here", ("train", "val"), imagenet.CLASSES, count=3)
    monkeypatch.setenv(IMAGENET_ROOT, str(tmp_path / "here"))
    content = stored(tmp_path, sources.load("imagenet", None, Options(decoded=False)))["test"]
    before = picture_set(*content).images[5]
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(DataError, match="IMAGENET_ROOT must be the folder with the pictures of imagenet, got .*here;"):
        picture_set(*content)
    monkeypatch.setenv(IMAGENET_ROOT, str(tmp_path / "there"))
    assert torch.equal(picture_set(*content).images[5], before)
    monkeypatch.delenv(IMAGENET_ROOT)
    with pytest.raises(DataError, match="IMAGENET_ROOT must be the folder .*, got None"):
        picture_set(*content)


def test_pictures_beyond_memory_stay_on_disk(project, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    tensors, about = load_tensors(project.top / "data-True/train.safetensors")
    picture_set(tensors, about)
    assert not caplog.messages
    size = sum(tensor.nbytes for tensor in tensors.values())
    monkeypatch.setattr(pictures.psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * size - 1))
    found = picture_set(tensors, about)
    assert "stay on disk, memory-mapped" in caplog.text
    with open("/proc/self/maps") as lines:
        mapped = [line.split() for line in lines if "data-True/train.safetensors" in line]
    address = found.images.pixels.data_ptr()
    spans = [[int(end, 16) for end in line[0].split("-")] for line in mapped]
    assert any(start <= address < end for start, end in spans)


# Crops


def test_a_crop_by_hand():
    """Half of 100 x 100 pixels as a square, at a quarter of what is left; first try too wide."""
    area = (0.5 - 0.08) / 0.92
    assert crop_box(100, 100, [[area, 0.5, 0.25, 0.999]]) == (7, 29, 71, 71)
    assert crop_box(100, 100, [[area, 1.0, 0.0, 0.0]]) == (0, 0, 61, 82)  # width to height 4 : 3
    assert crop_box(100, 100, [[0.999, 0.999, 0.0, 0.0], [area, 0.5, 0.25, 0.999]]) == (7, 29, 71, 71)


@pytest.mark.parametrize(
    ("size", "box"), [((40, 200), (0, 73, 40, 53)), ((200, 40), (73, 0, 53, 40)), ((30, 31), (0, 0, 30, 31))]
)
def test_a_crop_that_never_fits_is_the_middle_of_the_picture(size, box):
    assert crop_box(*size, []) == box


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_crops_lie_inside_their_picture(height, width, seed):
    draws = torch.rand(TRIES, 4, generator=torch.Generator().manual_seed(seed)).tolist()
    top, left, h, w = crop_box(height, width, draws)
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0 and w > 0


def test_training_crops_are_parts_of_their_picture_resized(kind):
    """Each crop is torchvision's of the box that its numbers give, mirrored or not."""
    pictures = kind("train")
    mirrored = 0
    by_hand = torch.Generator().manual_seed(0)
    order = torch.randperm(16, generator=by_hand).split(4)
    for (images, labels, indices), expected in zip(epochs(pictures, count=1), order, strict=False):
        assert torch.equal(indices, expected)
        assert torch.equal(labels, pictures.labels[indices])
        draws = torch.rand(4, 1 + 4 * TRIES, generator=by_hand)
        for image, index, row in zip(images, indices.tolist(), draws, strict=True):
            whole = pictures.images[index]
            box = crop_box(*whole.shape[1:], row[1:].view(TRIES, 4).tolist())
            crop = v2.functional.resized_crop(whole, *box, [CROP, CROP])
            crop = crop.flip(2) if row[0] < 0.5 else crop
            mirrored += bool(row[0] < 0.5)
            assert torch.equal(image, normalised(pictures, crop[None])[0])
        assert images.is_contiguous(memory_format=torch.channels_last)
    assert 0 < mirrored < 16


def test_evaluation_takes_the_middle_of_the_picture(kind):
    """As torchvision's transforms for published weights: shorter side to 256 / 224 of the crop, middle."""
    pictures = kind("test")
    transform = v2.Compose([v2.Resize(round(CROP * 256 / 224)), v2.CenterCrop(CROP)])
    (images, labels), *more = in_order(pictures, 10, CROP)
    assert not more
    assert torch.equal(labels, pictures.labels)
    for index, image in enumerate(images):
        assert torch.equal(image, normalised(pictures, transform(pictures.images[index])[None])[0])


def test_pictures_of_one_size_may_be_cropped_too():
    images = torch.arange(6 * 20 * 20, dtype=torch.uint8).view(6, 1, 20, 20)
    pictures = PictureSet(images, torch.arange(6), torch.tensor([0.5]), torch.tensor([0.25]), 6, "toy", "")
    assert [tuple(images.shape) for images, _, _ in epochs(pictures, count=1)[:-1]] == [(4, 1, CROP, CROP)]
    assert [tuple(images.shape) for images, _ in in_order(pictures, 4, CROP)] == [(n, 1, CROP, CROP) for n in (4, 2)]


# Processes


def test_batches_do_not_depend_on_the_workers(kind):
    state = torch.get_rng_state()
    alone, two = epochs(kind("train"), workers=0), epochs(kind("train"), workers=2)
    assert equal(alone, two)
    assert not equal(alone[:4], alone[4:8])
    assert not equal(alone, epochs(kind("train"), seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    one, two = (list(in_order(kind("train"), 3, CROP, workers)) for workers in (0, 2))
    assert equal(one, two)


def test_pixels_and_files_give_the_same_batches(project, monkeypatch):
    monkeypatch.chdir(project.top)
    one, other = (epochs(picture_set(*project.stored[decoded]["train"])) for decoded in (True, False))
    assert equal(one, other)


def test_two_processes_share_the_crops_of_one(kind):
    *whole, end = epochs(kind("train"))
    *even, even_end = epochs(kind("train"), rank=0, ranks=2)
    *odd, odd_end = epochs(kind("train"), rank=1, ranks=2)
    assert equal([tuple(each[0::2] for each in batch) for batch in whole], even)
    assert equal([tuple(each[1::2] for each in batch) for batch in whole], odd)
    assert equal([end], [even_end]) and equal([end], [odd_end])
    whole, even, odd = (list(in_order(kind("train"), 3, CROP, 0, *share)) for share in ((0, 1), (0, 2), (1, 2)))
    assert equal(whole[0::2], even) and equal(whole[1::2], odd)


class Deadly:
    """Pictures that end the process that reads them."""

    def __getitem__(self, index: int) -> None:
        os._exit(1)


def test_a_worker_that_dies_is_one_sentence():
    pictures = PictureSet(Deadly(), torch.arange(8), torch.zeros(3), torch.ones(3), 8, "toy", "")
    with pytest.raises(DataError, match="a process that reads pictures died .* lower training.workers"):
        epochs(pictures, workers=1)


@pytest.mark.parametrize(
    "serve",
    [
        lambda pictures: TrainingBatches(pictures, 4, Augmentation(flip=True)),
        lambda pictures: next(in_order(pictures, 4)),
    ],
)
def test_different_sizes_need_a_crop(kind, serve):
    with pytest.raises(ConfigError, match="training.crop must be set, as the pictures of folder:pets have different"):
        serve(kind("train"))
