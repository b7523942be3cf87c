"""ANI potentials: equal to torchani, from both kinds of files; elements that they lack."""

from __future__ import annotations

import bz2
import importlib
import runpy
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from reed.build.shard import BadSample
from reed.chem import rdkit
from reed.chem.molecule import ATOMS
from reed.encoders import ENCODERS
from reed.encoders.molecule import ani_files
from reed.encoders.molecule.ani import AniStates, Card
from reed.errors import ReedError
from reed.weights import Origin

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_molecules.py")))
GOLDEN = Path(__file__).with_name("golden") / "ani.npz"
MEMBERS = 2
# The layers of each element, and the constants, of the published models.
LAYERS = {
    "ani-1x": {"H": (160, 128, 96), "C": (144, 112, 96), "N": (128, 112, 96), "O": (128, 112, 96)},
    "ani-2x": {
        "H": (256, 192, 160),
        "C": (224, 192, 160),
        "N": (192, 160, 128),
        "O": (192, 160, 128),
        "S": (160, 128, 96),
        "F": (160, 128, 96),
        "Cl": (160, 128, 96),
    },
}
CONSTANTS = {
    "ani-1x": (5.2, 3.5, 16.0, 16, 8.0, 32.0, 4, 8, 0.9),
    "ani-2x": (5.1, 3.5, 19.7, 16, 12.5, 14.1, 8, 4, 0.8),
}
WIDTH = {"ani-1x": 384, "ani-2x": 1008}


def constants(name: str) -> dict[str, list[float]]:
    """The constants as files have them, by NeuroChem's names."""
    far, close, eta_r, radial, eta_a, zeta, angular, sections, start = CONSTANTS[name]
    return {
        "Rcr": [far],
        "Rca": [close],
        "EtaR": [eta_r],
        "ShfR": np.linspace(start, far, radial + 1)[:-1].tolist(),
        "EtaA": [eta_a],
        "Zeta": [zeta],
        "ShfA": np.linspace(start, close, angular + 1)[:-1].tolist(),
        "ShfZ": ((np.arange(sections) + 0.5) * np.pi / sections).tolist(),
    }


