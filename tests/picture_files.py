"""Small picture files in class folders, and the prepared files that come from them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.dataset import Dataset
from pipeline.tensors import load_tensors, save_tensors
from stages import prepare


def pixels_of(name: str, height: int, width: int) -> np.ndarray:
    """Random pixels (H, W, 3) that follow from the name."""
    return np.random.default_rng([*name.encode()]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(name: str, height: int, width: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels_of(name, height, width)).save(stream, kind)
    return stream.getvalue()


def tree(top: Path, parts, classes=("cat", "dog"), count=5, size=None) -> dict[str, np.ndarray]:
    """Class folders of PNG files of different sizes, or of one; gives pixels (3, H, W) by path."""
    written = {}
    for part in parts:
        for label, klass in enumerate(classes):
            for number in range(count):
                name = f"{part}/{klass}/{number:02}.png".lstrip("/")
                height, width = (size, size) if size else (20 + number, 30 - number - label)
                (top / name).parent.mkdir(parents=True, exist_ok=True)
                (top / name).write_bytes(encoded(name, height, width))
                written[name] = pixels_of(name, height, width).transpose(2, 0, 1)
    return written


def stored(path: Path, dataset: Dataset, validation=2, seed=0) -> dict[str, tuple]:
    """What the prepare stage writes and a later stage reads."""
    tensors, about = prepare.prepared(dataset, validation, seed)
    for part, content in tensors.items():
        save_tensors(path / f"{part}.safetensors", content, about)
    return {part: load_tensors(path / f"{part}.safetensors") for part in tensors}
