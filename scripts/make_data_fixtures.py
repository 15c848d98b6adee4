"""Writes tests/data/: tiny CIFAR-10 and CIFAR-100 folders, as pickles and as the equal binary files.

The real pickles were written by Python 2 in protocol 2, where keys and array bytes are byte strings
(instructions SHORT_BINSTRING and BINSTRING). `Python2Pickler` writes those instructions from Python 3;
the test files are written by the plain protocol 2 of Python 3, as re-saved copies have it.

    pip install numpy && python scripts/make_data_fixtures.py
"""

import io
import pathlib
import pickle
import struct

import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"


class Python2Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        if len(obj) < 256:
            self.write(b"U" + bytes([len(obj)]) + obj)
        else:
            self.write(b"T" + struct.pack("<i", len(obj)) + obj)
        self.memoize(obj)

    dispatch[bytes] = save_bytes


def python2(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    # The module's name in the versions of numpy that wrote the real files.
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def images(n, seed):
    """Blocks of 8x8 pixels, so that the files compress to little in the repository."""
    blocks = np.random.RandomState(seed).randint(0, 256, (n, 3, 4, 4)).astype(np.uint8)
    return np.repeat(np.repeat(blocks, 8, 2), 8, 3).reshape(n, 3072)


def write(folder, name, data):
    path = OUT / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(data)


def cifar10():
    names = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
    files = [(f"data_batch_{i}", 2, python2) for i in range(1, 6)]
    files.append(("test_batch", 10, lambda value: pickle.dumps(value, protocol=2)))
    for i, (name, n, dump) in enumerate(files):
        data = images(n, i)
        labels = [(2 * i + j) % 10 for j in range(n)]
        batch = {b"batch_label": name.encode(), b"labels": labels, b"data": data,
                 b"filenames": [b"image_%d.png" % j for j in range(n)]}
        write("cifar-10-batches-py", name, dump(batch))
        records = b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, data))
        write("cifar-10-batches-bin", name + ".bin", records)
    meta = {b"num_cases_per_batch": 2, b"label_names": names, b"num_vis": 3072}
    write("cifar-10-batches-py", "batches.meta", python2(meta))
    write("cifar-10-batches-bin", "batches.meta.txt", b"\n".join(names) + b"\n\n")


def cifar100():
    names = [b"class_%02d" % i for i in range(100)]
    for name, n, dump in [("train", 3, python2), ("test", 2, lambda v: pickle.dumps(v, protocol=2))]:
        # Fortran order, which numpy stores as it is.
        data = np.asfortranarray(images(n, 100 + n)) if name == "test" else images(n, 100 + n)
        fine, coarse = [99 - 7 * j for j in range(n)], [j for j in range(n)]
        batch = {b"filenames": [b"x.png"] * n, b"batch_label": b"1 of 1", b"fine_labels": fine,
                 b"coarse_labels": coarse, b"data": data}
        write("cifar-100-python", name, dump(batch))
        records = b"".join(bytes([c, f]) + row.tobytes() for c, f, row in zip(coarse, fine, data))
        write("cifar-100-binary", name + ".bin", records)
    meta = {b"fine_label_names": names, b"coarse_label_names": [b"coarse_%d" % i for i in range(20)]}
    write("cifar-100-python", "meta", python2(meta))
    write("cifar-100-binary", "fine_label_names.txt", b"\n".join(names) + b"\n")


if __name__ == "__main__":
    cifar10()
    cifar100()
