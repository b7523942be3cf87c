"""Frame2seq with small random weights, and with the public ones beside the package's own code."""

from __future__ import annotations

import importlib
import importlib.machinery
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from reed.encoders.protein.frame2seq import Frame2seq
from reed.encoders.protein.frame2seq_net import forward, shapes, with_cb
from reed.errors import ReedError
from reed.sources.protein.toy import ProteinsToy

DIM = 8


def saved(path: Path, state: dict, **config: int) -> Path:
    """A file in the layout of the public ones."""
    torch.save({"state_dict": state, "hyper_parameters": {"config": config}}, path)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Frame2seq:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("frame2seq") / "tiny.ckpt"
    state = {name: 0.3 * torch.randn(shape) for name, shape in shapes(DIM, 2, 2).items()}
    saved(path, state, ipa_dim=DIM, ipa_depth=2, st_mod_tsit_factor=2)
    made = Frame2seq(str(path), dim=DIM)
    made.load("cpu")
    return made


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    source = ProteinsToy(samples=2, min_length=20, max_length=30)
    return [source.read(key) for key in source.listing()]


def test_states_stay_when_the_chain_moves(encoder, samples):
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    first = encoder.encode(samples)
    moved = [s | {"coords": (s["coords"] @ turn + 25).astype(np.float32)} for s in samples]
    for one, other, sample in zip(
        first["tokens"], encoder.encode(moved)["tokens"], samples, strict=True
    ):
        assert one.shape == (len(sample["sequence"]), DIM) and one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert np.array_equal(first["mean"][0], first["tokens"][0].mean(0))
    mirrored = samples[0] | {"coords": samples[0]["coords"] * np.float32([1, 1, -1])}
    assert np.abs(encoder.encode([mirrored])["tokens"][0] - first["tokens"][0]).max() > 0.01


def test_a_residue_that_lacks_an_atom_is_not_looked_at(encoder, samples):
    """Its own atoms that are there change its neighbours' torsions and pairs, not far residues."""
    coords = samples[0]["coords"].copy()
    coords[-1, 0] = np.nan
    (found,) = encoder.encode([samples[0] | {"coords": coords}])["tokens"]
    assert np.isfinite(found).all()
    coords[-1, 3] += 5  # O is not read
    (same,) = encoder.encode([samples[0] | {"coords": coords}])["tokens"]
    assert np.array_equal(found, same)


def test_chains_do_not_see_one_another(encoder, samples):
    both = {
        "coords": np.concatenate([s["coords"] for s in samples]),
        "sequence": "".join(s["sequence"] for s in samples),
        "chain": np.repeat([0, 1], [len(s["sequence"]) for s in samples]),
    }
    (found,) = encoder.encode([both])["tokens"]
    assert np.array_equal(found, np.concatenate(encoder.encode(samples)["tokens"]))


def test_the_virtual_cb_is_where_a_real_one_would_be():
    """An ideal alanine: CB is 1.52 Å from CA, and on the side of an L residue."""
    atoms = torch.tensor([[[-0.525, 1.363, 0.0], [0.0, 0.0, 0.0], [1.526, 0.0, 0.0]]])
    cb = with_cb(atoms)[0, 3].numpy()
    np.testing.assert_allclose(cb, [-0.529, -0.774, -1.205], atol=0.03)  # Engh and Huber


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ReedError, match="is not a Frame2seq: it lacks state_dict, or num"):
        Frame2seq(str(path)).load("cpu")
    saved(path, {}, ipa_dim=16, ipa_depth=1, st_mod_tsit_factor=1)
    with pytest.raises(ReedError, match="has 16 channels, frame2seq.dim is 128; set it"):
        Frame2seq(str(path)).load("cpu")
    for change in ({"ipa_depth": "x"}, {"st_mod_tsit_factor": None}):
        config = {"ipa_dim": 128, "ipa_depth": 1, "st_mod_tsit_factor": 1} | change
        saved(path, {}, **config)
        with pytest.raises(ReedError, match="lacks state_dict, or numbers in hyper.*public file"):
            Frame2seq(str(path)).load("cpu")
    saved(path, None, ipa_dim=128, ipa_depth=1, st_mod_tsit_factor=1)
    with pytest.raises(ReedError, match="has NoneType in place of the table of its weights"):
        Frame2seq(str(path)).load("cpu")
    path.unlink()
    with pytest.raises(ReedError, match="holds no weights .neither model1.ckpt nor.*frame2seq/0.0"):
        Frame2seq(str(tmp_path)).load("cpu")
    with pytest.raises(ReedError, match="cannot be 'bf16'"):
        Frame2seq(precision="bf16")


def downloaded(folder: Path, wanted: str) -> None:
    """Unpack a wheel of PyPI into a folder."""
    words = ("pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "wheels"), wanted)
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, timeout=900)
    if done.returncode:
        pytest.skip(f"{wanted} cannot be downloaded")
    for wheel in (folder / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # of the package's code
def test_states_are_those_of_the_package(tmp_path, monkeypatch):
    """Both widths of the public files on a real chain; distances computed exactly in either."""
    from reed.chem.structure import read_structure

    for wanted in ("frame2seq==0.0.8", "dockstring==0.3.4", "einops==0.8.1"):
        downloaded(tmp_path, wanted)
    text = (tmp_path / "dockstring/resources/targets/DHFR_target.pdbqt").read_text()
    lines = [line for line in text.splitlines() if re.match("ATOM|TER|END$", line)]
    (tmp_path / "DHFR.pdb").write_text("\n".join(lines) + "\n")
    (chain,) = read_structure(tmp_path / "DHFR.pdb").chains.values()
    theirs = package(tmp_path, monkeypatch)
    place = importlib.import_module("frame2seq.utils.place_ideal_atoms")

    coords = torch.from_numpy(chain.coords.copy())
    x = torch.zeros(len(coords), 5, 3)
    x[:, :3] = coords[:, :3]
    x = place.place_missing_o(place.place_missing_cb(x))[None]
    letters = torch.zeros(1, len(coords), 21)
    letters[..., 20] = 1
    fast = torch.cdist
    exact = lambda a, b: fast(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # noqa: E731
    for number in (1, 2):
        path = tmp_path / f"frame2seq/trained_models/model{number}.ckpt"
        net = theirs(torch.load(path, weights_only=True))
        with torch.no_grad(), monkeypatch.context() as patch:
            patch.setattr(torch, "cdist", exact)
            want = net(x, torch.ones(1, len(coords), dtype=torch.bool), letters)[0]
        ours = Frame2seq(str(path))
        ours.load("cpu")
        with torch.no_grad():
            _, logits = forward(ours._state, coords[:, :3])
        np.testing.assert_allclose(logits, want, atol=1e-3)


def package(folder: Path, monkeypatch):
    """The package's own model of a file, without the libraries that only training needs."""
    lightning, tree = ModuleType("pytorch_lightning"), ModuleType("tree")

    class Module(torch.nn.Module):
        device, hparams = torch.device("cpu"), SimpleNamespace()

        def save_hyperparameters(self) -> None: ...

    vars(lightning)["LightningModule"] = Module
    vars(tree)["map_structure"] = lambda function, names: names
    for module in (lightning, tree):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("Bio", "Bio.PDB"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.syspath_prepend(folder)
    code = importlib.import_module("frame2seq.model.Frame2seq")

    def made(file: dict):
        Module.hparams.config = file["hyper_parameters"]["config"]
        net = code.frame2seq(Module.hparams.config)
        net.load_state_dict(file["state_dict"])
        return net.eval()

    return made
