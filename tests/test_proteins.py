"""Chains of structure files: what is taken, what is missing, what is left out and what fails."""

from __future__ import annotations

import gzip
import pickle
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed.build.shard import BadSample
from reed.cache import plan, reader, schema
from reed.chem.protein import ALPHABET
from reed.chem.structure import read_structure
from reed.cli.cache import main
from reed.encoders.protein.chain import ProteinChain, at_neighbours, neighbours, segments
from reed.errors import ReedError
from reed.sources.protein import proteins as proteins_source
from reed.sources.protein.proteins import Proteins

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_proteins.py"))))
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "pdb"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real structures are not here")


@pytest.fixture
def odd(tmp_path) -> Path:
    """Altlocs, microheterogeneity, MSE, SEP, UNK, a D residue, missing atoms, ions, two models."""
    names = "HIS MET PRO GLU ALA LYS SER THR UNK DAL GLY ASP".split()
    r = TINY.residue
    both = [
        line
        for a in ("N", "CA", "C", "O")
        for alt, occ in (("A", 0.3), ("B", 0.7))
        for line in r(4, "ALA", atoms=(a,), alt=alt, occ=occ)
    ]
    both = [
        line[:38] + f"{float(line[38:46]) + (line[16] == 'B'):8.3f}" + line[46:] for line in both
    ]
    hetero = [*r(7, "SER", alt="A", occ=0.4), *r(7, "THR", alt="B", occ=0.6)]
    body = [
        *r(0, "HIS", number=-1),
        *r(1, "MSE", number=0, het=True),
        *r(2, "PRO", number=1),
        *r(3, "GLU", number=2, atoms=("N", "CA")),
        *both,
        *r(6, "SEP", het=True),
        *hetero,
        *r(8, "UNK"),
        *r(9, "DAL", het=True),
        *r(10, "GLY"),
        *r(11, "ASP"),
        "TER",
        "HETATM  900 CA    CA A 101      50.000  50.000  50.000  1.00 10.00          CA",
        *r(30, "GLY", number=102, het=True),
    ]
    second = [line[:30] + f"{99.0:8.3f}" + line[38:] if "ATOM" in line else line for line in body]
    names[1], names[6] = "MSE", "SEP"
    head = TINY.seqres(names)
    return TINY.write(
        tmp_path / "odd.pdb",
        head,
        ["MODEL        1"],
        body,
        ["ENDMDL", "MODEL        2"],
        second,
        ["ENDMDL"],
    )


def test_an_odd_file_gives_what_was_observed(odd):
    found = read_structure(odd)
    chain = found.chains["A"]
    assert list(found.chains) == ["A"] and found.resolution == 2.1
    assert chain.sequence == "HMPEAKSTXXGD"  # SEQRES, of the modified residues their parents
    assert chain.number.tolist() == list(range(12))
    want = np.array([[TINY.place(i, a) for a in ("N", "CA", "C", "O")] for i in range(12)])
    want[4, :, 1] += 1  # the location of occupancy 0.7
    want[3, 2:] = np.nan
    want[5] = np.nan  # LYS was not observed
    np.testing.assert_allclose(chain.coords, want, atol=1e-3)


def test_an_alternative_location_is_taken_whole(tmp_path):
    """Else N of one and CA of the other would make a residue that nobody observed."""
    r = TINY.residue
    lines = sum((r(i, "ALA") for i in range(4)), [])
    for alt, occs in (("A", (0.9, 0.1, 0.1, 0.1)), ("B", (0.1, 0.9, 0.9, 0.9))):
        for name, occ in zip(("N", "CA", "C", "O"), occs, strict=True):
            xyz = np.add(TINY.place(4, name), (0, 0, 5 * (alt == "B")))
            lines.append(TINY.atom(1, name, "ALA", "A", 5, xyz, alt=alt, occ=occ))
    path = TINY.write(tmp_path / "x.pdb", TINY.seqres(["ALA"] * 5), lines, ["TER"])
    assert read_structure(path).chains["A"].coords[4, :, 2].tolist() == [5, 5, 5, 5]