def layers(name: str, element: str, member: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Drawn weights and biases of one network, of which the golden file has the output."""
    sizes = (WIDTH[name], *LAYERS[name][element], 1)
    found = []
    for place, (inside, out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        rng = np.random.default_rng([*element.encode(), member, place])
        weight = rng.normal(size=(out, inside)) * 1.5 / np.sqrt(inside)
        found.append((weight.astype(np.float32), rng.normal(size=out).astype(np.float32) * 0.1))
    return found


def neurochem(folder: Path, name: str = "ani-1x") -> Path:
    """A folder as NeuroChem writes it, with files that are not read."""
    folder.mkdir(parents=True)
    elements = list(LAYERS[name])
    lines = ["TM = 1", f"Atyp = [{','.join(elements)}]"]
    lines += [
        f"{key} = {numbers[0]:.4e}"
        if key in ("Rcr", "Rca")
        else f"{key} = [{','.join(map(str, numbers))}]"
        for key, numbers in constants(name).items()
    ]
    (folder / "rHCNO-5.2R_16-3.5A_a4-8.params").write_text("\n".join(lines) + "\n")
    (folder / "sae_linfit.dat").write_text("H,0=-0.6\n")
    for member in range(MEMBERS):
        place = folder / f"train{member}" / "networks"
        place.mkdir(parents=True)
        (place.parent / "cost.dat").write_text("1 2\n")
        for element in elements:
            blocks = []
            for number, (weight, bias) in enumerate(layers(name, element, member), 1):
                start = f"ANN-{element}.nnf-l{number}"
                weight.tofile(place / f"{start}.wparam")
                bias.tofile(place / f"{start}.bparam")
                kind = 6 if len(bias) == 1 else 9
                blocks.append(
                    f"layer [\nnodes={len(bias)};\nactivation={kind};\ntype=0;\n"
                    f"blocksize={weight.shape[1]};\nl2valu=0.000100;\n"
                    f"weights=FILE:{start}.wparam[{weight.size}];\n"
                    f"biases=FILE:{start}.bparam[{bias.size}];\n]\n"
                )
            text = f"inputsize={WIDTH[name]};\natom_net {element} $\n{''.join(blocks)}\n $ \n\0"
            packed = bz2.compress(text.encode())
            (place / f"ANN-{element}.nnf").write_bytes(b"%d=$\n" % len(packed) + packed)
    return folder


def state_dict(name: str, *, old: bool = False) -> dict[str, torch.Tensor]:
    """The state dict of torchani 2.9, or with the names of 2.2."""
    table, values = {}, constants(name)
    start = "aev_computer" if old else "potentials.nnp.aev_computer"
    for key, names in ani_files.NAMES.items():
        table[f"{start}.{names[2 if old else 0]}"] = torch.tensor(values[key])
    for member in range(MEMBERS):
        for element in LAYERS[name]:
            for place, (weight, bias) in enumerate(layers(name, element, member)):
                number = "final_layer" if place == 3 else f"layers.{place}"
                now = f"potentials.nnp.neural_networks.members.{member}.atomics.{element}.{number}"
                key = f"neural_networks.{member}.{element}.{2 * place}" if old else now
                table |= {
                    f"{key}.weight": torch.from_numpy(weight),
                    f"{key}.bias": torch.from_numpy(bias),
                }
    if not old:
        numbers = [ani_files.ATOMIC_NUMBERS[element] for element in LAYERS[name]]
        table["atomic_numbers"] = torch.tensor(numbers)
    return table


def loaded(name: str, path: Path, **settings) -> AniStates:
    encoder = ENCODERS.get(name)(weights=str(path), **{"members": MEMBERS, **settings})
    encoder.load("cpu")
    return encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return neurochem(tmp_path_factory.mktemp("ani") / "ani-1x_8x")


def record(text: str) -> dict:
    molecule = rdkit.to_arrays(TINY.mol(text))
    return {"molecule/coords": molecule.coords, "molecule/atoms": molecule.atoms}


def golden(name: str) -> tuple[list[dict], dict[str, list[np.ndarray]]]:
    """The molecules of the golden file, and what torchani says of them."""
    table = np.load(GOLDEN)
    count = sum(key.startswith(f"{name}/in/coords") for key in table)
    samples = [
        {f"molecule/{key}": table[f"{name}/in/{key}{i}"] for key in ("coords", "atoms")}
        for i in range(count)
    ]
    return samples, {
        key: [table[f"{name}/out/{key}{i}"] for i in range(count)] for key in ("aev", "token")
    }


def test_a_folder_of_neurochem_gives_the_states_of_torchani(folder):
    samples, want = golden("ani-1x")
    found = loaded("ani-1x", folder, aev=True).encode(samples)
    for place in range(len(samples)):
        token = found["token"][place]
        np.testing.assert_allclose(found["aev"][place][:, ::3], want["aev"][place], atol=5e-6)
        np.testing.assert_allclose(token[:, ::4], want["token"][place], atol=5e-6)
        np.testing.assert_allclose(found["sample"][place], token.mean(0), atol=1e-6)
        assert token.shape == (len(samples[place]["molecule/atoms"]), MEMBERS * 96)


@pytest.mark.parametrize("old", [False, True])
def test_a_state_dict_gives_the_states_of_torchani(old, tmp_path):
    """With narrower layers of some elements, which are padded, and with the old names."""
    samples, want = golden("ani-2x")
    torch.save(state_dict("ani-2x", old=old), tmp_path / "ani2x_state_dict.pt")
    found = loaded("ani-2x", tmp_path / "ani2x_state_dict.pt", aev=True).encode(samples)
    for place in range(len(samples)):
        token = found["token"][place]
        np.testing.assert_allclose(found["aev"][place][:, ::3], want["aev"][place], atol=5e-6)
        np.testing.assert_allclose(token[:, ::4], want["token"][place], atol=5e-6)
    kinds = [ATOMS[number] for number in samples[0]["molecule/atoms"]]
    is_empty = (found["token"][0].reshape(len(kinds), MEMBERS, 160) == 0).all(1).sum(1)
    assert {k: n for k, n in zip(kinds, is_empty.tolist(), strict=True)} == {
        kind: 160 - LAYERS["ani-2x"][kind][2] for kind in kinds
    }


def test_turning_changes_nothing_and_the_batch_neither(folder):
    encoder = loaded("ani-1x", folder)
    texts = ("C[C@H](N)C(=O)O", "C#N", "C[N+](C)(C)CC([O-])=O")
    together = encoder.encode([record(text) for text in texts])
    turn = Rotation.random(rng=np.random.default_rng(0))
    for place, text in enumerate(texts):
        given = record(text)
        moved = turn.apply(given["molecule/coords"]) + [4, -1, 2]
        order = np.random.default_rng(0).permutation(len(moved))
        other = {
            "molecule/coords": moved.astype(np.float32)[order],
            "molecule/atoms": given["molecule/atoms"][order],
        }
        again = encoder.encode([other])["token"][0]
        np.testing.assert_allclose(again, together["token"][place][order], atol=2e-4)


def test_an_atom_alone_and_two_atoms_have_states(folder):
    """There is no neighbour, and no pair of neighbours."""
    one, two = (
        {"molecule/coords": np.eye(3, dtype=np.float32)[:n], "molecule/atoms": [2] * n}
        for n in (1, 2)
    )
    found = loaded("ani-1x", folder, aev=True).encode([one, two])
    assert (found["aev"][0] == 0).all() and np.isfinite(found["token"][0]).all()
    shifts, distance = np.array(constants("ani-1x")["ShfR"]), np.sqrt(2)
    fade = 0.5 * np.cos(distance * np.pi / 5.2) + 0.5
    want = np.zeros(384)
    want[:16] = 0.25 * np.exp(-16 * (distance - shifts) ** 2) * fade
    np.testing.assert_allclose(found["aev"][1][0], want, atol=1e-6)


def test_an_element_that_the_model_lacks_is_told(folder):
    encoder = loaded("ani-1x", folder)
    with pytest.raises(BadSample, match="the molecule has Cl, F; ani-1x knows H, C, N, O"):
        encoder.encode([record("C#N"), record("F/C=C/Cl")])


def test_files_of_another_model_are_refused(folder, tmp_path):
    with pytest.raises(ReedError, match="has the elements H, C, N, O, ani-2x has H, C, N, O, S"):
        loaded("ani-2x", folder)
    with pytest.raises(ReedError, match="has 2 members, ani-1x.members is 8; set members=2"):
        loaded("ani-1x", folder, members=8)
    table = state_dict("ani-1x")
    torch.save(table, tmp_path / "a.pt")
    with pytest.raises(ReedError, match="a.pt has networks of C, H, N, O, not of H, C, N, O, S"):
        loaded("ani-2x", tmp_path / "a.pt")
    torch.save({"x": torch.zeros(1)}, tmp_path / "b.pt")
    with pytest.raises(ReedError, match="b.pt has networks of no element, not of H"):
        loaded("ani-1x", tmp_path / "b.pt")
    torch.save(table | {"atomic_numbers": torch.tensor([1, 6, 8, 7])}, tmp_path / "c.pt")
    with pytest.raises(ReedError, match=r"numbers \[1, 6, 8, 7\], not \[1, 6, 7, 8\]"):
        loaded("ani-1x", tmp_path / "c.pt")
    for ending, text in (
        ("radial.eta", "d.pt lacks aev_computer.radial.eta; give the whole state dict"),
        ("members.1.atomics.H.layers.0.bias", "d.pt lacks a bias of its networks"),
    ):
        torch.save({k: v for k, v in table.items() if not k.endswith(ending)}, tmp_path / "d.pt")
        with pytest.raises(ReedError, match=text):
            loaded("ani-1x", tmp_path / "d.pt")
    shifts = {"potentials.nnp.aev_computer.radial.shifts": torch.ones(8)}
    torch.save(table | shifts, tmp_path / "e.pt")
    with pytest.raises(ReedError, match="e.pt has descriptors of 352 numbers, not 384"):
        loaded("ani-1x", tmp_path / "e.pt")
    layer = "potentials.nnp.neural_networks.members.1.atomics.N.layers.2.weight"
    torch.save(table | {layer: torch.zeros(90, 112)}, tmp_path / "f.pt")
    with pytest.raises(
        ReedError, match=r"layer 3 of N in member 1 is \[90, 112\].* not \[96, 112\]"
    ):
        loaded("ani-1x", tmp_path / "f.pt")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("train0/networks/ANN-C.nnf", b"12=$\nnot packed", "ANN-C.nnf is not a packed network"),
        ("train0/networks/ANN-C.nnf-l2.bparam", b"1234", r"has 4 bytes, \[112\] needs 448"),
        ("train1/networks/ANN-N.nnf", b"", "ANN-N.nnf is empty; delete it"),
        ("r.params", b"Rcr = 5.2\n", "lacks Rca, EtaR, ShfR, EtaA, Zeta, ShfA, ShfZ, Atyp"),
    ],
)
def test_damaged_files_of_neurochem_are_one_line(name, content, text, tmp_path):
    place = neurochem(tmp_path / "x")
    if name == "r.params":
        next(place.glob("*.params")).unlink()
    (place / name).write_bytes(content)
    with pytest.raises(ReedError, match=text) as error:
        loaded("ani-1x", place)
    assert "\n" not in str(error.value)


def test_other_networks_of_neurochem_are_refused(tmp_path):
    place = neurochem(tmp_path / "x")
    constants = next(place.glob("*.params"))
    whole = constants.read_text()
    for old, new, text in (
        ("Rcr = 5.2", "Rcr = 4.0", r"has the cutoffs 4 and 3.5, ani-1x has 5.2 and 3.5"),
        ("Rca = 3.5000e+00", "Rca = nan", r"Rca is not finite \(\[nan\]\); download it again"),
        ("EtaA = [8.0]", "EtaA = [8.0,4.0]", "EtaA has 2 values, one is read"),
        ("Zeta = [32.0]", "Zeta = [many]", "cannot read the constants in .*could not convert"),
    ):
        constants.write_text(whole.replace(old, new))
        with pytest.raises(ReedError, match=text):
            loaded("ani-1x", place)
    constants.write_text(whole)
    network = place / "train0/networks/ANN-H.nnf"
    content = network.read_bytes()
    packed = bz2.decompress(content[content.index(b"BZh") :])
    for was, new, text in (
        (b"activation=9", b"activation=5", "layer 1 in .*H.nnf has activation 5; reed computes"),
        (b"nodes=160;", b"", "layer 1 in .* has no valid nodes, blocksize, .*'nodes'.; download"),
        (b"nodes=96;", b"nodes=x;", "layer 3 in .*ANN-H.nnf has no valid nodes.*'x'.; download"),
        (b"weights=FILE", b"weights=5;FILE", "layer 1 in .* has no valid nodes.*; download"),
        (b"layer", b"lair", "ANN-H.nnf has no layers; download it again"),
    ):
        network.write_bytes(b"1=$\n" + bz2.compress(packed.replace(was, new)))
        with pytest.raises(ReedError, match=text):
            loaded("ani-1x", place)
    network.unlink()
    with pytest.raises(ReedError, match="cannot read the weights .*ANN-H.nnf"):
        loaded("ani-1x", place)


def test_a_folder_that_is_not_whole_is_told_what_is_looked_for(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, wanted in (("ani-1x", "*.params, train*"), ("ani-2x", "ani2x_state_dict.pt")):
        with pytest.raises(ReedError) as error:
            loaded(name, empty)
        assert f"{empty} holds no weights (neither {wanted} nor one file of" in str(error.value)
        assert "; download " in str(error.value) and "\n" not in str(error.value)
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    (part / "second.params").write_text("")
    with pytest.raises(ReedError, match=r"it has 2 \*.params, 72 train.*and needs 1 of the former"):
        loaded("ani-1x", part)
    (part / "second.params").unlink()
    shutil.rmtree(part / "train1/networks")  # a member is not passed over
    with pytest.raises(ReedError, match=r"cannot read the weights .*train1/networks/ANN-H.nnf"):
        loaded("ani-1x", part)
    for place in part.glob("train*"):
        shutil.rmtree(place)
    with pytest.raises(
        ReedError, match=r"it has 1 \*.params, 0 train\*/networks/ANN-\*, and needs"
    ):
        loaded("ani-1x", part)


def test_entries_that_are_no_tensors_and_members_that_lack_an_element_are_one_line(tmp_path):
    table, path = state_dict("ani-1x"), tmp_path / "a.pt"
    start = "potentials.nnp.neural_networks.members.1.atomics.H."
    for change, text in (
        ({f"{start}layers.0.weight": 4}, "layers.0.weight is of type int, not a tensor"),
        ({"atomic_numbers": "HCNO"}, "a.pt: atomic_numbers is of type str, not a tensor"),
        ({"potentials.nnp.aev_computer.radial.eta": "x"}, "radial.eta is of type str, not a"),
        (
            {"potentials.nnp.aev_computer.radial.eta": torch.ones(2)},
            "a.pt: EtaR has 2 values, one is read",
        ),
    ):
        torch.save(table | change, path)
        with pytest.raises(ReedError, match=text):
            loaded("ani-1x", path)
    torch.save({k: v for k, v in table.items() if not k.startswith(start)}, path)
    with pytest.raises(ReedError, match=r"networks of C, N, O, not of H, C, N, O \(member 1\)"):
        loaded("ani-1x", path)


def test_settings_and_what_is_known_without_weights(folder):
    made = ENCODERS.get("ani-2x")(aev=True)
    assert [(f.name, f.shape) for f in made.fields] == [
        ("sample", (1280,)),
        ("token", (None, 1280)),
        ("aev", (None, 1008)),
    ]
    with pytest.raises(ReedError, match="ani-1x.members is 0; an ensemble has 1 or more"):
        ENCODERS.get("ani-1x")(members=0)
    with pytest.raises(ReedError, match="ani-1x.coords is 'x'; name a column and field"):
        ENCODERS.get("ani-1x")(coords="x")
    with pytest.raises(ReedError, match="torchani/2.1.1/.*--set ani-1x.weights=PATH"):
        ENCODERS.get("ani-1x")().load("cpu")
    one, other = (loaded("ani-1x", folder, coords=c).revision() for c in ("a/b", "c/d"))
    assert one != other
    card = Card("mine", {"H": 8, "C": 4}, (5.2, 3.5), 128, Origin())
    assert AniStates(card).fields[1].shape == (None, 64)


class _Module(torch.nn.Module):
    """A module saved whole, as MACE publishes its models."""


def test_a_model_of_mace_is_not_opened(tmp_path):
    torch.save(_Module(), tmp_path / "MACE-OFF23_small.model")
    with pytest.raises(ReedError, match="reading it would run code"):
        loaded("ani-1x", tmp_path / "MACE-OFF23_small.model")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_published_weights_give_what_torchani_gives(tmp_path, monkeypatch):
    """ANI-1x with its eight members, from the package that ships them, by its own code."""
    wanted = ("torchani==2.1.1", "lark-parser==0.12.0")
    words = ("pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), *wanted)
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=900
    )
    if done.returncode:
        pytest.skip(f"{' and '.join(wanted)} cannot be downloaded: {done.stderr.strip()[-200:]}")
    for wheel in tmp_path.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / "packages")

    # It asks for its version in a way that Python no longer has.
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    stub = types.ModuleType("pkg_resources")
    stub.__dict__.update(DistributionNotFound=LookupError, get_distribution=lambda name: {}[name])
    monkeypatch.setitem(sys.modules, "pkg_resources", stub)
    torchani = importlib.import_module("torchani")  # of no extra, as it needs an older zarr

    place = tmp_path / "packages/torchani/resources/ani-1x_8x"
    table = torchani.neurochem.Constants(str(next(place.glob("*.params"))))
    aev = torchani.AEVComputer(**table)
    nets = torchani.neurochem.load_model_ensemble(table.species, str(place / "train"), 8)
    encoder = loaded("ani-1x", place, members=8, aev=True)

    compared = 0
    for text in TINY.SMILES:
        given = record(text)
        symbols = [ATOMS[number] for number in given["molecule/atoms"]]
        if not set(symbols) <= set(table.species):
            with pytest.raises(BadSample, match="ani-1x knows H, C, N, O"):
                encoder.encode([given])
            continue
        kinds = torch.tensor([[table.species.index(symbol) for symbol in symbols]])
        with torch.no_grad():
            own = aev((kinds, torch.from_numpy(given["molecule/coords"])[None])).aevs[0]
            rows = [
                torch.cat([net[symbol][:-1](row) for net in nets])
                for symbol, row in zip(symbols, own, strict=True)
            ]
        found = encoder.encode([given])
        np.testing.assert_allclose(found["aev"][0], own, atol=5e-6)
        np.testing.assert_allclose(found["token"][0], torch.stack(rows), atol=5e-6)
        compared += 1
    assert compared == 11
