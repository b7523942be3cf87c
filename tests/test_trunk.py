"""Embeddings of Boltz and OpenFold3: their files, tokens of ligands, sequences that differ."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed.build.shard import BadSample
from reed.cache import reader, schema
from reed.cli.cache import main
from reed.encoders import ENCODERS
from reed.encoders.protein.chain import neighbours
from reed.errors import ReedError
from reed.sources.protein.toy import ProteinsToy

SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"
# Name of a residue that is none of the 20 -> number of its atoms.
ATOMS = {"SEP": 10, "LIG": 3}


def three(letters: str) -> list[str]:
    return gemmi.expand_one_letter_sequence(letters, gemmi.ResidueKind.AA)


def structure(path: Path, chains: list[list[str]]) -> None:
    """A predicted structure, of chains of residues by name."""
    model = gemmi.Model(1)
    for number, names in enumerate(chains):
        chain = gemmi.Chain("ABCDE"[number])
        for place, name in enumerate(names):
            residue = gemmi.Residue()
            residue.name, residue.seqid = name, gemmi.SeqId(str(place + 1))
            residue.subchain = chain.name
            atoms = [f"C{i}" for i in range(ATOMS[name])] if name in ATOMS else ["N", "CA", "C"]
            for atom in atoms:
                one = gemmi.Atom()
                one.name, one.element = atom, gemmi.Element("N" if atom == "N" else "C")
                residue.add_atom(one)
            chain.add_residue(residue)
        model.add_chain(chain)
    whole = gemmi.Structure()
    whole.add_model(model)
    whole.setup_entities()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pdb":
        path.write_text(whole.make_pdb_string())
    else:
        whole.make_mmcif_document().write_file(str(path))


def arrays(tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What the trunk computes for a batch of one job."""
    rng = np.random.default_rng(seed)
    shapes = {"single": (1, tokens, 384), "pair": (1, tokens, tokens, 128)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def boltz(folder: Path, job: str, chains, content, start: str = "", form: str = ".cif") -> Path:
    """The output of boltz predict --write_embeddings for one job."""
    place = folder / start / job
    structure(place / f"{job}_model_0{form}", chains)
    np.savez_compressed(place / f"embeddings_{job}.npz", s=content["single"], z=content["pair"])
    return place


def openfold3(folder: Path, job: str, chains, content, seed: int = 1, layout: str = "old") -> Path:
    """The output of OpenFold3 with write_latent_outputs for one job."""
    if layout == "old":
        place = folder / job / f"seed_{seed}"
        structure(place / f"{job}_seed_{seed}_sample_1_model.cif", chains)
        path = place / f"{job}_seed_{seed}_sample_1_latent_output.pt"
    else:
        structure(folder / job / "models" / f"seed-{seed}_sample-0_model.cif", chains)
        path = folder / job / "latents" / f"seed-{seed}_latent_outputs.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "si_trunk": torch.from_numpy(content["single"]),
        "zij_trunk": torch.from_numpy(content["pair"]),
        "atom_positions_predicted": torch.zeros(1, 1, 5, 3),
        "confidence_scores": {"plddt": torch.zeros(1, 5)},
    }
    torch.save(table, path)
    return path


WRITE = {"boltz": boltz, "openfold3": openfold3}


def sample(sequence: str = SEQUENCE, key: str = "x.pdb/A", chain=None) -> dict:
    length = len(sequence)
    coords = np.random.default_rng(length).normal(size=(length, 4, 3)) * 10
    chain = np.zeros(length, int) if chain is None else np.asarray(chain)
    base = {"key": key, "cluster": 7, "sequence": sequence, "chain": chain}
    return base | {"chain/neighbours": neighbours(coords)}


def encoder(name: str, folder: Path, **settings):
    made = ENCODERS.get(name)(folder=folder, **settings)
    made.load("cpu")
    return made


def at(pair: np.ndarray, graph: np.ndarray) -> np.ndarray:
    kept = pair[np.arange(len(graph))[:, None], graph].astype(np.float32)
    kept[graph < 0] = 0
    return kept


