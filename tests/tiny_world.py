"""The files that the documents speak of, tiny and in their true formats; for runpy.

The documents tell of one fixed world: /data/imagenet/train, /models/sd-vae-ft-mse, list.smi and so
on. FILES says what writes each of these; `place` writes one when a command first names it.
"""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HERE = Path(__file__).parent
IMAGES, MOLECULES, PROTEINS, WEIGHTS, LANGUAGE = (
    SimpleNamespace(**runpy.run_path(str(HERE / f"{name}.py")))
    for name in (
        "tiny_images",
        "tiny_molecules",
        "tiny_proteins",
        "tiny_weights",
        "tiny_language",
    )
)
SIDE = IMAGES.SIDE
# A codec keeps 64 components of the descriptors of molecules, which takes more molecules than that.
TEXTS = [*MOLECULES.SMILES, *(f"{'C' * n}{end}" for n in range(1, 11) for end in "COFSN")]
PHOTOS = 40  # images to train on
COUNT = 4  # images to measure; as many as a reduced reed-sample draws
CHAINS = {f"{number}abc": 34 + 2 * number for number in range(1, 9)}  # file -> residues


def pictures(folder: Path, count: int = COUNT) -> Path:
    """Square PNGs."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(len(folder.name))
    for number in range(count):
        image = IMAGES.noise(draws, SIDE, SIDE)
        (folder / f"{number:04}.png").write_bytes(IMAGES.encoded(image, "PNG"))
    return folder


def arrays(path: Path, count: int = COUNT) -> Path:
    """Images and labels as reed-sample writes them, and as ADM's reference files hold them."""
    draws = np.random.default_rng(len(path.name))
    images = draws.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(path, arr_0=images, arr_1=np.arange(count) % 3)
    return path


def captions(path: Path) -> Path:
    """A caption for every image of /data/imagenet/train."""
    photos = place(path.parents[1], "/data/imagenet/train")
    keys = [f"{photo.parent.name}/{photo.name}" for photo in sorted(photos.glob("*/*"))]
    lines = [json.dumps({"key": key, "text": f"number {i}"}) for i, key in enumerate(keys)]
    path.write_text("\n".join(lines))
    return path


def captioned(folder: Path) -> Path:
    """Images in folders of classes, with a caption beside each."""
    IMAGES.sound_photos(folder, PHOTOS)
    for i, photo in enumerate(sorted(folder.glob("*/*"))):
        photo.with_suffix(".txt").write_text(f"photo number {i}")
    return folder


def sequence(name: str, length: int) -> list[str]:
    """Residues that follow from the name."""
    draws = np.random.default_rng(int(name[0]))
    return list(draws.choice(PROTEINS.STANDARD, length))


def structures(folder: Path) -> Path:
    """PDB files of one chain each, no two alike."""
    for name, length in CHAINS.items():
        PROTEINS.straight(folder / f"{name}.pdb", residues=sequence(name, length))
    return folder


def af3(folder: Path) -> Path:
    """A job for every chain of /data/structures, and one for every cluster to train on of pdb()."""
    import gemmi

    for name, length in CHAINS.items():
        letters = gemmi.one_letter_code(sequence(name, length))
        WEIGHTS.af3(folder, f"{name}.pdb_A", letters, WEIGHTS.af3_arrays(length))
    data = place(folder.parents[1], "/data/pdb_2021aug02")
    for row in csv.DictReader((data / "list.csv").read_text().splitlines()):
        letters = row["SEQUENCE"]
        content = WEIGHTS.af3_arrays(len(letters), structure=True)
        WEIGHTS.af3(folder, f"cluster_{row['CLUSTER']}", letters, content)
    return folder


def pdb(folder: Path) -> Path:
    """ProteinMPNN's data: 16 chains to train on, two to validate and two to test."""
    chains = {f"{i:02d}xy_A": (i, 2.0) for i in range(20)}
    return PROTEINS.mpnn(folder, chains, valid=(16, 17), test=(18, 19))


def smiles(path: Path) -> Path:
    """A list of SMILES."""
    path.write_text("".join(f"{text} molecule-{i}\n" for i, text in enumerate(TEXTS)))
    return path


def splits(folder: Path) -> Path:
    """GEOM as MiDi's authors publish it."""
    return MOLECULES.midi(folder, train=TEXTS, val=TEXTS[:4], test=TEXTS[4:8])


def vectors(path: Path) -> Path:
    """A vector for every molecule of /data/geom, as another program may give them."""
    from reed.sources.molecule.molecules import Molecules

    keys = Molecules(place(path.parents[1], "/data/geom")).listing()
    draws = np.random.default_rng(0)
    np.savez(path, **{key: draws.random(512, np.float32) for key in keys})
    return path


def language(path: Path) -> Path:
    """Qwen2-VL."""
    return LANGUAGE.qwen2_vl(path)


def convnext(path: Path) -> Path:
    """What stands in for every other model of timm."""
    from safetensors.torch import save_file

    save_file(IMAGES.timm_model(IMAGES.VISION[path.stem]).state_dict(), path)
    return path


def vae(path: Path) -> Path:
    """An autoencoder of 8 pixels per latent."""
    IMAGES.vae(path)
    return path


# Name in the documents -> what writes it. Those that do not start with / lie in the current folder.
FILES = {
    "/data/imagenet/train": lambda path: IMAGES.sound_photos(path, PHOTOS),
    "/data/imagenet-256": pictures,
    "/data/captions.jsonl": captions,
    "/data/repa": IMAGES.repa,
    "/data/mar": IMAGES.mar,
    "/data/structures": structures,
    "/data/pdb_2021aug02": pdb,
    "/data/af3": af3,
    "/data/geom/rdkit_folder": lambda path: MOLECULES.geom(path, TEXTS),
    "/data/geom": splits,
    "/data/qm9": lambda path: MOLECULES.sdf(path / "gdb9.sdf", TEXTS).parent,
    "/data/molecules": lambda path: MOLECULES.sdf(path / "some.sdf", TEXTS).parent,
    "/models/sd-vae-ft-mse": vae,
    "/models/dinov2-b.safetensors": convnext,
    "/models/convnext.safetensors": convnext,
    "/models/Qwen2-VL-2B-Instruct": language,
    "/models/Qwen2-VL-7B-Instruct": language,
    "/models/esm2": WEIGHTS.esm2,
    "/models/esmfold_v1": WEIGHTS.esmfold,
    "/models/esm_if1.pt": WEIGHTS.esm_if1,
    "mol_pre_all_h_220816.pt": WEIGHTS.unimol,
    "v_48_020.pt": WEIGHTS.mpnn,
    "list.smi": smiles,
    "photos": captioned,
    "structures": structures,
    "molecules.sdf": lambda path: MOLECULES.sdf(path, TEXTS),
    "mine.npz": vectors,
    "my.pdb": lambda path: PROTEINS.straight(path, 40, chains="AB"),
    "real": pictures,
    "drawn": pictures,
    "samples.npz": arrays,
    "VIRTUAL_imagenet256_labeled.npz": arrays,
    "weights-inception-2015-12-05-6726825d.pth": WEIGHTS.inception,
}


def place(root: Path, name: str) -> Path:
    """The file or folder of that name below `root`, written at its first use."""
    path = root / name.strip("/").replace("/", "-") / Path(name).name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        FILES[name](path)
    return path
