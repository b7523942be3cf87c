"""Real data sets as packages hold them, written in the layouts that reed's sources read."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click
import numpy as np
from tqdm import tqdm

from reed.errors import ReedError
from reed.experiments.real_packages import members
from reed.image_files import HEAD, format_of
from reed.picture import library
from reed.seeding import seed_for

FASHION = (
    "T-shirt or top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
SHARES = {"1k": 1000, "10k": 10_000}  # first images to train on, as archives of their own
HELD_OUT = 10  # one in so many concepts is held out
PART = 10_000  # molecules per file
KEYWORDS = 6  # of a caption
IDX = {1: 8, 3: 16}  # dimensions -> bytes before the values
TITLE = re.compile(r"<dc:title[^>]*>([^<]*)</dc:title>")
KEYWORD = re.compile(r"<rdf:li[^>]*>([^<]*)</rdf:li>")
SPACES = re.compile(r"\s+")

Archives = Mapping[str, Path]  # package -> its file


@dataclass(frozen=True)
class Picture:
    """One image on its way into an archive: its class folder, name, caption and bytes."""

    label: str
    name: str
    caption: str
    content: bytes


def fashion(archives: Archives, out: Path) -> None:
    """Write Fashion-MNIST as PNGs in folders of classes, with the class's name as the caption.

    Args:
        archives: The file of ``dataset-fashion-mnist``.
        out: Folder for train.zip, its first 1,000 and 10,000 images, and test.zip.

    Raises:
        ReedError: A file of the package is missing or damaged.
    """
    packed = {PurePosixPath(n).name: c for n, c in members(archives["dataset-fashion-mnist"])}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = idx(packed, f"{prefix}-images-idx3-ubyte.gz", 3)
        labels = idx(packed, f"{prefix}-labels-idx1-ubyte.gz", 1)
        if len(images) != len(labels) or labels.max() >= len(FASHION):
            problem = f"{len(images)} images and {len(labels)} labels up to {labels.max()}"
            raise ReedError(f"the {split} split of Fashion-MNIST has {problem}")

        # Smaller archives, because a build reads whole ones.
        counts = {split: len(images)}
        counts |= {f"train-{n}": c for n, c in SHARES.items() if split == "train"}
        for name, count in counts.items():
            rows = zip(images[:count], labels[:count], strict=True)
            pictures = (
                Picture(FASHION[label], f"{i:05}.png", FASHION[label].lower(), _png(image))
                for i, (image, label) in enumerate(rows)
            )
            pack(out / f"{name}.zip", pictures, min(count, len(images)))


def idx(packed: Mapping[str, bytes], name: str, dimensions: int) -> np.ndarray:
    """Return the uint8 array in a packed idx file.

    Raises:
        ReedError: The file is missing, cut, or of another kind.
    """
    if name not in packed:
        raise ReedError(f"the package of Fashion-MNIST holds no {name}")
    content = gzip.decompress(packed[name])
    head = IDX[dimensions]
    shape = tuple(int(n) for n in np.frombuffer(content[4:head], ">u4"))
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != head + np.prod(shape):
        problem = f"begins with {content[:4]!r} and has {len(content):,} bytes"
        raise ReedError(f"{name} {problem}, which is no idx file of {dimensions} dimensions")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def emoji(archives: Archives, out: Path) -> None:
    """Write the emoji of two artists, with the names and keywords of emojibase as captions.

    An emoji is held out for both artists, and with all its skin tones, or for none. Exact copies
    within an artist's set are left out.

    Args:
        archives: The files of the two sets of images, and of ``emojibase-data``.
        out: Folder for train.zip and test.zip.
    """
    named = emoji_names(dict(members(archives["emojibase-data"])))
    splits: dict[str, list[Picture]] = {"train": [], "test": []}
    left = Counter[str]()
    for artist, package, ending in (
        ("fluent", "@lobehub/fluent-emoji-3d", ".webp"),
        ("noto", "emoji-datasource-google", ".png"),
    ):
        folder, seen = "/assets/" if artist == "fluent" else "/img/google/64/", set[str | bytes]()
        for name, content in members(archives[package]):
            # Both packages hold more than emoji: sheets, letters of flags, parts of sequences.
            code = bare(PurePosixPath(name).stem)
            if folder not in f"/{name}" or not name.endswith(ending):
                continue
            if code not in named:
                left["not emoji of a group"] += 1
            elif seen & {code, content}:
                left["copies"] += 1
            else:
                seen |= {code, content}
                about = named[code]
                picture = Picture(about.group, f"{artist}-{code}{ending}", about.caption, content)
                splits[split_of("emoji", about.concept)].append(picture)

    # What is left out is counted, so that nothing is missing in silence.
    pack_splits(out, splits, left)


@dataclass(frozen=True)
class Emoji:
    """What emojibase says of an emoji: its group, its caption, and that of which it is a tone."""

    group: str
    caption: str
    concept: str


def emoji_names(packed: Mapping[str, bytes]) -> dict[str, Emoji]:
    """Return what emojibase says of every emoji that has a group, by its code."""
    try:
        records = json.loads(packed["package/en/data.json"])
        groups = json.loads(packed["package/en/messages.json"])["groups"]
        names = {group["order"]: group["key"] for group in groups}
        found = {}
        for record in records:
            for each in (record, *record.get("skins", ())):
                if "group" in each:
                    words = ", ".join(record.get("tags", ())[:KEYWORDS])
                    text = f"{each['label']}: {words}" if words else each["label"]
                    concept = bare(record["hexcode"])
                    found[bare(each["hexcode"])] = Emoji(names[each["group"]], text, concept)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ReedError(f"emojibase-data is not laid out as version 17: {error!r}") from error
    return found


def bare(code: str) -> str:
    """Return the code of an emoji as both artists write it: lower case, no variation selectors."""
    return "-".join(part.lstrip("0") for part in code.lower().split("-") if part != "fe0f")


def openclipart(archives: Archives, out: Path) -> None:
    """Write openclipart's PNGs in folders of classes, with title and keywords of their SVGs.

    Images of one title and keywords are held out together. Exact copies are left out.

    Args:
        archives: The files of ``openclipart-png`` and ``openclipart-svg``.
        out: Folder for train.zip and test.zip.
    """
    captions = {
        _below(name, "svg"): caption_of_svg(content)
        for name, content in members(archives["openclipart-svg"])
        if name.endswith(".svg")
    }
    splits: dict[str, list[Picture]] = {"train": [], "test": []}
    seen, left = set(), Counter[str]()

    # Links to a drawing in another folder are no files, and so are passed over.
    for name, content in members(archives["openclipart-png"]):
        key = _below(name, "png")
        if not name.endswith(".png"):
            continue
        if format_of(content[:HEAD]) != "PNG":
            left["not images"] += 1
        elif not captions.get(key):
            left["without a title"] += 1
        elif content in seen:
            left["copies"] += 1
        else:
            seen.add(content)
            label, _, rest = key.partition("/")
            picture = Picture(label, f"{rest.replace('/', '.')}.png", captions[key], content)
            splits[split_of("openclipart", captions[key])].append(picture)
    pack_splits(out, splits, left)


def caption_of_svg(content: bytes) -> str:
    """Return title and keywords in the metadata of an SVG; empty if it has no title."""
    text = content.decode("utf-8", errors="replace")
    title = TITLE.search(text)
    if not title or not title[1].strip():
        return ""
    words = [html.unescape(word).strip() for word in KEYWORD.findall(text)]
    words = [word for word in dict.fromkeys(words) if word and word != "unsorted"][:KEYWORDS]
    whole = html.unescape(title[1]) + (f": {', '.join(words)}" if words else "")
    return SPACES.sub(" ", whole).strip()


def moses(archives: Archives, out: Path) -> None:
    """Write the SMILES of MOSES as lists of 10,000, in folders of its three splits.

    Args:
        archives: The file of ``molsets``.
        out: Folder for train/, test/ and test_scaffolds/.

    Raises:
        ReedError: The package lacks a split.
    """
    splits = {"train", "test", "test_scaffolds"}
    for name, content in members(archives["molsets"]):
        split = PurePosixPath(name).name.removesuffix(".csv.gz")
        if split not in splits or not name.endswith(".csv.gz"):
            continue
        splits.discard(split)

        # Lists of a size that a laptop can compute conformers for.
        rows = csv.DictReader(io.StringIO(gzip.decompress(content).decode()))
        smiles = [row["SMILES"] for row in rows]
        (out / split).mkdir()
        for start in tqdm(range(0, len(smiles), PART), desc=f"moses {split}", unit="file"):
            lines = "".join(f"{text}\n" for text in smiles[start : start + PART])
            (out / split / f"{start // PART:03}.csv").write_text(f"smiles\n{lines}")
    if splits:
        raise ReedError(f"molsets lacks the splits {', '.join(sorted(splits))}")


def pack_splits(
    out: Path, splits: Mapping[str, Sequence[Picture]], left: Mapping[str, int]
) -> None:
    """Write the archive of each split, and say how many images are left out, and why."""
    for split, pictures in splits.items():
        pack(out / f"{split}.zip", sorted(pictures, key=lambda p: (p.label, p.name)), len(pictures))
    if left:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left.items()))
        click.echo(
            f"{sum(left.values()):,} images of the packages are left out: {reasons}", err=True
        )


def pack(path: Path, pictures: Iterable[Picture], count: int) -> None:
    """Write a zip of images in folders of classes, and captions.jsonl; the bytes never differ."""
    captions = []
    with zipfile.ZipFile(path, "w") as archive:
        for each in tqdm(pictures, total=count, desc=path.name, unit="image"):
            key = f"{each.label}/{each.name}"
            archive.writestr(zipfile.ZipInfo(key), each.content)
            captions.append(json.dumps({"key": key, "text": each.caption}, ensure_ascii=False))
        archive.writestr(zipfile.ZipInfo("captions.jsonl"), "\n".join(captions) + "\n")


def split_of(data: str, concept: str) -> str:
    """Return train or test, by a hash of what must not be on both sides."""
    return "train" if seed_for(0, data, concept) % HELD_OUT else "test"


def _png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    library("PIL.Image").fromarray(image).save(content, "PNG")
    return content.getvalue()


def _below(name: str, folder: str) -> str:
    """Return the path below openclipart/FOLDER/, without its ending."""
    return name.partition(f"/openclipart/{folder}/")[2].rpartition(".")[0]