@pytest.mark.parametrize("name", WRITE)
def test_a_chain_has_the_rows_of_its_job(name, tmp_path):
    content = arrays(len(SEQUENCE))
    WRITE[name](tmp_path, "x.pdb_A", [three(SEQUENCE)], content)
    each = sample()
    found = encoder(name, tmp_path).encode([each])
    np.testing.assert_array_equal(found["single"][0], content["single"][0])
    want = at(content["pair"][0], each["chain/neighbours"])
    np.testing.assert_array_equal(found["pair"][0], want)
    assert [f.name for f in encoder(name, tmp_path).fields] == ["single", "pair"]
    assert list(encoder(name, tmp_path, pair=False).encode([each])) == ["single"]


@pytest.mark.parametrize(
    ("start", "form"),
    [("", ".pdb"), ("predictions", ".cif"), ("boltz_results_mine/predictions", ".cif")],
)
def test_every_folder_of_boltz_may_be_named(tmp_path, start, form):
    content = arrays(len(SEQUENCE))
    boltz(tmp_path, "x.pdb_A", [three(SEQUENCE)], content, start, form)
    found = encoder("boltz", tmp_path).encode([sample()])["single"][0]
    np.testing.assert_array_equal(found, content["single"][0])


def test_both_layouts_of_openfold3_and_a_seed(tmp_path):
    first, second = arrays(len(SEQUENCE), 1), arrays(len(SEQUENCE), 2)
    openfold3(tmp_path, "x.pdb_A", [three(SEQUENCE)], first, seed=1)
    openfold3(tmp_path, "x.pdb_A", [three(SEQUENCE)], second, seed=12, layout="new")
    with pytest.raises(BadSample, match="2 files of embeddings among .*seed_1.*; choose one seed"):
        encoder("openfold3", tmp_path).encode([sample()])
    for seed, content in ((1, first), (12, second)):
        found = encoder("openfold3", tmp_path, seed=seed).encode([sample()])["single"][0]
        np.testing.assert_array_equal(found, content["single"][0])
    with pytest.raises(BadSample, match="0 files of embeddings among"):
        encoder("openfold3", tmp_path, seed=2).encode([sample()])


@pytest.mark.parametrize("name", WRITE)
def test_ligands_are_left_out_and_tokens_of_atoms_taken_together(name, tmp_path):
    """A protein, a ligand of three atoms, DNA, and a protein with a modified residue."""
    chains = [three("ACD"), ["LIG"], ["DA", "DT"], ["MET", "SEP", "LYS"]]
    content = arrays(3 + 3 + 2 + 1 + 10 + 1)
    WRITE[name](tmp_path, "x.pdb_A", chains, content)
    each = sample("ACDMSK", chain=[0, 0, 0, 1, 1, 1])
    found = encoder(name, tmp_path).encode([each])
    blocks = [[0], [1], [2], [8], list(range(9, 19)), [19]]
    single, pair = content["single"][0], content["pair"][0]
    want = np.stack([single[block].mean(0) for block in blocks])
    np.testing.assert_allclose(found["single"][0], want, atol=1e-6)
    dense = np.array([[pair[np.ix_(a, b)].mean((0, 1)) for b in blocks] for a in blocks])
    want = at(dense, each["chain/neighbours"])
    np.testing.assert_allclose(found["pair"][0], want, atol=1e-6)


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (SEQUENCE[:-1] + "W", r"was given another sequence: .*difference at 33 \('W' for 'Q'"),
        (SEQUENCE[:-3], "was given another sequence: 30 residues for 33"),
    ],
)
def test_another_sequence_is_never_cut_to_fit(name, given, message, tmp_path):
    WRITE[name](tmp_path, "x.pdb_A", [three(given)], arrays(len(given)))
    program = {"boltz": "Boltz", "openfold3": "OpenFold3"}[name]
    with pytest.raises(BadSample, match=f"{program} {message}"):
        encoder(name, tmp_path).encode([sample()])


@pytest.mark.parametrize("name", WRITE)
def test_arrays_that_do_not_fit_the_structure(name, tmp_path):
    WRITE[name](tmp_path, "x.pdb_A", [three(SEQUENCE)], arrays(32))
    with pytest.raises(BadSample, match=r"single is float32 \[32, 384\], .* needs \[33, 384\]"):
        encoder(name, tmp_path).encode([sample()])
    content = arrays(33)
    content["single"][0, 4] = np.nan
    WRITE[name](tmp_path, "x.pdb_A", [three(SEQUENCE)], content)
    with pytest.raises(BadSample, match="single has values that are not finite"):
        encoder(name, tmp_path).encode([sample()])