def test_without_seqres_numbers_jump_at_a_break_and_insertion_codes_do_not_count(tmp_path):
    r = TINY.residue
    body = [
        *r(0, "ALA", number=10),
        *r(1, "GLY", number=11),
        *r(2, "SER", number=11, icode="A"),
        *r(3, "LEU", number=11, icode="B"),
        *r(4, "LYS", number=12),
        *r(9, "VAL", number=17),
        *r(10, "THR", number=18),
        "TER",
    ]
    chain = read_structure(TINY.write(tmp_path / "x.pdb", body)).chains["A"]
    assert chain.sequence == "AGSLKVT" and np.isfinite(chain.coords).all()
    assert chain.number.tolist() == [0, 1, 2, 3, 4, 9, 10]


def test_mmcif_and_gz_give_the_same(odd, tmp_path):
    import gemmi

    structure = gemmi.read_structure(str(odd))
    structure.setup_entities()
    structure.assign_label_seq_id()
    structure.make_mmcif_document().write_file(str(tmp_path / "odd.cif"))
    for name in ("odd.pdb", "odd.cif"):
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    want = read_structure(odd).chains["A"]
    for name in ("odd.cif", "odd.pdb.gz", "odd.cif.gz"):
        found = read_structure(tmp_path / name).chains["A"]
        assert found.sequence == want.sequence
        np.testing.assert_allclose(found.coords, want.coords, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "holds no atoms"),
        (b"nonsense\n", "no sound structure|holds no atoms"),
        (b"\xff\xfe\x00\x01" * 50, "no sound structure|holds no atoms"),
        (
            b"HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00 10.00           O\n",
            "holds no protein chain",
        ),
    ],
)
def test_a_bad_file_says_why(tmp_path, text, reason):
    for suffix, also in ((".pdb", ""), (".cif", "|no sound structure")):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(text)
        with pytest.raises(BadSample, match=f"bad{suffix}.*({reason}{also})"):
            read_structure(path)


def test_a_residue_that_seqres_lacks_is_named(tmp_path):
    body = [line for i in range(6) for line in TINY.residue(i, "ALA")]
    path = TINY.write(tmp_path / "x.pdb", TINY.seqres(["ALA"] * 4), body, ["TER"])
    with pytest.raises(BadSample, match="residue . of chain A is not in its SEQRES"):
        read_structure(path)


def test_a_file_that_is_gone_is_a_bad_sample(tmp_path):
    with pytest.raises(BadSample, match="cannot read gone.pdb"):
        Proteins(tmp_path).read("gone.pdb/A")


def test_a_truncated_gz_is_a_bad_sample(odd):
    packed = odd.with_name("cut.pdb.gz")
    packed.write_bytes(gzip.compress(odd.read_bytes())[:300])
    with pytest.raises(BadSample, match="cut.pdb.gz"):
        read_structure(packed)


# ---- the source


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "data"
    TINY.straight(folder / "two.pdb", chains="AB")
    TINY.straight(folder / "deep" / "one.ent")
    TINY.straight(folder / "short.pdb", count=29)
    TINY.straight(folder / "long.pdb", count=81)
    TINY.straight(folder / "blurred.pdb", head=["REMARK   2 RESOLUTION.    3.60 ANGSTROMS."])
    TINY.straight(folder / "nmr.pdb", head=["REMARK   2 RESOLUTION. NOT APPLICABLE."])
    TINY.straight(folder / "unknown.pdb", residues=["ALA"] * 37 + ["UNK"] * 3)
    (folder / "notes.txt").write_text("not a structure")
    return folder


IONS = "HETATM    1 ZN    ZN A   1       0.000   0.000   0.000  1.00 10.00          ZN\n"


