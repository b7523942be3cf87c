"""Packages of real data and weights, tiny and in their true formats; for runpy."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CODES = ("1F600", "1F44B", "0023-FE0F-20E3", "2764-FE0F", "1F431", "1F697")
TONE = "1F44B-1F3FB"
SVG = """<svg xmlns:dc="d" xmlns:rdf="r"><metadata><dc:title>{title}</dc:title>
<dc:subject><rdf:Bag>{words}</rdf:Bag></dc:subject></metadata></svg>"""


def image(seed: int, kind: str = "PNG", mode: str = "RGBA") -> bytes:
    """A small noise image with an alpha channel."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, kind, lossless=True)
    return content.getvalue()


def tar(files: dict[str, bytes], mode: str) -> bytes:
    """A packed tar."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def deb(path: Path, files: dict[str, bytes]) -> Path:
    """A .deb as dpkg-deb writes it: an ar archive of a version, control.tar and data.tar."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar({"./control": b"Package: tiny\n\n"}, "w:xz"),
        "data.tar.xz": tar({f"./{name}": data for name, data in files.items()}, "w:xz"),
    }
    content = b"!<arch>\n"
    for name, data in parts.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        content += head.encode() + data + b"\n" * (len(data) % 2)
    path.write_bytes(content)
    return path


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    """A wheel that pip takes for one."""
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = files | {f"{info}/METADATA": about.encode(), f"{info}/WHEEL": tags.encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    return path


def idx(array: np.ndarray) -> bytes:
    """A packed idx file."""
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(head + array.tobytes())


def fashion(path: Path, train: int = 40, test: int = 20) -> Path:
    """Debian's dataset-fashion-mnist."""
    draws, files = np.random.default_rng(0), {}
    for prefix, count in (("train", train), ("t10k", test)):
        folder = f"usr/share/datasets/fashion-mnist/{prefix}"
        images = draws.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{folder}-images-idx3-ubyte.gz"] = idx(images)
        files[f"{folder}-labels-idx1-ubyte.gz"] = idx(np.arange(count, dtype=np.uint8) % 10)
    return deb(path, files)


def emojibase(path: Path) -> Path:
    """npm's emojibase-data."""
    records = [
        {"label": f"face {i}", "hexcode": code, "tags": ["a", "b"], "group": i % 2}
        for i, code in enumerate(CODES)
    ]
    records[1]["skins"] = [{"label": "face 1: light skin tone", "hexcode": TONE, "group": 1}]
    records.append({"label": "regional indicator A", "hexcode": "1F1E6"})
    groups = [{"key": key, "order": i} for i, key in enumerate(("smileys", "people"))]
    files = {"data": records, "messages": {"groups": groups}}
    content = {f"package/en/{name}.json": json.dumps(f).encode() for name, f in files.items()}
    path.write_bytes(tar(content, "w:gz"))
    return path


def fluent(path: Path) -> Path:
    """npm's @lobehub/fluent-emoji-3d; one image comes under two names of one emoji."""
    codes = [*CODES, TONE, "1F1E6", "2764"]
    files = {f"package/assets/{c.lower()}.webp": image(i, "WEBP") for i, c in enumerate(codes)}
    path.write_bytes(tar(files, "w:gz"))
    return path


def google(path: Path) -> Path:
    """npm's emoji-datasource-google, with a sheet that is not an emoji."""
    files = {f"package/img/google/64/{c.lower()}.png": image(90 + i) for i, c in enumerate(CODES)}
    files["package/img/google/sheets/32.png"] = image(80)
    path.write_bytes(tar(files, "w:gz"))
    return path


def clipart(png: Path, svg: Path, count: int = 30) -> tuple[Path, Path]:
    """Debian's openclipart-png and -svg; the last drawing has no title."""
    folder = "usr/share/openclipart"
    names = [f"{('animals', 'food/fruit')[i % 2]}/thing_{i:02}" for i in range(count)]
    words = "<rdf:li>unsorted</rdf:li><rdf:li>big &amp; small</rdf:li>"
    deb(png, {f"{folder}/png/{name}.png": image(i) for i, name in enumerate(names)})
    titles = [f"Thing {i}" for i in range(count - 1)] + [""]
    files = {
        f"{folder}/svg/{name}.svg": SVG.format(title=title, words=words).encode()
        for name, title in zip(names, titles, strict=True)
    }
    return png, deb(svg, files)


def molsets(path: Path) -> Path:
    """PyPI's molsets."""
    lists = {"train": ["CCO", "CCN", "CCC"], "test": ["CO"], "test_scaffolds": ["CN"]}
    files = {
        f"moses/dataset/data/{name}.csv.gz": gzip.compress(
            "\n".join(["SMILES", *smiles]).encode() + b"\n"
        )
        for name, smiles in lists.items()
    }
    return wheel(path, files | {"moses/metrics/mcf.csv": b"SMILES\nCC\n"})
