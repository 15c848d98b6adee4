"""The preparation of training images in torchvision, for a fair pair with `cargo bench --bench loader`.

The transforms of JH-LEE-KR/l2p-pytorch, `datasets.py`: RandomResizedCrop 224 from images of 32 x 32, flip,
ToTensor; test images: bicubic resize to 256, centre crop. One process, one thread.

    python benches/peer/loader.py --json
"""
import argparse
import json
import time

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import transforms as T


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels = np.random.RandomState(0).randint(0, 256, (256, 32, 32, 3)).astype(np.uint8)
    images = [Image.fromarray(p) for p in pixels]
    bicubic = T.InterpolationMode.BICUBIC

    def train(**kwargs):
        return T.Compose([T.RandomResizedCrop(224, scale=(0.05, 1.0), ratio=(3 / 4, 4 / 3), **kwargs), T.RandomHorizontalFlip(), T.ToTensor()])

    rows = {
        "torchvision crop_flip": train(), "torchvision crop_flip bicubic": train(interpolation=bicubic),
        "torchvision test bicubic": T.Compose([T.Resize(256, interpolation=bicubic), T.CenterCrop(224), T.ToTensor()]),
    }
    report = []
    for name, transform in rows.items():
        seconds = []
        for repetition in range(args.repetitions + 1):
            start = time.perf_counter()
            for i in range(args.images):
                transform(images[i % len(images)])
            if repetition > 0:
                seconds.append(time.perf_counter() - start)
        seconds.sort()
        median, best = args.images / seconds[len(seconds) // 2], args.images / seconds[0]
        if not args.json:
            print(f"{name:36} {median:8.0f} images/s on one core (best {best:.0f})")
        report.append({"transform": name, "images_per_second": {"median": median, "best": best}, "seconds": seconds})
    if args.json:
        version = f"torchvision {torchvision.__version__}, torch {torch.__version__}, Pillow {PIL.__version__}"
        print(json.dumps({"engine": "torchvision", "version": version, "images": args.images, "threads": 1, "rows": report}))


if __name__ == "__main__":
    main()