def test_half_precision_is_read(tmp_path):
    content = arrays(len(SEQUENCE))
    path = openfold3(tmp_path, "x.pdb_A", [three(SEQUENCE)], content)
    table = {"si_trunk": torch.from_numpy(content["single"]).bfloat16()}
    torch.save(table, path)
    made = encoder("openfold3", tmp_path, pair=False)
    found = made.encode([sample()])["single"][0]
    np.testing.assert_array_equal(found, table["si_trunk"][0].float())
    with pytest.raises(BadSample, match="has no zij_trunk, only si_trunk; leave pair out"):
        encoder("openfold3", tmp_path).encode([sample()])


def test_files_that_are_none(tmp_path):
    with pytest.raises(BadSample, match="no embeddings of Boltz for 'x.pdb_A' .*write_embeddings"):
        encoder("boltz", tmp_path).encode([sample()])
    place = boltz(tmp_path, "x.pdb_A", [three(SEQUENCE)], arrays(len(SEQUENCE)))
    path = place / "embeddings_x.pdb_A.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(BadSample, match="cannot read embeddings_x.pdb_A.npz"):
        encoder("boltz", tmp_path).encode([sample()])
    np.savez(path, s=np.array([{"a": 1}], object))
    with pytest.raises(BadSample, match="cannot read .*allow_pickle"):
        encoder("boltz", tmp_path).encode([sample()])
    (place / "x.pdb_A_model_0.cif").write_text("data_x\n_a.b c\n")
    with pytest.raises(BadSample, match="cannot read x.pdb_A_model_0.cif"):
        encoder("boltz", tmp_path).encode([sample()])
    (place / "x.pdb_A_model_0.cif").unlink()
    with pytest.raises(BadSample, match="x.pdb_A has no structure that Boltz predicted"):
        encoder("boltz", tmp_path).encode([sample()])


class _Boom:
    def __reduce__(self):
        return (Path.touch, (Path("boom"),))


def test_a_hostile_file_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = openfold3(tmp_path, "x.pdb_A", [three(SEQUENCE)], arrays(len(SEQUENCE)))
    torch.save({"si_trunk": _Boom()}, path)
    with pytest.raises(BadSample, match="reading it would run code"):
        encoder("openfold3", tmp_path).encode([sample()])
    assert not Path("boom").exists()


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ReedError, match="boltz.job is '../x'; use a name with {key} or {cluster}"):
        ENCODERS.get("boltz")(job="../x")
    with pytest.raises(ReedError, match="no folder .*gone; name it with --set openfold3.folder=D"):
        encoder("openfold3", tmp_path / "gone")
    one, other = (ENCODERS.get("boltz")(folder=tmp_path, seed=seed) for seed in (None, 3))
    assert one.revision() != other.revision()
    assert [ENCODERS.get(n)().licence for n in ("boltz", "openfold3")] == ["MIT", "Apache-2.0"]


def test_a_build_stores_them(tmp_path):
    source = ProteinsToy(samples=4, min_length=20, max_length=24)
    stored = {}
    for number, key in enumerate(source.listing()):
        sequence = source.read(key)["sequence"]
        stored[key] = arrays(len(sequence), number)
        boltz(tmp_path / "out", key, [three(sequence)], stored[key], "predictions")
    sizes = {"samples": 4, "min_length": 20, "max_length": 24}
    command = ["build", "proteins-toy", "--cache", str(tmp_path / "toy"), "--device", "cpu"]
    for name, value in sizes.items():
        command += ["--set", f"source.{name}={value}"]
    command += ["--encoder", "boltz", "--set", f"boltz.folder={tmp_path / 'out'}"]
    result = CliRunner().invoke(main, [*command, "--codec", "boltz/single=float32"])
    assert result.exit_code == 0, result.output
    column = schema.load_column(tmp_path / "toy", "boltz")
    state = reader.load_state(tmp_path / "toy", column)
    for key, values in reader.records(tmp_path / "toy", column, 0, column.fields, state):
        np.testing.assert_array_equal(values["single"], stored[key]["single"][0])
