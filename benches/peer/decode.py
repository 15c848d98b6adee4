"""Decodes every JPEG below a folder with Pillow and prints the seconds: decode.py FOLDER PROCESSES.

Started by `cargo bench --bench data`; starting the processes and a first round are not counted.
"""

import multiprocessing
import pathlib
import sys
import time

from PIL import Image


def decode(path):
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()[0]


if __name__ == "__main__":
    paths = sorted(pathlib.Path(sys.argv[1]).rglob("*.jpg"))
    with multiprocessing.Pool(int(sys.argv[2])) as pool:
        pool.map(decode, paths, chunksize=8)
        start = time.perf_counter()
        pool.map(decode, paths, chunksize=8)
        print(time.perf_counter() - start)