def test_a_file_of_ions_is_no_sample_and_does_not_fail(folder, tmp_path):
    """Four of 53 structures without a protein stopped the build as failed samples."""
    names = ["a.pdb", "b.pdb", "deep/c.pdb"]
    for name in names:
        (folder / name).write_text(IONS)
    listing = Proteins(folder, max_length=80).listing()
    assert listing.passed["without a protein chain"] == tuple(names)
    assert not set(names) & set(listing)
    words = ("--data", str(folder), "--set", "source.max_length=80")
    result = build(tmp_path / "pdb", *words)
    assert result.exit_code == 0, result.output
    assert "3 without a protein chain (a.pdb, b.pdb, deep/c.pdb)" in result.output

    # Where nothing else is there, the error says so.
    (tmp_path / "ions").mkdir()
    (tmp_path / "ions" / "c.pdb").write_text(IONS)
    result = build(tmp_path / "none", "--data", str(tmp_path / "ions"))
    said = "has no samples: passed over 1 file: 1 without a protein chain (c.pdb)"
    assert result.exit_code == 2 and said in result.output

    # A cache that an earlier version planned with such a file is still built on.
    stamps = dict(listing) | {"a.pdb": "81-2"}
    settings = {"pipeline": "pdb", "domain": "protein", "source": "proteins", "shard_size": 4}
    options = {"max_length": 80}
    plan.freeze(tmp_path / "old", stamps, options=options, **settings)
    shutil.copytree(tmp_path / "pdb" / "chain", tmp_path / "old" / "other")  # shards bind
    result = build(tmp_path / "old", *words, "--max-failed", "50%")
    assert result.exit_code == 0 and "left out 'a.pdb': a.pdb holds no protein chain" in (
        result.output
    )


def test_each_chain_is_a_sample_within_the_cuts(folder, capfd):
    (folder / "bad.pdb").write_bytes(b"")
    source = Proteins(folder, max_length=80)
    listing = source.listing()
    assert sorted(listing) == ["bad.pdb", "deep/one.ent/A", "nmr.pdb/A", "two.pdb/A", "two.pdb/B"]
    said = (
        "5 samples; left out: 1 over max_length, 1 over max_resolution, 1 over max_x, 1 under min"
    )
    assert said in "".join(capfd.readouterr())
    sample = source.read("two.pdb/B")
    assert set(sample) == set(source.entries) and sample["resolution"] == 2.1
    assert np.isnan(source.read("nmr.pdb/A")["resolution"])
    assert sample["cluster"] == source.read("deep/one.ent/A")["cluster"]  # one sequence
    with pytest.raises(BadSample, match="bad.pdb holds no atoms"):
        source.read("bad.pdb")
    with pytest.raises(BadSample, match="two.pdb has no chain 'C', only A, B"):
        source.read("two.pdb/C")


def test_an_assembly_has_all_chains_with_numbers_apart(folder):
    sample = Proteins(folder, assembly=True).read("two.pdb")
    assert len(sample["sequence"]) == 80 and sample["coords"].shape == (80, 4, 3)
    assert sample["chain"].tolist() == [0] * 40 + [1] * 40
    assert sample["number"].tolist() == [*range(40), *range(140, 180)]  # as ProteinMPNN
    assert [(s.start, s.stop) for s in segments(sample)] == [(0, 40), (40, 80)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_length": 0}, "min_length is 0 and max_length 512"),
        ({"min_length": 600}, "min_length is 600 and max_length 512"),
        ({"max_resolution": 0.0}, "max_resolution is 0.0"),
        ({"max_x": 2.0}, "max_x 2.0"),
        ({"split": "train"}, "split is 'train', but .* has no list.csv"),
    ],
)
def test_settings_that_cannot_be(folder, settings, message):
    with pytest.raises(ReedError, match=message):
        Proteins(folder, **settings)


def test_a_source_needs_a_folder(tmp_path):
    with pytest.raises(ReedError, match="name a folder of structures with --data$"):
        Proteins().listing()
    with pytest.raises(ReedError, match="there is none at .*gone"):
        Proteins(tmp_path / "gone").listing()


def test_without_gemmi_the_message_says_what_to_install(odd, monkeypatch):
    monkeypatch.setitem(sys.modules, "gemmi", None)
    with pytest.raises(ReedError, match=r"reading structures needs gemmi, .*'\.\[proteins\]'"):
        read_structure(odd)


# ---- ProteinMPNN's data

CHAINS = {
    "1abc_A": (1, 2.0),
    "1abc_B": (1, 2.0),
    "2xyz_A": (2, ""),
    "3aaa_A": (3, 3.9),
    "4bbb_A": (4, 1.5),
    "5ccc_A": (5, 1.5),
    "6ddd_A": (5, 1.6),
}


