"""RMSD, TM-score and lDDT against known values; ESMFold from a random folder."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from reed.chem.geometry import rmsd, superpose
from reed.errors import ReedError
from reed.metrics.folding import EsmFold, Folded, agreement
from reed.metrics.structure import lddt, tm_score


def helices(length, seed):
    """Helices of 14 residues (rise 1.5 A, 100 degrees, radius 2.3 A) in random directions."""
    rng = np.random.default_rng(seed)
    points, place, frame = [], np.zeros(3), np.eye(3)
    for i in range(length):
        turn = i % 14
        if turn == 0:
            frame = np.linalg.qr(rng.standard_normal((3, 3)))[0]
            if i:
                place = points[-1] - frame @ np.array([2.3, 0, 0]) + rng.standard_normal(3)
        angle = np.deg2rad(100 * turn)
        on_helix = [2.3 * np.cos(angle), 2.3 * np.sin(angle), 1.5 * turn]
        points.append(place + frame @ np.array(on_helix))
    return np.array(points)


def any_rotation(rng):
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    return rotation


def turned(points, seed):
    return points @ any_rotation(np.random.default_rng(seed)) + [5, -3, 2]


def moved(length, noise):
    """A structure, and a noisy copy elsewhere."""
    reference = helices(length, length)
    rng = np.random.default_rng(length + 1)
    rotation = any_rotation(rng)
    for size in (0.0, 1.0, 2.5):
        model = (reference + size * rng.standard_normal(reference.shape)) @ rotation + [5, -3, 2]
        if size == noise:
            return model, reference
    raise AssertionError(noise)


# by tmtools 0.3.0 (TM-align: TM-score normalised by the reference) and biotite 1.6.0 (lDDT, RMSD)
KNOWN = [
    (40, 0.0, 1.0, 1.0, 0.0),
    (40, 1.0, 0.5983, 0.6260, 1.6939),
    (90, 1.0, 0.8390, 0.6574, 1.5954),
    (90, 2.5, 0.5093, 0.3944, 4.0728),
    (200, 1.0, 0.9097, 0.6748, 1.7057),
    (200, 2.5, 0.6647, 0.3678, 4.1744),
]


@pytest.mark.parametrize(("length", "noise", "tm", "kept", "distance"), KNOWN)
def test_measures_agree_with_published_programs(length, noise, tm, kept, distance):
    model, reference = moved(length, noise)
    assert rmsd(model, reference) == pytest.approx(distance, abs=2e-4)
    assert lddt(model, reference) == pytest.approx(kept, abs=1e-4)
    # they may align other residues, which can only help theirs; ours climbs further
    assert tm - 0.005 < tm_score(model, reference) < tm + 0.003


def test_a_superposition_is_found_exactly_and_is_no_reflection():
    points = helices(30, 1)
    model = turned(points, 2)
    rotation, shift = superpose(model, points)
    assert np.allclose(model @ rotation + shift, points) and np.linalg.det(rotation) > 0
    mirrored = points * [1, 1, -1]
    assert np.linalg.det(superpose(mirrored, points)[0]) > 0
    assert rmsd(mirrored, points) > 1 and tm_score(mirrored, points) < 0.9
    assert lddt(mirrored, points) == pytest.approx(1)  # distances know no handedness


def test_a_hinge_is_found_by_the_tm_score():
    """Two rigid halves of 45: either alone, exactly superposed, gives 0.5."""
    points = helices(90, 3)
    model = points.copy()
    c, s = np.cos(1.0), np.sin(1.0)
    model[45:] = (points[45:] - points[45]) @ [[c, s, 0], [-s, c, 0], [0, 0, 1]] + points[45]
    assert 0.5 < tm_score(model, points) < 0.75
    assert rmsd(model, points) > 3


def one_by_one(model, reference):
    """The search of the TM-score over one fragment after another, as it was at first."""
    length, best = len(reference), 0.0
    scale = max(0.5, 1.24 * np.cbrt(length - 15) - 1.8) if length > 15 else 0.5
    size, sizes = length, [length]
    while size > 4:
        size = max(4, size // 2)
        sizes.append(size)
    for size in sizes:
        for first in range(0, length - size + 1, max(1, size // 4)):
            weight, score = np.zeros(length), 0.0
            weight[first : first + size] = 1
            for _ in range(40):
                turn, shift = superpose(model, reference, weight)
                terms = 1 / (1 + np.square(model @ turn + shift - reference).sum(1) / scale**2)
                before, score = score, float(terms.mean())
                if score < before + 1e-5:
                    break
                weight = terms**2
            best = max(best, score)
    return best


def chains():
    """CA positions of chains of the PDB, by entry and letter."""
    with np.load(Path(__file__).with_name("data") / "ca.npz") as arrays:
        return {name: values.astype(np.float64) for name, values in arrays.items()}


def compared():
    """Pairs to compare: two chains, a chain and a noisy copy, and unlike folds."""
    real, rng = chains(), np.random.default_rng(0)
    pairs = {}
    for one, other in itertools.combinations(real, 2):
        length = min(len(real[one]), len(real[other]))
        pairs[f"{one} and {other}"] = real[one][:length], real[other][:length]
    for name, points in real.items():
        for noise in (0.0, 2.0, 6.0):
            model = turned(points + noise * rng.standard_normal(points.shape), 1)
            pairs[f"{name} with noise {noise}"] = model, points
    for length in (3, 4, 9, 33):
        pairs[f"{length} at random"] = tuple(rng.standard_normal((2, length, 3)) * 8)
    return pairs


@pytest.mark.parametrize("pair", compared())
def test_the_search_of_all_fragments_at_once_loses_nothing(pair):
    model, reference = compared()[pair]
    found, before = tm_score(model, reference), one_by_one(model, reference)
    assert before - 1e-9 <= found < before + 2e-4 and found <= 1


def test_fragments_are_superposed_together(monkeypatch):
    """1,200 fragments of 500 residues, in blocks; one by one there were thousands of calls."""
    calls, svd = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *a, **k: calls.append(1) or svd(*a, **k))
    points = helices(500, 6)
    assert tm_score(points + np.random.default_rng(0).standard_normal(points.shape), points) > 0.9
    assert len(calls) < 300


@pytest.mark.parametrize("length", [3, 4, 10, 15, 16, 21])
def test_short_chains_have_scores(length):
    points = helices(length, 4)
    assert tm_score(points, points) == pytest.approx(1)
    assert 0 < tm_score(points * 1.2, points) < 1


def test_what_cannot_be_compared_is_refused():
    points = helices(20, 0)
    for measure in (rmsd, tm_score, lddt):
        with pytest.raises(ReedError, match=r"\(19, 3\) and \(20, 3\) cannot be superposed"):
            measure(points[:19], points)
        with pytest.raises(ReedError, match=r"must be \[N, 3\]"):
            measure(points[:, :2], points[:, :2])
    for measure in (tm_score, lddt):
        with pytest.raises(ReedError, match="2 residues are too few to compare"):
            measure(points[:2], points[:2])
    with pytest.raises(ReedError, match="no two CA .* within 15.0 A"):
        lddt(points * 100, points * 100)


def backbone(length):
    ca = helices(length, 5)
    return np.stack([ca + [1.4, 0, 0], ca, ca + [0, 1.5, 0], ca + [0, 1.5, 1.2]], 1)


def test_a_fold_is_compared_over_resolved_residues():
    coords = backbone(40).astype(np.float32)
    turn, shift = superpose(turned(coords[:, 1], 0), coords[:, 1])
    folded = Folded((coords[:, :3] - shift) @ turn.T, np.linspace(60, 90, 40))
    coords[[3, 20], 1:] = np.nan
    found = agreement(folded, coords)
    assert found["sc_rmsd"] < 1e-4 and found["sc_tm"] == pytest.approx(1, abs=1e-6)
    assert found["sc_lddt"] == 1 and found["plddt"] == pytest.approx(75)
    with pytest.raises(ReedError, match="fold has 40 residues, the backbone 39"):
        agreement(folded, coords[:39])


@pytest.fixture(scope="module")
def esmfold(tmp_path_factory):
    """A random ESMFold in the layout of facebook/esmfold_v1, small."""
    import torch
    from transformers import EsmConfig, EsmForProteinFolding

    folder = tmp_path_factory.mktemp("esmfold")
    trunk = {
        "num_blocks": 1,
        "sequence_state_dim": 32,
        "pairwise_state_dim": 16,
        "sequence_head_width": 8,
        "pairwise_head_width": 8,
        "position_bins": 8,
        "structure_module": {
            "sequence_dim": 32,
            "pairwise_dim": 16,
            "ipa_dim": 4,
            "resnet_dim": 16,
            "num_heads_ipa": 2,
            "num_qk_points": 2,
            "num_v_points": 2,
            "num_blocks": 2,
            "num_resnet_blocks": 1,
        },
    }
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=33,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        pad_token_id=1,
        mask_token_id=32,
        position_embedding_type="rotary",
        token_dropout=True,
        is_folding_model=True,
        esmfold_config={"trunk": trunk, "fp16_esm": False},
    )
    EsmForProteinFolding(config).save_pretrained(folder)
    return folder


def test_esmfold_folds_from_a_local_folder(esmfold):
    fold = EsmFold(esmfold)
    folded = fold("ACDEFGHIKLMNPQRSTVWY")
    assert folded.coords.shape == (20, 3, 3) and np.isfinite(folded.coords).all()
    assert folded.plddt.shape == (20,) and ((folded.plddt >= 0) & (folded.plddt <= 100)).all()
    bond = np.linalg.norm(folded.coords[:, 1] - folded.coords[:, 0], axis=-1)
    assert bond == pytest.approx(1.459, abs=0.02)  # N-CA: these are the atoms we take them for
    assert np.array_equal(fold("ACDEFGHIKLMNPQRSTVWY").coords, folded.coords)
    assert agreement(folded, backbone(20))["sc_rmsd"] > 0


def test_no_esmfold_is_one_line(tmp_path):
    with pytest.raises(ReedError, match=r"no ESMFold at .*facebook/esmfold_v1"):
        EsmFold(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "esm"}')
    with pytest.raises(ReedError, match="cannot read ESMFold from"):
        EsmFold(tmp_path)


def test_weights_that_lack_a_part_are_not_made_up(esmfold, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((esmfold / "config.json").read_text())
    state = load_file(esmfold / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("lddt_head")}
    assert len(kept) < len(state)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ReedError, match=r"lacks lddt_head\."):
        EsmFold(tmp_path)
