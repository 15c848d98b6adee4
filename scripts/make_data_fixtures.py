"""Writes tests/fixtures/data/: a tiny copy of every data set, by the libraries that write the real ones.

CIFAR-10 and CIFAR-100 as pickles, as the equal binary files, and in archives as they are downloaded;
pictures by Pillow with the pixels that Pillow reads from them; SVHN by SciPy; the order of ImageNet-R by
tensorflow_datasets; the other sets as archives of pictures in their layouts, which the tests unpack.

The real pickles were written by Python 2 in protocol 2, where keys and array bytes are byte strings
(instructions SHORT_BINSTRING and BINSTRING). `Python2Pickler` writes those instructions from Python 3;
the test files are written by the plain protocol 2 of Python 3, as re-saved copies have it.

    pip install numpy scipy pillow tensorflow-datasets && python scripts/make_data_fixtures.py
"""

import gzip
import io
import pathlib
import pickle
import struct
import tarfile
import tempfile
import zipfile

import numpy as np
import scipy.io
from PIL import Image
from tensorflow_datasets.core import shuffle

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "data"


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


def tar(path, files, mode):
    """An archive without anything that differs from one day to the next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            if data is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(data)
            archive.addfile(entry, None if data is None else io.BytesIO(data))
    data = buffer.getvalue()
    path.write_bytes(gzip.compress(data, mtime=0) if mode == "gz" else data)


def cifar_archives():
    for archive, folder in [("cifar-10-python", "cifar-10-batches-py"), ("cifar-10-binary", "cifar-10-batches-bin"),
                            ("cifar-100-python", "cifar-100-python"), ("cifar-100-binary", "cifar-100-binary")]:
        files = sorted((OUT / folder).iterdir())
        listed = [(folder, None), (f"{folder}/readme.html", b"<html>")]
        listed += [(f"{folder}/{file.name}", file.read_bytes()) for file in files]
        tar(OUT / "archives" / f"{archive}.tar.gz", listed, "gz")


def zipped(path, files):
    """Every second file is stored, the others are deflated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for i, (name, data) in enumerate(files):
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED
            archive.writestr(entry, data)


def colours(seed, height, width, channels=3):
    """A smooth picture: JPEG keeps it, and decoders differ little on it."""
    phases = np.random.RandomState(seed).uniform(0, 6, channels)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(y / 5 + p) * np.cos(x / 7 + 2 * p) for p in phases]
    return np.stack(waves, 2).round().clip(0, 255).astype(np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed, height, width):
    return encoded(Image.fromarray(colours(seed, height, width)), "PNG")


def jpeg(seed, height, width):
    return encoded(Image.fromarray(colours(seed, height, width)), "JPEG", quality=90)


def pickles():
    """CIFAR-10's test batch as copies that were saved again have it: protocols 2 to 5, keys as bytes or text."""
    batch = {b"labels": [3, 8], b"data": images(2, 11)}
    for protocol in range(2, 6):
        write("pickles", f"bytes_{protocol}", pickle.dumps(batch, protocol))
        text = {key.decode(): value for key, value in batch.items()}
        write("pickles", f"text_{protocol}", pickle.dumps(text, protocol))


def pictures():
    """Each picture and, beside it, height, width and the RGB bytes that Pillow reads."""
    rgb = Image.fromarray(colours(1, 13, 17))
    deep = (colours(2, 13, 17, 1)[:, :, 0].astype(np.uint16) << 8) + 77
    kinds = {
        "rgb.png": encoded(rgb, "PNG"),
        "grey.png": encoded(rgb.convert("L"), "PNG"),
        "bits.png": encoded(rgb.convert("1"), "PNG"),
        "palette.png": encoded(rgb.quantize(16), "PNG"),
        "alpha.png": encoded(Image.fromarray(colours(3, 13, 17, 4), "RGBA"), "PNG"),
        "deep.png": encoded(Image.fromarray(deep), "PNG"),
        "rgb.jpg": encoded(rgb, "JPEG", quality=95, subsampling=0),
        "subsampled.jpg": encoded(rgb, "JPEG", quality=95, subsampling=2),
        "progressive.jpg": encoded(rgb, "JPEG", quality=95, progressive=True),
        "grey.jpg": encoded(rgb.convert("L"), "JPEG", quality=95),
    }
    for name, data in kinds.items():
        write("pictures", name, data)
        image = Image.open(io.BytesIO(data))
        if name == "deep.png":
            # Pillow clips 16 bits when it converts; the upper byte is what is meant.
            pixels = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, 2)
        else:
            pixels = np.asarray(image.convert("RGB"))
        write("pictures", name + ".rgb", struct.pack("<II", *pixels.shape[:2]) + pixels.tobytes())