@pytest.fixture
def mpnn(tmp_path) -> Path:
    return TINY.mpnn(tmp_path / "mpnn", CHAINS, valid=[4], test=[5])


def test_the_splits_are_those_of_the_lists(mpnn, capfd):
    (mpnn / "pdb" / "xy" / "2xyz_A.pt").unlink()
    assert sorted(Proteins(mpnn).listing()) == ["1abc_A", "1abc_B"]
    said = "2 samples; left out: 1 over max_resolution, 1 without a .pt file"
    assert said in "".join(capfd.readouterr())
    assert sorted(Proteins(mpnn, split="valid").listing()) == ["4bbb_A"]
    assert sorted(Proteins(mpnn, split="test").listing()) == ["5ccc_A", "6ddd_A"]
    with pytest.raises(ReedError, match="no split 'vaild'.*valid"):
        Proteins(mpnn, split="vaild").listing()
    with pytest.raises(ReedError, match="has one file per chain; leave out source.assembly"):
        Proteins(mpnn, assembly=True)
    with pytest.raises(BadSample, match="there is no 2xyz_A.pt"):
        Proteins(mpnn).read("2xyz_A")
    with pytest.raises(BadSample, match="not in list.csv"):
        Proteins(mpnn).read("9zzz_A")


def test_a_chain_of_a_pt_file(mpnn):
    source = pickle.loads(pickle.dumps(Proteins(mpnn)))
    sample = source.read("1abc_B")
    stored = torch.load(mpnn / "pdb" / "ab" / "1abc_B.pt", weights_only=True)
    assert sample["sequence"] == stored["seq"] and sample["cluster"] == 1
    assert sample["resolution"] == 2.0 and np.isnan(source.read("2xyz_A")["resolution"])
    np.testing.assert_array_equal(sample["coords"], stored["xyz"][:, :4].numpy())
    assert np.isnan(sample["coords"][3, 1:]).all() and np.isfinite(sample["coords"][3, 0]).all()


class _Boom:
    def __reduce__(self):
        return (Path.touch, (Path("boom"),))


def test_a_hostile_pt_file_is_refused_and_nothing_runs(mpnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"seq": _Boom(), "xyz": _Boom()}, mpnn / "pdb" / "ab" / "1abc_A.pt")
    with pytest.raises(BadSample, match="reading it would run code"):
        Proteins(mpnn).read("1abc_A")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"seq": "ACD", "xyz": torch.zeros(4, 14, 3)}, r"xyz is \[4, 14, 3\], seq 'ACD'"),
        ({"seq": "ACD", "xyz": torch.zeros(3, 4, 3)}, r"xyz is \[3, 4, 3\]"),
        ({"seq": "", "xyz": torch.zeros(0, 14, 3)}, r"xyz is \[0, 14, 3\]"),
        ({"xyz": torch.zeros(3, 14, 3)}, "seq None"),
        ({"seq": "ACD", "xyz": torch.full((3, 14, 3), torch.inf)}, "no CA atom, or coordinates"),
        ({"seq": "ACD", "xyz": torch.full((3, 14, 3), torch.nan)}, "no CA atom"),
    ],
)
def test_a_pt_file_of_something_else(mpnn, content, reason):
    torch.save(content, mpnn / "pdb" / "ab" / "1abc_A.pt")
    with pytest.raises(BadSample, match=reason):
        Proteins(mpnn).read("1abc_A")


def test_letters_beyond_the_twenty_are_x(mpnn):
    torch.save({"seq": "AUBZ", "xyz": torch.ones(4, 14, 3)}, mpnn / "pdb" / "ab" / "1abc_A.pt")
    assert Proteins(mpnn).read("1abc_A")["sequence"] == "AXXX"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace("CLUSTER", "GROUP"), "lacks the columns CLUSTER"),
        (lambda text: text.replace("1abc_A", "../../x"), "line 2 is not a chain: CHAINID"),
        (lambda text: text.replace("2.0", "fine"), "line 2 is not a chain: could not convert"),
        (lambda text: text + "1abc_A,x,1.0,h,9,AAA\n", "line 9: '1abc_A' is listed twice"),
    ],
)
def test_a_list_that_is_none(mpnn, edit, message):
    path = mpnn / "list.csv"
    path.write_text(edit(path.read_text()))
    with pytest.raises(ReedError, match=message):
        Proteins(mpnn).listing()


