"""What a source computes by a library is in its columns: no shard is made by another version."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import open_cache, pipelines
from reed.cache import mend, plan, schema
from reed.chem import rdkit
from reed.cli import cache as cli
from reed.sources.molecule.molecules import Molecules
from reed.sources.molecule.toy import MoleculesToy

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_molecules.py")))
TEXTS = [text for text in TINY.SMILES if "I" not in text][:12]
READER = """
from reed.cache.schema import Field
from reed.encoders.base import Weightless


class Largest(Weightless):
    reads = ("molecule/coords",)
    fields = (Field("at", "sample", (3,)),)

    def encode(self, samples):
        return {"at": [sample["molecule/coords"].max(0) for sample in samples]}
"""
OLD, NEW = "2025.09.6", "2026.09.1"


def run(*words):
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def release(monkeypatch):
    """A function that takes the place of another release of RDKit: other conformers of one seed."""
    whole = rdkit.conformer

    def change(version):
        monkeypatch.setattr(rdkit, "version", lambda: version)
        shift = 0 if version == OLD else 1
        monkeypatch.setattr(rdkit, "conformer", lambda mol, seed: whole(mol, seed + shift))

    return change


@pytest.fixture
def built(tmp_path, monkeypatch, release):
    """A function that builds a cache of SMILES under the old release."""
    monkeypatch.chdir(tmp_path)
    pipeline = replace(pipelines.load("molecules"), shard_size=4)
    monkeypatch.setattr(pipelines, "load", lambda name: pipeline)
    (tmp_path / "largest.py").write_text(READER)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "list.smi").write_text("\n".join(TEXTS) + "\n")

    def build(*encoders, known=True):
        release(OLD)
        with pytest.MonkeyPatch.context() as patch:
            if not known:  # as an earlier version of this package did
                patch.setattr(Molecules, "computed_by", lambda self: "")
            code, said = words("molecule", *encoders)
        assert code == 0, said
        return tmp_path / "cache"

    def words(*encoders, more=()):
        named = [word for name in encoders for word in ("--encoder", name)]
        where = ("--data", tmp_path / "raw", "--cache", tmp_path / "cache")
        return run("build", "molecules", *where, *named, *more)

    build.words = words
    build.repair = lambda: run("repair", tmp_path / "cache", "--data", tmp_path / "raw")
    return build


def tree(cache):
    return {p: p.read_bytes() for p in cache.rglob("*") if p.is_file() and p.suffix != ".jsonl"}


def damage(cache, shard=1):
    path = cache / "molecule" / f"{shard:06d}.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


def test_the_revision_names_the_release_where_conformers_are_made(tmp_path, release):
    release(OLD)
    (tmp_path / "some").mkdir()
    TINY.sdf(tmp_path / "some" / "a.sdf", TEXTS[:2])
    assert Molecules(tmp_path / "some").computed_by() == ""
    (tmp_path / "some" / "b.csv").write_text("smiles\nCC\n")
    assert Molecules(tmp_path / "some").computed_by() == f"rdkit {OLD}"
    assert MoleculesToy().computed_by() == f"rdkit {OLD}"


def test_repair_and_extension_by_another_release_are_refused(built, release, tmp_path):
    cache = built()
    revision = schema.load_column(cache, "molecule").revision
    assert revision == f"1; source computed by rdkit {OLD}"
    damage(cache)
    (tmp_path / "raw" / "more.smi").write_text("CCO\nCCN\n")
    before = tree(cache)

    release(NEW)
    for code, said in (built.words("molecule", more=["--extend"]), built.repair()):
        assert code == 2 and f"rdkit {OLD} computed, now it is rdkit {NEW}" in said, said
        assert f"install rdkit {OLD}" in said and "--encoder OTHER-NAME=molecule" in said
        assert said.count("Error: ") == 1 and "Traceback" not in said
    assert tree(cache) == before

    release(OLD)
    code, said = built.repair()
    assert code == 0, said
    assert built.words("molecule", more=["--extend"])[0] == 0
    assert plan.load(cache).manifest.segments == (len(TEXTS), 2)


def test_another_release_makes_another_column(built, release):
    cache = built()
    release(NEW)
    code, said = built.words("newer=molecule")
    assert code == 0, said
    with open_cache(cache) as opened:
        old, new = (dict(opened.records(f"{name}/coords")) for name in ("molecule", "newer"))
    assert old.keys() == new.keys()
    assert any(np.abs(old[key] - new[key]).max() > 0.1 for key in old)


def test_a_repair_by_an_unknown_release_is_followed_by_what_reads_it(built, release, tmp_path):
    cache = built("largest=largest:Largest", known=False)
    assert schema.load_column(cache, "molecule").revision == "1"
    damage(cache)
    before = {path: data for path, data in tree(cache).items() if path.parent.name == "largest"}
    release(NEW)
    code, said = built.repair()
    assert code == 0 and f"whether rdkit {NEW} computes the same is not known" in said, said
    assert "molecule shard 1: other values than before; built again, too: largest" in said

    with open_cache(cache) as opened:
        coords, largest = (dict(opened.records(f)) for f in ("molecule/coords", "largest/at"))
    for key, value in coords.items():
        np.testing.assert_array_equal(value.max(0), largest[key])
    kept = {path for path, data in before.items() if path.read_bytes() == data}
    assert {path.name for path in before.keys() - kept} == {"000001.tar", "000001.json"}
    assert run("verify", cache, "--deep")[0] == 0

    (tmp_path / "raw" / "more.smi").write_text("CCO\nCCN\n")
    code, said = built.words("molecule", more=["--extend"])
    assert code == 0 and "is not known" in said


def test_a_repair_by_an_unknown_release_that_changes_nothing_says_nothing_of_others(built, release):
    cache = built("largest=largest:Largest", known=False)
    before = tree(cache)
    damage(cache)
    code, said = built.repair()
    assert code == 0 and "other values" not in said and tree(cache) == before


def test_a_repair_is_refused_where_the_columns_that_read_it_cannot_follow(built, release):
    cache = built("conformer", known=False)
    damage(cache)
    before = tree(cache)
    release(NEW)
    code, said = built.repair()
    assert code == 2 and f"1-1-rdkit{OLD}" in said and f"1-1-rdkit{NEW}" in said, said
    assert tree(cache) == before


def test_verify_finds_a_column_that_was_made_from_another(built, release):
    cache = built("largest=largest:Largest")
    assert run("verify", cache, "--deep")[0] == 0
    for path in (cache / "molecule").iterdir():
        path.unlink()
    release(NEW)
    assert built.words("molecule")[0] == 0
    code, said = run("verify", cache, "--deep")
    assert code == 1 and "largest: it was made from another 'molecule'" in said, said
    assert mend.readers_of(cache, ["molecule"]) == ["largest"]
    code, said = built.repair()
    assert code == 2 and "remove the column's folder and build it again" in said
