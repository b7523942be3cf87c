"""The trainer on proteins: three kinds of targets, dropout by place, resume, measures of a run."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from reed import config
from reed.chem.protein import ALPHABET
from reed.domains.protein import DesignOptions, Structure
from reed.errors import ReedError
from reed.evaluate import protein
from reed.metrics.folding import Folded
from reed.sample.outputs.protein import fasta
from reed.sample.sampler import Sampler
from reed.train import checkpoint, log
from reed.train.recipe import check

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
CHAINS = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_chains.py")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return CHAINS.build(tmp_path_factory.mktemp("proteins") / "cache")


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    """A run long enough to have learnt what is easy."""
    over = {"steps": 80, "every": {"log": 20}, "curriculum": {"diffusion": 1.0}}
    return TINY.trained(CHAINS.settings(cache, tmp_path_factory.mktemp("run") / "r", **over))


@pytest.fixture(scope="module")
def structures(cache):
    return protein.structures_of(cache, CHAINS.DATA)


def test_the_loss_falls_and_every_cosine_rises(run):
    first, last = (log.read(run)[i] for i in (0, -1))
    assert last["diffusion"] < 0.8 * first["diffusion"]
    for name in ("single", "pair", "structure"):
        assert last[f"cos/{name}"] > first[f"cos/{name}"] + 0.02, name
        assert last[f"cos/{name}"] > 0.3


def test_micro_batches_add_up_to_the_batch(cache, tmp_path):
    """With dropout and backbone noise on: both follow from the place of a row."""
    one, two = (
        TINY.trained(CHAINS.settings(cache, tmp_path / f"{n}", steps=6, tokens=500, accumulate=n))
        for n in (1, 2)
    )
    TINY.close(checkpoint.load(two), checkpoint.load(one), atol=5e-4)
    assert log.read(one)[-1]["loss"] == pytest.approx(log.read(two)[-1]["loss"], abs=1e-3)


def test_ten_steps_and_ten_more_are_twenty(cache, tmp_path):
    whole = TINY.trained(CHAINS.settings(cache, tmp_path / "whole"))
    TINY.trained(CHAINS.settings(cache, tmp_path / "split", steps=10))
    split = TINY.trained(CHAINS.settings(cache, tmp_path / "split"))
    TINY.same(checkpoint.load(split), checkpoint.load(whole))
    assert TINY.lines(split) == TINY.lines(whole)


def test_an_alignment_that_is_off_sends_no_gradient(cache, tmp_path):
    weights = {"single": 0.0, "pair": 0.0, "structure": 0.0}
    setup = check(CHAINS.settings(cache, tmp_path, curriculum=weights))
    assert not setup.targets


def test_structures_come_back_as_they_were_stored(structures):
    assert len(structures) == CHAINS.PROTEINS
    for each in structures:
        stored = CHAINS.protein(int(each.name[1:]))
        assert np.array_equal(each.coords, stored["coords"], equal_nan=True)
        assert np.array_equal(each.residue, stored["residue"])
        assert each.resolved.sum() == len(each.residue) - 1
        assert each.counts.sum() == len(each.residue) - 2


def test_a_trained_net_recovers_what_the_backbone_says(run, structures):
    sampler = Sampler.of_run(run)
    ordered = tuple(structures)
    drawn = sampler.draw(len(ordered), DesignOptions(ordered, steps=20), batch=8, progress=False)
    found = protein.recovery(drawn["sequence"].tolist(), ordered)
    chance = np.concatenate([each.residue[each.counts] for each in ordered])
    assert found["residues"] == len(chance)
    assert found["recovery"] > np.bincount(chance).max() / len(chance) + 0.15
    told = protein.perplexity(sampler.net, ordered)
    assert told["one_shot_recovery"] == pytest.approx(found["recovery"], abs=0.1)
    assert 1 < told["perplexity"] < 2.2  # two letters in all


def test_perplexity_is_of_fixed_masks_whatever_the_batches(run, structures, monkeypatch):
    net = Sampler.of_run(run).net
    whole = protein.perplexity(net, structures)
    assert protein.perplexity(net, structures) == whole
    monkeypatch.setattr(protein, "_TOKENS", 50)
    assert len(list(protein.batches(structures))) > 15
    single = protein.perplexity(net, structures[::-1])
    assert single["perplexity"] == pytest.approx(whole["perplexity"], rel=1e-4)
    assert protein.perplexity(net, structures, seed=1)["perplexity"] != whole["perplexity"]


def test_perplexity_of_a_net_that_knows_nothing_is_twenty(structures):
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def encode(self, coords, **graph):
            return None

        def decode(self, encoded, tokens):
            return torch.zeros(*tokens.shape, 22), {}

    found = protein.perplexity(Flat(), structures)
    assert found["perplexity"] == pytest.approx(20, rel=1e-5)
    assert set(found["perplexity_at"]) == {"0.1", "0.3", "0.5", "0.7", "0.9", "1"}


def small(name, letters, coords=None):
    coords = np.zeros((len(letters), 4, 3), np.float32) if coords is None else coords
    residue = np.array([ALPHABET.index(letter) for letter in letters])
    return Structure(name, coords, residue, np.arange(len(letters)), np.zeros(len(letters), int))


def test_recovery_counts_no_x_and_nothing_missing():
    coords = np.zeros((5, 4, 3), np.float32)
    coords[4, 3] = np.nan
    first, second = small("a", "ACXDE", coords), small("b", "GG")
    found = protein.recovery(["ACAAE", "GA"], [first, second])
    assert found == {"recovery": 3 / 5, "recovery_median": pytest.approx(7 / 12), "residues": 5}
    with pytest.raises(ReedError, match="no residue of these structures counts"):
        protein.recovery(["AA"], [small("x", "XX")])
    with pytest.raises(ReedError, match="too few residues"):
        protein.perplexity(torch.nn.Linear(1, 1), [])


def test_refolding_counts_successes(structures):
    whole = [each for each in structures if each.resolved.sum() > 12][:2]

    def fold(sequence):
        each = whole[len(seen)]
        seen.append(sequence)
        shift = 0.0 if len(seen) == 1 else np.random.default_rng(0).normal(0, 5, each.coords.shape)
        return Folded(np.nan_to_num(each.coords + shift)[:, :3], np.full(len(sequence), 85.0))

    seen = []
    texts = ["A" * len(each.residue) for each in whole]
    found = protein.refolding(texts, whole, fold)
    assert seen == texts
    assert found["share_sc_rmsd_below_2"] == 0.5 and found["share_plddt_above_80"] == 1.0
    assert found["sc_rmsd_mean"] > 1 and found["plddt_median"] == 85
    two = replace(whole[0], chain=np.arange(len(whole[0].chain)) % 2)
    with pytest.raises(ReedError, match="has several chains"):
        protein.refolding(texts[:1], [two], fold)


def test_fasta_has_a_name_and_sixty_letters_to_a_line():
    assert fasta(["a", "b"], ["A" * 61, "CD"]) == f">a\n{'A' * 60}\nA\n>b\nCD\n"


def test_structures_in_two_columns_are_refused(cache):
    with pytest.raises(ReedError, match="not in one column"):
        protein.structures_of(cache, CHAINS.DATA | {"number": "teacher/single"})


MAIN = """
import sys
from reed import config
from reed.train import loop, recipe
loop.train(config.build(recipe.TrainConfig, config.read(sys.argv[1])))
"""


@pytest.mark.slow
def test_two_processes_do_what_one_does(cache, ranks, tmp_path):
    """Every trained parameter gets a gradient, and rows are noised alike on either process."""
    over = {"steps": 6, "tokens": 500}
    two, one = (CHAINS.settings(cache, tmp_path / name, **over) for name in ("two", "one"))
    (tmp_path / "run.json").write_text(json.dumps(config.plain(two)))
    for process in ranks("-c", MAIN, str(tmp_path / "run.json")):
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error
    TINY.close(checkpoint.load(two.run), checkpoint.load(TINY.trained(one)), atol=5e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what compiling warns of differs between versions of torch
@pytest.mark.parametrize("over", [{"compile": "on"}, {"precision": "bf16"}])
def test_compiled_and_in_bf16_it_learns_the_same(cache, tmp_path, over):
    logs = []
    for name, each in {"plain": {}, "other": over}.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        settings = CHAINS.settings(cache, tmp_path / name, steps=4, **each)
        logs.append(log.read(TINY.trained(settings)))
    AcceleratorState._reset_state(reset_partial_state=True)
    for ours, theirs in zip(*logs, strict=True):
        for name in ("diffusion", "cos/pair", "cos/single"):
            assert ours[name] == pytest.approx(theirs[name], abs=0.02)
