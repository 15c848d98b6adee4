"""Writes tests/fixtures/golden/augment_*.json and .npz: what torchvision, Pillow and TensorFlow make of some images.

    pip install torch torchvision pillow==9.2.0
    python scripts/make_augment_fixtures.py torchvision
    pip install tensorflow-cpu absl-py ml_collections
    python scripts/make_augment_fixtures.py tensorflow --l2p DIR

DIR is a copy of google-research/l2p @ dd8836e; its `augment/` runs unmodified. `tensorflow_addons` and jax are
no longer to be had for today's Python: the three functions of the former that it calls are below, on the
TensorFlow op that they called, and the one function that it wants of the latter is not used.

Pillow 9.2.0 is what JH-LEE-KR/l2p-pytorch asks for. Pillow 13 resizes the columns first where they become
shorter and the rows longer, and then rounds differently.

Images are made by `image` from whole numbers; tests/augment/main.rs makes the same. Large results are
kept as the first 16 digits of the sha256 of their bytes.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import types

import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"


def image(kind, height, width, channels=3):
    """0: edges everywhere, 1: smooth, 2: black and white, 3: few and dark colours."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    if kind == 0:
        v = (7 * x + 13 * y + 29 * c) ^ (x * y // 8)
    elif kind == 1:
        v = (x * 160 // width + y * 90 // height + 5 * c * (x % 3)) % 256
    elif kind == 2:
        v = ((x // 3 + y // 2 + c) % 2) * 255
    else:
        v = 20 + 10 * c + (x * 5 // width) * 3 + (y * 7 // height)
    return (v & 255).astype(np.uint8)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def quantiles(values):
    return [float(v) for v in np.quantile(values, np.arange(1, 20) / 20)]


def write(name, data, arrays):
    # One line for each key, one for each case of a list of cases.
    lines = []
    for key, value in data.items():
        nested = isinstance(value, list) and value and isinstance(value[0], list)
        text = "[\n  " + ",\n  ".join(json.dumps(v) for v in value) + "\n ]" if nested else json.dumps(value)
        lines.append(f" {json.dumps(key)}: {text}")
    text = "{\n" + ",\n".join(lines) + "\n}"
    (OUT / f"{name}.json").write_text(text + "\n")
    if arrays:
        np.savez_compressed(OUT / f"{name}.npz", **arrays)


# torchvision and Pillow


def torchvision_part():
    import PIL
    import torch
    import torchvision
    from PIL import Image
    from torchvision.transforms import functional as F
    from torchvision.transforms import transforms as T

    modes = {"bilinear": T.InterpolationMode.BILINEAR, "bicubic": T.InterpolationMode.BICUBIC}
    data = {"made_with": f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"}

    def pil(array):
        return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)

    # RandomResizedCrop, once its box is drawn: [kind, height, width, channels, box, size].
    resizes = []
    rng = np.random.RandomState(0)
    shapes = [(32, 32, 3), (28, 28, 1), (32, 32, 1), (1, 1, 3), (2, 3, 3), (37, 50, 3), (130, 97, 3), (300, 401, 3)]
    for i in range(96):
        h, w, c = shapes[i % len(shapes)]
        size = [224, 224, 56, 33, 1, 7][rng.randint(6)]
        bh, bw = rng.randint(1, h + 1), rng.randint(1, w + 1)
        if i % 7 == 0:
            bh, bw = h, w
        top, left = rng.randint(0, h - bh + 1), rng.randint(0, w - bw + 1)
        for name, mode in modes.items():
            kind = i // 8 % 4
            out = F.resized_crop(pil(image(kind, h, w, c)), int(top), int(left), int(bh), int(bw), [size, size], mode)
            resizes.append([name, kind, h, w, c, int(top), int(left), int(bh), int(bw), size, digest(np.asarray(out))])
    data["resized_crop"] = resizes

    # Test images: [filter, kind, height, width, channels, resize_size, input_size].
    evals = []
    for i, (h, w, c) in enumerate([(32, 32, 3), (28, 28, 1), (375, 500, 3), (500, 333, 3), (64, 84, 3), (257, 256, 3), (256, 300, 3), (9, 31, 3)]):
        for resize_size, input_size in [(256, 224), (64, 56), (37, 32)]:
            for name, mode in modes.items():
                kind = i % 4
                out = F.center_crop(F.resize(pil(image(kind, h, w, c)), resize_size, mode), input_size)
                evals.append([name, kind, h, w, c, resize_size, input_size, digest(np.asarray(out))])
    data["eval"] = evals

    # Two of them in full, and what ToTensor and Normalize make of them.
    a = F.resized_crop(pil(image(0, 32, 32)), 3, 5, 20, 17, [40, 40], modes["bilinear"])
    b = F.center_crop(F.resize(pil(image(1, 48, 64)), 44, modes["bicubic"]), 40)
    normal = F.normalize(F.to_tensor(F.hflip(a)), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    arrays = {"crop_bilinear": np.asarray(a), "eval_bicubic": np.asarray(b), "crop_unit": F.to_tensor(a).permute(1, 2, 0).numpy(),
              "crop_flipped_imagenet": normal.permute(1, 2, 0).numpy()}

    # Boxes: distribution, and what is taken when none fits.
    torch.manual_seed(0)
    boxes = {}
    for h, w in [(32, 32), (300, 400), (40, 200)]:
        draw = [T.RandomResizedCrop.get_params(torch.empty(3, h, w), [0.05, 1.0], [3 / 4, 4 / 3]) for _ in range(20000)]
        top, left, bh, bw = np.array(draw, dtype=np.float64).T
        boxes[f"{h}x{w}"] = {
            "area": quantiles(bh * bw / (h * w)), "log_aspect": quantiles(np.log(bw / bh)), "height": quantiles(bh), "width": quantiles(bw),
            "top": quantiles(top / np.maximum(h - bh, 1)), "left": quantiles(left / np.maximum(w - bw, 1)),
            "fallback": float(np.mean([tuple(d) == fallback(T, torch, h, w) for d in draw])),
        }
    data["boxes"] = boxes
    data["fallback"] = [[h, w, *fallback(T, torch, h, w)] for h, w in [(1, 10), (10, 1), (10, 30), (33, 7), (100, 201), (7, 7), (3, 4), (5, 4), (50, 5)]]
    write("augment_torchvision", data, arrays)


def fallback(T, torch, h, w):
    """The box when nothing fits: with areas of a hundred images nothing does."""
    return T.RandomResizedCrop.get_params(torch.empty(3, h, w), [100.0, 100.0], [3 / 4, 4 / 3])


# TensorFlow and the official code


def stand_ins(tf):
    def transform(images, transforms):
        transforms = tf.reshape(tf.convert_to_tensor(transforms, tf.float32), [1, 8])
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images[None], transforms=transforms, output_shape=tf.shape(images)[:2], interpolation="NEAREST",
            fill_mode="CONSTANT", fill_value=0.0)[0]

    def rotate(images, angle):
        h, w = tf.cast(tf.shape(images)[0], tf.float32), tf.cast(tf.shape(images)[1], tf.float32)
        sin, cos = tf.sin(angle), tf.cos(angle)
        x = ((w - 1) - (cos * (w - 1) - sin * (h - 1))) / 2.0
        y = ((h - 1) - (sin * (w - 1) + cos * (h - 1))) / 2.0
        return transform(images, tf.stack([cos, -sin, x, sin, cos, y, 0.0, 0.0]))

    def translate(images, by):
        return transform(images, [1.0, 0.0, -by[0], 0.0, 1.0, -by[1], 0.0, 0.0])

    addons = types.ModuleType("tensorflow_addons")
    addons.image = types.SimpleNamespace(transform=transform, rotate=rotate, translate=translate)
    losses = types.ModuleType("libml.losses")
    losses.apply_label_smoothing = None
    sys.modules.update({"tensorflow_addons": addons, "libml.losses": losses})


def tensorflow_part(l2p):
    import tensorflow as tf

    stand_ins(tf)
    sys.path.insert(0, l2p)
    from augment import augment_ops, color_util, rand_augment

    data = {"made_with": f"tensorflow {tf.__version__}, google-research/l2p @ dd8836e"}
    arrays = {}

    # JPEG: [kind, size, channels, box].
    jpegs = []
    rng = np.random.RandomState(1)
    for i in range(40):
        size = [32, 64, 256][i % 3]
        kind, channels = i % 4, 3 if i % 5 else 1
        h, w = (int(v) for v in rng.randint(size // 5, size + 1, 2))
        if i < 4:
            h = w = size
        top, left = int(rng.randint(0, size - h + 1)), int(rng.randint(0, size - w + 1))
        grey = image(kind, size, size, channels)
        code = tf.io.encode_jpeg(np.repeat(grey, 3, 2) if channels == 1 else grey)
        out = tf.image.decode_and_crop_jpeg(code, [top, left, h, w], channels=3).numpy()
        jpegs.append([kind, size, channels, top, left, h, w, digest(out)])
        if i == 1:
            arrays["jpeg"] = out
    data["jpeg"] = jpegs

    # RandAugment: [name, argument, kind, size]. Levels as they come from multiples of a tenth.
    ops = []
    levels = [np.float32(k) / np.float32(10) for k in range(11)]
    for name in rand_augment.IMAGENET_AUG_OPS:
        arguments = {"Posterize": range(5), "Solarize": [0, 25, 128, 230, 255], "SolarizeAdd": [0, 11, 55, 110],
                     "Rotate": [s * v * 30 for v in levels for s in (1, -1)], "ShearX": [s * v * np.float32(0.3) for v in levels for s in (1, -1)],
                     "TranslateX": [s * v * 10 for v in levels for s in (1, -1)],
                     "Color": [v * np.float32(1.8) + np.float32(0.1) for v in levels]}
        same = {"ShearY": "ShearX", "TranslateY": "TranslateX", "Contrast": "Color", "Brightness": "Color", "Sharpness": "Color"}
        for i, argument in enumerate(arguments.get(same.get(name, name), [None])):
            for kind, size in [(0, 32), (1, 56), (2, 33), (3, 32), (1, 224)]:
                if size == 224 and i not in (0, 2):
                    continue
                args = [] if argument is None else [tf.constant(argument, tf.int32 if isinstance(argument, int) else tf.float32)]
                out = augment_ops.NAME_TO_FUNC[name](tf.constant(image(kind, size, size)), *args).numpy()
                ops.append([name, 0.0 if argument is None else float(argument), kind, size, digest(out)])
                if kind == 0 and size == 32:
                    arrays[f"op_{name}"] = out
    data["ops"] = ops

    # Every colour of a grid to grey.
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 3)] * 3, indexing="ij"), -1).astype(np.uint8).reshape(-1, 86, 3)
    data["grey"] = digest(tf.image.rgb_to_grayscale(grid).numpy())

    # Cutout, once its place is drawn: the place is read from the result of the official function.
    rng = np.random.RandomState(2)
    cuts = []
    for i in range(20):
        size = [32, 33, 56][i % 3]
        black = np.zeros((size, size, 3), np.uint8)
        out = augment_ops.cutout(tf.constant([i, 7]), tf.constant(black)).numpy()[:, :, 0] > 0
        rows, columns = np.flatnonzero(out.any(1)), np.flatnonzero(out.any(0))
        uniform = [float(tf.random.stateless_uniform([], tf.random.experimental.stateless_split([i, 7], 2)[k], 0, float(size))) for k in (0, 1)]
        cuts.append([size, *[int(np.round(np.float32(u))) for u in uniform], int(rows[0]), int(rows[-1] + 1), int(columns[0]), int(columns[-1] + 1)])
    data["cutout"] = cuts

    # Colour jitter: one change at a time and three in a row, as bytes.
    changes = {
        "Brightness": lambda x, v: x * v, "Contrast": tf.image.adjust_contrast, "Saturation": tf.image.adjust_saturation,
        "Hue": tf.image.adjust_hue, "Grey": lambda x, v: color_util.to_grayscale(x),
    }
    jitter = []
    for name, change in changes.items():
        for value in {"Hue": [-0.2, -0.05, 0.0, 0.07, 0.1], "Grey": [0.0]}.get(name, [0.2, 0.6, 1.0, 1.4, 1.8]):
            for kind in range(4):
                key = f"jitter_{len(jitter)}"
                x = tf.image.convert_image_dtype(image(kind, 24, 24), tf.float32)
                x = tf.clip_by_value(change(x, np.float32(value)), 0.0, 1.0)
                arrays[key] = tf.cast(x * 255.0, tf.uint8).numpy()
                jitter.append([name, value, kind])
    data["jitter"] = jitter

    # Random erasing: the box from what it is drawn from: [size, area, aspect, y, x, rows, columns].
    erase = []
    for i in range(60):
        size, seed = [32, 224, 33][i % 3], [i, 3]
        _, area, ratio, bbox, _, _ = tf.unstack(tf.random.experimental.stateless_split(seed, 6))
        _, high, wide = tf.unstack(tf.random.experimental.stateless_split(bbox, 3))
        uniform = tf.random.stateless_uniform
        area = uniform([], area, 0.02, 1 / 3)
        aspect = tf.exp(uniform([], ratio, float(np.log(0.3)), float(np.log(1 / 0.3))))
        out = augment_ops.random_erasing(seed, tf.zeros([size, size, 3]), 1.0).numpy()[:, :, 0] != 0
        rows, columns = np.flatnonzero(out.any(1)), np.flatnonzero(out.any(0))
        box = [int(rows[0]), int(rows[-1] + 1), int(columns[0]), int(columns[-1] + 1)] if len(rows) else [0, 0, 0, 0]
        erase.append([size, float(area), float(aspect), float(uniform([], high)), float(uniform([], wide)), *box])
    data["erase"] = erase
    area, sides = [], []
    for i in range(2000):
        out = augment_ops.random_erasing([i, 4], tf.zeros([64, 64, 3]), 1.0).numpy()
        area.append(np.mean(out[:, :, 0] != 0))
        if i < 50:
            sides.append(out[out != 0])
    noise = np.concatenate(sides)
    data["erase_area"] = quantiles(area)
    data["erase_noise"] = {"mean": float(noise.mean()), "deviation": float(noise.std()), "quantiles": quantiles(noise)}

    # The draws of a jitter: how often pixels change, become grey; factors by what becomes of a grey image.
    tf.random.set_seed(5)
    x = tf.image.convert_image_dtype(image(1, 8, 8), tf.float32)
    same = grey = 0
    for _ in range(4000):
        out = tf.clip_by_value(color_util.random_color_jitter(x, 0.5), 0.0, 1.0).numpy()
        same += np.array_equal(out, x.numpy())
        grey += np.array_equal(out[..., 0], out[..., 1]) and np.array_equal(out[..., 1], out[..., 2])
    data["jitter_draws"] = {"same": same / 4000, "grey": grey / 4000}

    # Mixup and CutMix: weights that their rules give, and boxes: [side, y shift, x shift, weight].
    for alpha in (0.75, 0.8, 1.0):
        uni = tf.random.stateless_uniform([20000], [1, 2])
        mix = tf.pow(uni, 1 / alpha) / 2
        data[f"mixup_weight_{alpha}"] = quantiles(tf.maximum(mix, 1 - mix).numpy())
    images = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((6, 30, 30, 3), np.float32)
    probabilities = np.eye(6, dtype=np.float32)
    cutmix = []
    for i in range(10):
        x, y = augment_ops.batch_cutmix(tf.constant([i, 9]), tf.constant(images), tf.constant(probabilities), 1.0)
        beta, _ = tf.unstack(tf.random.experimental.stateless_split([i, 9], 2))
        weight = (tf.random.stateless_uniform([6], seed=beta) / 2).numpy()
        for b in range(6):
            own = x.numpy()[b, :, :, 0] == b
            rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
            cutmix.append([float(weight[b]), len(rows), len(columns), float(y.numpy()[b, b])])
    data["cutmix"] = cutmix
    write("augment_tensorflow", data, arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["torchvision", "tensorflow"])
    parser.add_argument("--l2p")
    args = parser.parse_args()
    torchvision_part() if args.part == "torchvision" else tensorflow_part(args.l2p)