def test_a_list_that_is_no_text(mpnn):
    (mpnn / "list.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReedError, match="cannot read .*list.csv"):
        Proteins(mpnn).listing()


def test_lists_of_clusters_must_be_there_and_apart(mpnn):
    (mpnn / "test_clusters.txt").write_text("4\n")
    with pytest.raises(
        ReedError, match="cluster 4 is in valid_clusters.txt and in test_clusters.txt"
    ):
        Proteins(mpnn).listing()
    (mpnn / "test_clusters.txt").unlink()
    with pytest.raises(ReedError, match="cannot read .*test_clusters.txt, which lists held-out"):
        Proteins(mpnn).listing()


# ---- the column


def test_the_column_of_a_chain(odd):
    sample = Proteins(odd.parent, min_length=5).read("odd.pdb/A")
    (found,) = zip(*ProteinChain().encode([sample]).values(), strict=True)
    coords, residue, number, chain, graph, cluster, resolution = found
    assert "".join(ALPHABET[i] for i in residue) == sample["sequence"]
    assert number.tolist() == list(range(12)) and chain.tolist() == [0] * 12
    assert resolution == np.float32(2.1) and cluster == sample["cluster"]
    assert graph.shape == (12, 48) and (graph[5] == -1).all()  # LYS has no CA
    assert (graph[:, 11:] == -1).all() and graph[3, 0] == 3  # GLU has one
    assert 5 not in graph[0] and sorted(graph[0, :11]) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


def test_neighbours_are_the_nearest_by_ca():
    coords = np.random.default_rng(0).normal(size=(100, 4, 3)).astype(np.float32) * 10
    coords[7, 1] = np.nan
    graph = neighbours(coords)
    apart = np.linalg.norm(coords[:, None, 1] - coords[None, :, 1], axis=-1)
    for row in (0, 50, 99):
        want = np.argsort(np.where(np.isnan(apart[row]), np.inf, apart[row]))[:48]
        assert graph[row].tolist() == want.tolist() and graph[row, 0] == row
    assert (graph[7] == -1).all() and not (graph == 7).any()
    coords[8, 1] = coords[3, 1]
    assert neighbours(coords)[8, :2].tolist() == [8, 3]  # itself first, whatever is there too


def test_pairs_are_kept_at_the_neighbours():
    pairs = np.random.default_rng(0).normal(size=(5, 5, 2))
    graph = np.array([[0, 4, -1]] * 5)
    kept = at_neighbours(pairs, graph)
    assert np.array_equal(kept[3], [pairs[3, 0], pairs[3, 4], [0, 0]])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sequence": "AC"}, r"coords are \[3, 4, 3\] and the sequence has 2 letters"),
        ({"sequence": "ACJ"}, "letter 'J', not one of ACDEF"),
        ({"number": np.arange(4)}, r"number is \(4,\) for 3 residues"),
    ],
)
def test_a_sample_that_does_not_fit(change, reason):
    sample = {
        "coords": np.ones((3, 4, 3)),
        "sequence": "ACD",
        "number": np.arange(3),
        "chain": np.zeros(3),
        "cluster": 0,
        "resolution": 1.0,
    }
    with pytest.raises(BadSample, match=reason):
        ProteinChain().encode([sample | change])


def build(cache, *more):
    command = [
        "build",
        "pdb",
        "--cache",
        str(cache),
        "--device",
        "cpu",
        "--encoder",
        "chain",
        *more,
    ]
    return CliRunner().invoke(main, command)


def test_a_cache_of_a_folder_records_the_bad_file(folder, tmp_path):
    (folder / "bad.pdb").write_bytes(b"")
    result = build(tmp_path / "pdb", "--data", str(folder), "--set", "source.max_length=80")
    assert result.exit_code == 0, result.output
    column = schema.load_column(tmp_path / "pdb", "chain")
    marker = schema.load_marker(tmp_path / "pdb", column, 0)
    assert marker.failed == {"bad.pdb": "bad.pdb holds no atoms"}
    assert len(marker.keys) == 4
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "pdb")])
    assert result.exit_code == 0 and "0 problems" in result.output, result.output
    drawn, key = tmp_path / "peek.png", "two.pdb/A"
    result = CliRunner().invoke(main, ["peek", str(tmp_path / "pdb"), key, "--out", str(drawn)])
    assert result.exit_code == 0 and drawn.stat().st_size > 10_000, result.output


