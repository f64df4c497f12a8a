"""Data sets: where their files come from, how they are checked, split, kept in memory and augmented."""

from PIL import Image

# What Pillow raises for files that are no pictures, are cut short or are damaged.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# Environment variables: a folder of data sets for machines without a download, and the folder with ImageNet's
# train/ and val/.
MIRROR, IMAGENET_ROOT = "DATASETS_MIRROR", "IMAGENET_ROOT"
