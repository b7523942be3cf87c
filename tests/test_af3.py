"""AlphaFold 3 embeddings: both layouts, padding, tokens of ligands, sequences that differ."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.build.shard import BadSample
from reed.cache import reader, schema
from reed.cache.codecs import codecs
from reed.cli.cache import main
from reed.encoders.protein.af3 import TERMS, Af3, job_name
from reed.encoders.protein.chain import neighbours
from reed.errors import ReedError
from reed.sources.protein.toy import ProteinsToy

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_weights.py"))))
arrays, write = TINY.af3_arrays, TINY.af3
SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"


def confidences(job: Path, chains, residues) -> None:
    place = job / "seed-1_sample-0"
    place.mkdir()
    table = {"token_chain_ids": list(chains), "token_res_ids": list(residues), "pae": [[0.1]]}
    (place / f"{job.name}_seed-1_sample-0_confidences.json").write_text(json.dumps(table))
    (place / f"{job.name}_seed-1_sample-0_summary_confidences.json").write_text("{}")


def sample(sequence: str = SEQUENCE, key: str = "x.pdb/A", chain=None, **more) -> dict:
    length = len(sequence)
    coords = np.random.default_rng(length).normal(size=(length, 4, 3)) * 10
    chain = np.zeros(length, int) if chain is None else np.asarray(chain)
    base = {"key": key, "cluster": 7, "sequence": sequence, "chain": chain}
    return base | {"chain/neighbours": neighbours(coords)} | more


def encoder(folder: Path, **settings) -> Af3:
    made = Af3(folder, accept_terms=True, **settings)
    made.load("cpu")
    return made


def at(pair: np.ndarray, graph: np.ndarray) -> np.ndarray:
    kept = pair[np.arange(len(graph))[:, None], graph].astype(np.float32)
    kept[graph < 0] = 0
    return kept


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("padded", [0, 31])
@pytest.mark.parametrize("structure", [False, True])
def test_both_layouts_with_two_or_three_keys_and_padding(
    tmp_path, layout, dtype, padded, structure
):
    content = arrays(len(SEQUENCE) + padded, structure, dtype)
    for key in content:  # what is beyond the sequence may be anything
        content[key][len(SEQUENCE) :] = np.nan
    write(tmp_path, "x.pdb_A", SEQUENCE, content, layout=layout)
    each = sample()
    found = encoder(tmp_path, structure=structure).encode([each])
    assert set(found) == {"single", "pair", *(["structure"] if structure else [])}
    length = len(SEQUENCE)
    np.testing.assert_array_equal(found["single"][0], content["single_embeddings"][:length])
    want = at(content["pair_embeddings"][:length, :length], each["chain/neighbours"])
    np.testing.assert_array_equal(found["pair"][0], want)
    if structure:
        np.testing.assert_array_equal(
            found["structure"][0], content["structure_embeddings"][:length]
        )
    assert all(value[0].dtype == np.float32 for value in found.values())


def test_small_values_survive_the_codec():
    """The reference multiplies the structure by 100 so that float16 does not flush it to zero."""
    field = next(f for f in Af3(structure=True).fields if f.name == "structure")
    values = np.random.default_rng(0).normal(size=(64, 768)).astype(np.float32) * 1e-7
    codec = codecs.codec_of(field)
    state = codec.calibrate([values])
    back = codec.restore(codecs.decode_one(codec, codec.encode(values, state), state), state)
    cosine = (values * back).sum(1) / np.linalg.norm(values, axis=1) / np.linalg.norm(back, axis=1)
    assert cosine.min() > 0.999


def test_the_job_may_be_named_by_the_cluster_and_in_lower_case(tmp_path):
    write(tmp_path, "cluster_7", SEQUENCE, arrays(len(SEQUENCE)))  # as REED names them
    encoder(tmp_path, job="cluster_{cluster}").encode([sample()])
    write(tmp_path, "3htn.pdb_b", SEQUENCE, arrays(len(SEQUENCE)))
    encoder(tmp_path).encode([sample(key="3HTN.pdb/B")])
    assert job_name("My first fold (TEST)") == "My_first_fold_TEST"  # docs/output.md
    with pytest.raises(ReedError, match="af3.job is '{name}'"):
        Af3(job="{name}")
    with pytest.raises(ReedError, match="af3.job is '../x'"):
        Af3(job="../x")


def test_several_seeds_must_be_told_apart(tmp_path):
    first = arrays(len(SEQUENCE), seed=1)
    write(tmp_path, "x.pdb_A", SEQUENCE, first)
    place = tmp_path / "x.pdb_A" / "seed-2_embeddings"
    place.mkdir()
    np.savez(place / "embeddings.npz", **arrays(len(SEQUENCE), seed=2))
    with pytest.raises(BadSample, match="seed-1_embeddings, seed-2_embeddings: choose one with af"):
        encoder(tmp_path).encode([sample()])
    found = encoder(tmp_path, seed=1).encode([sample()])["single"][0]
    np.testing.assert_array_equal(found, first["single_embeddings"])


def test_a_homodimer_and_the_order_of_chains(tmp_path):
    other = SEQUENCE[5:20]
    entities = [
        {"protein": {"id": ["A", "B"], "sequence": SEQUENCE}},
        {"protein": {"id": "C", "sequence": other}},
    ]
    total = 2 * len(SEQUENCE) + len(other)
    content = arrays(total)
    write(tmp_path, "x.pdb_A", entities, content)
    lengths = [len(SEQUENCE), len(SEQUENCE), len(other)]
    whole = sample(SEQUENCE * 2 + other, chain=np.repeat([0, 1, 2], lengths))
    found = encoder(tmp_path).encode([whole])["single"][0]
    np.testing.assert_array_equal(found, content["single_embeddings"])
    with pytest.raises(BadSample, match="given 3 proteins, the sample has 1"):
        encoder(tmp_path).encode([sample()])
    swapped = sample(other + SEQUENCE * 2, chain=np.repeat([0, 1, 2], lengths[::-1]))
    with pytest.raises(BadSample, match="given another sequence: 33 residues for 15"):
        encoder(tmp_path).encode([swapped])


@pytest.mark.parametrize(
    ("given", "mine", "message"),
    [
        (
            SEQUENCE[:-1] + "W",
            SEQUENCE,
            r"33 residues for 33, first difference at 33 \('W' for 'Q'",
        ),
        (SEQUENCE[:-3], SEQUENCE, "30 residues for 33, first difference at 31"),
        (SEQUENCE.replace("A", ""), SEQUENCE.replace("A", "X"), "without its X.*source.max_x=0"),
    ],
)
def test_another_sequence_is_never_cut_to_fit(tmp_path, given, mine, message):
    write(tmp_path, "x.pdb_A", given, arrays(64))
    with pytest.raises(BadSample, match=message):
        encoder(tmp_path).encode([sample(mine)])


@pytest.fixture
def mixed(tmp_path):
    """A ligand of 3 atoms, a protein whose residue 2 is modified (4 tokens), padding."""
    modified = {"id": "B", "sequence": "MSK", "modifications": [{"ptmType": "SEP"}]}
    entities = [{"ligand": {"id": "L", "ccdCodes": ["ATP"]}}, {"protein": modified}]
    content = arrays(3 + 6 + 5)
    return write(tmp_path, "x.pdb_A", entities, content), content


def test_tokens_of_atoms_are_taken_together(mixed, tmp_path):
    job, content = mixed
    confidences(job, "LLLBBBBBB", [1, 1, 1, 1, 2, 2, 2, 2, 3])
    each = sample("MSK")
    found = encoder(tmp_path).encode([each])
    single = content["single_embeddings"].astype(np.float32)
    want = np.stack([single[3], single[4:8].mean(0), single[8]])
    np.testing.assert_allclose(found["single"][0], want, atol=1e-6)
    pair = content["pair_embeddings"].astype(np.float32)
    blocks = [slice(3, 4), slice(4, 8), slice(8, 9)]
    dense = np.array([[pair[a, b].mean((0, 1)) for b in blocks] for a in blocks])
    np.testing.assert_allclose(found["pair"][0], at(dense, each["chain/neighbours"]), atol=1e-6)


def test_without_confidences_such_tokens_are_refused(mixed, tmp_path):
    with pytest.raises(BadSample, match="has ligands or modified residues, and no .*confidences"):
        encoder(tmp_path).encode([sample("MSK")])


@pytest.mark.parametrize(
    ("chains", "residues", "message"),
    [
        ("LLLBBB", [1, 1, 1, 1, 3, 3], "are not those of the proteins"),
        ("LLLCCC", [1, 1, 1, 1, 2, 3], "are not those of the proteins"),
        ("LLLBBB", [1, 1, 1], "does not list the tokens"),
    ],
)
def test_confidences_of_something_else(mixed, tmp_path, chains, residues, message):
    confidences(mixed[0], chains, residues)
    with pytest.raises(BadSample, match=message):
        encoder(tmp_path).encode([sample("MSK")])


def changed(name, change):
    """Arrays of which one is another."""
    return lambda c: c | {f"{name}_embeddings": change(c[f"{name}_embeddings"])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("single", lambda a: np.full_like(a, np.inf)), "values that are not finite"),
        (changed("single", lambda a: a[:, :9]), r"single is float16 \[33, 9\], not \[tokens"),
        (changed("pair", lambda a: a[:, :9]), r"pair is float16 \[33, 9, 128\]"),
        (changed("single", lambda a: a[:20]), "single has 20 tokens, the sequence needs 33"),
        (lambda c: {"pair_embeddings": c["pair_embeddings"]}, "no single_embeddings, only pair"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, change, message):
    write(tmp_path, "x.pdb_A", SEQUENCE, change(arrays(len(SEQUENCE))))
    with pytest.raises(BadSample, match=message):
        encoder(tmp_path).encode([sample()])


def test_files_that_are_none(tmp_path):
    with pytest.raises(BadSample, match="there is no AlphaFold 3 output 'x.pdb_A'"):
        encoder(tmp_path).encode([sample()])
    job = write(tmp_path, "x.pdb_A", SEQUENCE, arrays(len(SEQUENCE)))
    path = next(job.glob("*/*.npz"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadSample, match="cannot read .*npz"):
        encoder(tmp_path).encode([sample()])
    np.savez(path, single_embeddings=np.array([{"a": 1}], object))
    with pytest.raises(BadSample, match="cannot read .*allow_pickle"):
        encoder(tmp_path).encode([sample()])
    data = job / "x.pdb_A_data.json"
    data.write_text('{"sequences": [{"protein": {}}]}')
    with pytest.raises(BadSample, match="is not an input file of AlphaFold 3"):
        encoder(tmp_path).encode([sample()])
    data.unlink()
    with pytest.raises(BadSample, match=r"has 0 files \*_data.json"):
        encoder(tmp_path).encode([sample()])
    path.unlink()
    with pytest.raises(BadSample, match="0 files of embeddings; run with them saved"):
        encoder(tmp_path).encode([sample()])


def test_the_terms_must_be_accepted_and_are_kept(tmp_path):
    with pytest.raises(ReedError, match="non-commercial .*--set af3.accept_terms=true"):
        Af3(tmp_path).load("cpu")
    with pytest.raises(ReedError, match="no folder .*gone; name it with --set af3.folder=DIR"):
        encoder(tmp_path / "gone")
    source = ProteinsToy(samples=6, min_length=20, max_length=24)
    for key in source.listing():
        sequence = source.read(key)["sequence"]
        write(tmp_path / "af3", key, sequence, arrays(len(sequence)))
    command = [
        "build",
        "proteins-toy",
        "--cache",
        str(tmp_path / "toy"),
        "--device",
        "cpu",
        "--set",
        "source.samples=6",
        "--set",
        "source.min_length=20",
        "--set",
        "source.max_length=24",
        "--encoder",
        "af3",
        "--set",
        f"af3.folder={tmp_path / 'af3'}",
    ]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2 and "OUTPUT_TERMS_OF_USE" in refused.output
    result = CliRunner().invoke(main, [*command, "--set", "af3.accept_terms=true"])
    assert result.exit_code == 0, result.output
    assert f"af3: {TERMS}" in result.output
    column = schema.load_column(tmp_path / "toy", "af3")
    assert column.licence == TERMS and [f.name for f in column.fields] == ["single", "pair"]
    state = reader.load_state(tmp_path / "toy", column)
    key, values = next(iter(reader.records(tmp_path / "toy", column, 0, column.fields, state)))
    length = len(source.read(key)["sequence"])
    assert values["single"].shape == (length, 384) and values["pair"].shape == (length, 48, 128)