@pytest.mark.parametrize("container", schema.CONTAINERS)
def test_missing_atoms_survive_every_container(odd, tmp_path, container):
    more = ("--data", str(odd.parent), "--set", "source.min_length=5", "--set", "source.max_x=0.5")
    result = build(tmp_path / "pdb", *more, "--container", container)
    assert result.exit_code == 0, result.output
    column = schema.load_column(tmp_path / "pdb", "chain")
    fields = [column.field(name) for name in ("coords", "neighbours", "residue")]
    state = {field.name: {} for field in fields}
    ((key, found),) = reader.records(tmp_path / "pdb", column, 0, fields, state)
    want = Proteins(odd.parent).read(key)
    np.testing.assert_array_equal(found["coords"], want["coords"])
    np.testing.assert_array_equal(found["neighbours"], neighbours(want["coords"]))
    assert "".join(ALPHABET[i] for i in found["residue"]) == want["sequence"]


def test_a_cache_of_a_split_keeps_its_setting(mpnn, tmp_path):
    result = build(tmp_path / "pdb", "--data", str(mpnn), "--set", "source.split=test")
    assert result.exit_code == 0, result.output
    assert schema.load_manifest(tmp_path / "pdb").options == {"split": "test"}
    column = schema.load_column(tmp_path / "pdb", "chain")
    fields = [column.field(name) for name in ("coords", "cluster")]
    records = dict(
        reader.records(tmp_path / "pdb", column, 0, fields, {"coords": {}, "cluster": {}})
    )
    assert sorted(records) == ["5ccc_A", "6ddd_A"]
    assert records["5ccc_A"]["cluster"] == 5
    want = Proteins(mpnn, split="test").read("5ccc_A")["coords"]
    np.testing.assert_array_equal(records["5ccc_A"]["coords"], want)
    assert plan.load(tmp_path / "pdb").manifest.samples == 2


# ---- real structures


@needs_real
@pytest.mark.parametrize(
    ("key", "length", "missing", "resolution"),
    [("3HTN.pdb/B", 149, 10, 1.5), ("5L33.pdb/A", 108, 2, 2.0), ("6MRR.pdb/A", 68, 0, 1.18)],
)
def test_real_structures(key, length, missing, resolution):
    sample = Proteins(REAL).read(key)
    assert len(sample["sequence"]) == length and sample["resolution"] == resolution
    there = np.isfinite(sample["coords"]).all((1, 2))
    assert (~there).sum() == missing
    assert set(sample["sequence"]) <= set(ALPHABET[:20])
    steps = np.linalg.norm(np.diff(sample["coords"][:, 1], axis=0), axis=1)
    assert np.nanmedian(steps) == pytest.approx(3.8, abs=0.05)  # CA to CA of a peptide
    apart = np.linalg.norm(np.diff(sample["coords"], axis=1), axis=-1)  # N-CA, CA-C, C-O
    np.testing.assert_allclose(np.nanmedian(apart, 0), [1.46, 1.525, 1.23], atol=0.02)


@needs_real
def test_identical_chains_of_a_real_trimer_are_one_cluster():
    source = Proteins(REAL)
    keys = [key for key in source.listing() if key.startswith("3HTN")]
    assert keys == ["3HTN.pdb/A", "3HTN.pdb/B", "3HTN.pdb/C"]
    assert len({source.read(key)["cluster"] for key in keys}) == 1
    whole = Proteins(REAL, assembly=True).read("3HTN.pdb")
    assert len(whole["sequence"]) == 447 and whole["number"][149] == 249


def test_the_alphabet_is_that_of_proteinmpnn():
    assert ALPHABET == "ACDEFGHIKLMNPQRSTVWYX"
    assert proteins_source.BETWEEN == 100