def svhn():
    """Packed with byte labels, and not packed with labels as numbers of 8 bytes; label 10 is a 0."""
    (OUT / "svhn").mkdir(exist_ok=True)
    for name, labels, packed in [("train", [10, 1, 9, 3], True), ("test", [2, 10], False)]:
        x = images(len(labels), 7).reshape(-1, 3, 32, 32).transpose(2, 3, 1, 0)
        y = np.array(labels, np.uint8 if packed else np.float64)[:, None]
        scipy.io.savemat(OUT / "svhn" / f"{name}_32x32.mat", {"X": x, "y": y}, do_compression=packed)


def imagenet_r():
    """The archive as it is downloaded, and the 80 % that `test[:80%]` of tensorflow_datasets takes from it."""
    files = [("imagenet-r", None), ("imagenet-r/README.txt", b"ImageNet-R\n")]
    keys = []
    for i, wnid in enumerate(["n01443537", "n01484850", "n02007558"]):
        files.append((f"imagenet-r/{wnid}", None))
        for j, kind in enumerate(["art", "cartoon", "toy", "sketch"][: 4 - i % 2]):
            name = f"{kind}_{j}.jpg"
            files.append((f"imagenet-r/{wnid}/{name}", jpeg(10 * i + j, 9 + j, 12)))
            keys.append((wnid, name))
    tar(OUT / "imagenet_r" / "imagenet-r.tar", files, "")
    with tempfile.TemporaryDirectory() as folder:
        shuffler = shuffle.Shuffler(dirpath=folder, hash_salt="test", disable_shuffling=False)
        for wnid, name in keys:
            shuffler.add(f"{wnid}_{name}", f"{wnid}/{name}".encode())
        stored = [data for _, data in shuffler]
    write("imagenet_r", "tfds_order.txt", b"".join(line + b"\n" for line in stored))


def core50():
    files = [(f"core50_128x128/s{s}/o{o}/C_{s:02}_{o:02}_{f:03}.png", png(s * 100 + o, 8, 8))
             for s in range(1, 12) for o in (1, 2, 10) for f in range(1 + (s == 1 and o == 2))]
    zipped(OUT / "core50" / "core50_128x128.zip", files)


def cub200():
    root, files = "CUB_200_2011", []
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    lists = {"images": [], "image_class_labels": [], "train_test_split": [], "classes": []}
    for i, name in enumerate(classes):
        lists["classes"].append(f"{i + 1} {name}")
        for j in range(3):
            number = 3 * i + j + 1
            path = f"{name}/{name[4:]}_{number:04}.jpg"
            files.append((f"{root}/images/{path}", jpeg(number, 8, 10 + j)))
            lists["images"].append(f"{number} {path}")
            lists["image_class_labels"].append(f"{number} {i + 1}")
            lists["train_test_split"].append(f"{number} {int(j != 1)}")
    files += [(f"{root}/{name}.txt", "\n".join(lines).encode() + b"\n") for name, lines in lists.items()]
    listed = [("attributes.txt", b"1 has_bill_shape::curved_(up_or_down)\n"), (f"./{root}", None)]
    tar(OUT / "cub200" / "CUB_200_2011.tgz", listed + files, "gz")


def domainnet():
    files = []
    for d, domain in enumerate(["clipart", "real"]):
        for part in ["train", "test"]:
            lines = []
            for label, name in enumerate(["aircraft_carrier", "airplane", "alarm_clock"]):
                for i in range(2 - (part == "test")):
                    path = f"{domain}/{name}/{domain}_{label + 1:03}_{i:06}_{part}.jpg"
                    files.append((path, jpeg(d * 10 + label, 8, 8)))
                    lines.append(f"{path} {label}\n")
            files.append((f"{domain}_{part}.txt", "".join(lines)))
    zipped(OUT / "domainnet" / "domainnet.zip", files)


def notmnist():
    """One file is damaged, as a few of the original are. The original's archive has the training part."""
    files = []
    for i, letter in enumerate("ABCDEFGHIJ"):
        for part, n in [("Train", 4), ("Test", 1)]:
            for j in range(n):
                picture = Image.fromarray(colours(10 * i + j, 4, 4, 1)[:, :, 0]).resize((28, 28), Image.NEAREST)
                data = encoded(picture, "PNG")
                files.append((f"notMNIST/{part}/{letter}/Qml{j}{part}.png", data))
    files.append(("notMNIST/Train/A/RGVtb2NyYXRpY2FCb2xk.png", b""))
    zipped(OUT / "notmnist" / "notMNIST.zip", files)
    small = [(name.replace("notMNIST/Train/", "notMNIST_small/"), data) for name, data in files if "/Train/" in name]
    tar(OUT / "notmnist_small" / "notMNIST_small.tar.gz", [("notMNIST_small", None)] + small, "gz")


if __name__ == "__main__":
    cifar10()
    cifar100()
    cifar_archives()
    pickles()
    pictures()
    svhn()
    imagenet_r()
    core50()
    cub200()
    domainnet()
    notmnist()
