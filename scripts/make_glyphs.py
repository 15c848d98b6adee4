"""Writes pictures of letters and signs, from which `configs/pretrain_micro.toml` makes the bundled backbone.

    apt-get install --no-install-recommends $(python scripts/make_glyphs.py --packages)
    pip install numpy==2.4.6 pillow==13.0.0 fonttools==4.68.0
    python scripts/make_glyphs.py data/glyphs

`data/glyphs/{train,test}` has a folder for each sign that the backbone learns; `data/glyphs/held_out/{train,test}` has
the signs that it never sees, by which its size and the length of its training were chosen. Digits are in neither, and
no sign that is drawn like one. The same packages and versions give the same pixels: each picture has a random stream of its own.
`data/glyphs/made_from.txt` says which fonts, packages and versions these were.
"""

import argparse
import importlib.metadata
import multiprocessing
import os
import pathlib
import subprocess

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFilter, ImageFont

PACKAGES = """
fonts-breip fonts-bwht fonts-cabin fonts-cabinsketch fonts-cantarell fonts-cmu fonts-comic-neue fonts-dancingscript
fonts-dejavu-core fonts-dejavu-extra fonts-dkg-handwriting fonts-ebgaramond fonts-ecolier-court fonts-fantasque-sans
fonts-femkeklaver fonts-firacode fonts-freefont-otf fonts-gfs-didot fonts-gfs-gazis fonts-gfs-neohellenic fonts-hack
fonts-humor-sans fonts-inconsolata fonts-ipaexfont fonts-isabella fonts-joscelyn fonts-junction fonts-jura fonts-karla
fonts-kaushanscript fonts-kiloji fonts-klee fonts-kristi fonts-lato fonts-leckerli-one fonts-levien-typoscript
fonts-liberation2 fonts-lindenhill fonts-linuxlibertine fonts-lobster fonts-mononoki fonts-nanum fonts-noto-core
fonts-noto-mono fonts-okolaks fonts-oldstandard fonts-open-sans fonts-opendin fonts-opendyslexic fonts-paratype
fonts-play fonts-prociono fonts-quattrocento fonts-roboto-unhinted fonts-rufscript fonts-sil-charis fonts-sil-gentium
fonts-tomsontalks fonts-umeplus fonts-vlgothic fonts-yanone-kaffeesatz
""".split()

# Fonts whose letters are something else.
NOT_LETTERS = ("symbol", "emoji", "dingbat", "braille", "barcode", "mathjax", "music")

LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπστφχψω"
CYRILLIC = "БДЖИЛФЦЧШЭЮЯбвгджзийлфцчшъыэюя"
HIRAGANA = "".join(chr(c) for c in range(0x3042, 0x3094, 2))
KATAKANA = "".join(chr(c) for c in range(0x30A2, 0x30F4, 2))
OTHERS = "@&%?!#$€£+=§¶"

# Drawn like a digit by somebody's hand or in some font, with the digit.
LIKE_DIGITS = {
    "0": "OoQDΘθΩσロ",
    "1": "IlijJ!ノイ",
    "2": "Zz",
    "3": "зэЭξヨ",
    "4": "Чч",
    "5": "Ssうぢ",
    "6": "bбБGσъдδ",
    "7": "TΓгヲ",
    "8": "B&$§вβ",
    "9": "gqa",
}
SIGNS = [
    sign
    for sign in LATIN + GREEK + CYRILLIC + HIRAGANA + KATAKANA + OTHERS
    if not any(sign in alike for alike in LIKE_DIGITS.values())
]

# Every eighth sign is held out.
HELD_OUT_EVERY = 8
# A sign that fewer fonts have is left out.
FEWEST_FONTS = 6
SEED = 0

# A sign is drawn at this size, cut out, and fitted into a box of 80 in a picture of 112 pixels, which becomes 28: the
# proportions of MNIST.
DRAWN, BOX, LARGE, SMALL = 64, 80, 112, 28


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def font_files():
    """The outline fonts of the packages, sorted by path."""
    paths = sorted({line for package in PACKAGES for line in output("dpkg", "-L", package).splitlines()})
    fonts = [p for p in paths if p.endswith((".ttf", ".otf")) and not any(w in p.lower() for w in NOT_LETTERS)]
    return [p for p in fonts if os.path.isfile(p) and not os.path.islink(p)]


def code_points(path):
    try:
        return frozenset(TTFont(path, fontNumber=0, lazy=True).getBestCmap() or {})
    except Exception:  # A font that cannot be read has no signs.
        return frozenset()


_cut_out = {}


def cut_out(path, sign):
    """The sign in white on black without margins, or None where the font draws next to nothing."""
    key = (path, sign)
    if key not in _cut_out:
        image = Image.new("L", (160, 160))
        try:
            font = ImageFont.truetype(path, DRAWN, layout_engine=ImageFont.Layout.BASIC)
            ImageDraw.Draw(image).text((40, 40), sign, font=font, fill=255)
        except OSError:
            pass
        box = image.getbbox()
        wide_enough = box and box[2] - box[0] > 4 and box[3] - box[1] > 8
        _cut_out[key] = image.crop(box) if wide_enough else None
    return _cut_out[key]


def drawn(sign_image, rng):
    """A picture of 28 x 28 pixels: another stroke width, turned, slanted, stretched and warped."""
    width, height = sign_image.size
    scale = BOX / max(width, height)
    image = sign_image.resize((max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BILINEAR)
    kind = rng.random()
    if kind < 0.35:
        image = image.filter(ImageFilter.MaxFilter(int(rng.choice((3, 5)))))
    elif kind < 0.45:
        image = image.filter(ImageFilter.MinFilter(3))
    canvas = Image.new("L", (LARGE, LARGE))
    canvas.paste(image, ((LARGE - image.size[0]) // 2, (LARGE - image.size[1]) // 2))
    pixels = np.asarray(canvas)
    # A smooth field of shifts from 5 x 5 random ones.
    fields = rng.standard_normal((2, 5, 5)).astype(np.float32)
    shift_x, shift_y = (np.asarray(Image.fromarray(f).resize((LARGE, LARGE), Image.Resampling.BICUBIC)) for f in fields)
    strength, angle, slant = rng.uniform(0, 5), rng.normal(0, 0.15), rng.normal(0, 0.25)
    stretch_x, stretch_y = rng.uniform(0.85, 1.2), rng.uniform(0.9, 1.15)
    middle = (LARGE - 1) / 2
    y, x = np.mgrid[0:LARGE, 0:LARGE].astype(np.float32) - np.float32(middle)
    from_x = (np.cos(angle) * x + np.sin(angle) * y + slant * y) * stretch_x + middle + strength * shift_x
    from_y = (-np.sin(angle) * x + np.cos(angle) * y) * stretch_y + middle + strength * shift_y
    rows = np.clip(from_y.round().astype(int), 0, LARGE - 1)
    columns = np.clip(from_x.round().astype(int), 0, LARGE - 1)
    return Image.fromarray(pixels[rows, columns]).resize((SMALL, SMALL), Image.Resampling.BOX)


def write_sign(job):
    """All pictures of one sign. Returns the sign and how many fonts have it."""
    sign, fonts, folder, counts = job
    usable = [font for font in fonts if cut_out(font, sign)]
    if len(usable) >= FEWEST_FONTS:
        for part, (name, count) in enumerate(counts.items()):
            place = folder / name / f"u{ord(sign):05x}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = np.random.default_rng((SEED, ord(sign), part, i))
                font = usable[int(rng.integers(len(usable)))]
                drawn(cut_out(font, sign), rng).save(place / f"{i:04d}.png")
    _cut_out.clear()
    return sign, len(usable)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    parser.add_argument("--packages", action="store_true", help="print the Debian packages and end")
    parser.add_argument("--train", type=int, default=400, help="pictures of each sign to learn from")
    parser.add_argument("--test", type=int, default=20, help="pictures of each sign to test with")
    given = parser.parse_args()
    if given.packages or given.folder is None:
        print(" ".join(PACKAGES))
        return
    fonts = font_files()
    held_out = set(SIGNS[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY])
    jobs = []
    with multiprocessing.Pool() as pool:
        has = dict(zip(fonts, pool.map(code_points, fonts)))
        for sign in SIGNS:
            folder = given.folder / "held_out" if sign in held_out else given.folder
            counts = {"train": 200, "test": 100} if sign in held_out else {"train": given.train, "test": given.test}
            jobs.append((sign, [f for f in fonts if ord(sign) in has[f]], folder, counts))
        drawn_by = dict(pool.imap_unordered(write_sign, jobs, chunksize=1))
    kept = [sign for sign in SIGNS if drawn_by[sign] >= FEWEST_FONTS]
    versions = output("dpkg-query", "-W", "-f", "${Package} ${Version}\n", *PACKAGES)
    (given.folder / "made_from.txt").write_text(
        f"learned: {''.join(s for s in kept if s not in held_out)}\n"
        f"held out: {''.join(s for s in kept if s in held_out)}\n"
        f"fonts: {len(fonts)} files\n"
        + "".join(f"{name} {importlib.metadata.version(name)}\n" for name in ("numpy", "pillow", "fonttools"))
        + versions
    )
    print(f"{len(kept)} signs, {sum(s in held_out for s in kept)} of them held out, from {len(fonts)} fonts")


if __name__ == "__main__":
    main()
