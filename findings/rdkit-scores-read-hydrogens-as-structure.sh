#!/usr/bin/env bash
# Versions:  rdkit 2025.9.6 and 2026.9.1, numpy 2.2.0, Python 3.11.
# Guess:     synthetic accessibility (SA), rotatable bonds, acceptors and SPS are properties of a
#            molecule, the same whether its hydrogens are atoms of the graph or implied, as QED, logP
#            and TPSA are.
# Behaviour: they are not. The SA score of ibuprofen is 2.19, and 7.13 with hydrogens: hydrogens make
#            fragments that its table does not know. Glycerol has 2 rotatable bonds without and 5 with
#            hydrogens, as those to OH then count; ibuprofen gains an acceptor. Nothing is said.
# Hurt:      whoever scores molecules that were made with hydrogens in three dimensions (QM9, GEOM):
#            they look as if they could not be made beside a set that was read from SMILES. RemoveHs
#            before scoring helps.
# Source:    seen while comparing scores of generated molecules with those of their SMILES.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/scores.py" <<'PYTHON'
import os
import sys

import rdkit
from rdkit import Chem, RDConfig, RDLogger
from rdkit.Chem import QED, Crippen, SpacialScore, rdMolDescriptors

sys.path.append(os.path.join(RDConfig.RDContribDir, "SA_Score"))
import sascorer

RDLogger.DisableLog("rdApp.*")
MOLECULES = {"ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "glycerol": "OCC(O)CO"}
SCORES = {
    "SA": sascorer.calculateScore,
    "rotatable bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "acceptors": rdMolDescriptors.CalcNumHBA,
    "SPS": SpacialScore.SPS,
    "QED": QED.qed,
    "logP": Crippen.MolLogP,
    "TPSA": rdMolDescriptors.CalcTPSA,
}

print(rdkit.__version__)
for name, smiles in MOLECULES.items():
    bare = Chem.MolFromSmiles(smiles)
    full = Chem.AddHs(bare)
    for key, score in SCORES.items():
        print(f"  {key} of {name}: {score(bare):.4g}, with hydrogens {score(full):.4g}")
PYTHON

python3 -m venv "$work/venv"
for version in 2025.9.6 2026.9.1; do
  "$work/venv/bin/pip" install --quiet numpy==2.2.0 rdkit==$version
  "$work/venv/bin/python" "$work/scores.py" 2> /dev/null | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
2025.09.6
  SA of ibuprofen: 2.192, with hydrogens 7.126
  rotatable bonds of ibuprofen: 4, with hydrogens 4
  acceptors of ibuprofen: 1, with hydrogens 2
  SPS of ibuprofen: 12.8, with hydrogens 36.27
  QED of ibuprofen: 0.8216, with hydrogens 0.8216
  logP of ibuprofen: 3.073, with hydrogens 3.073
  TPSA of ibuprofen: 37.3, with hydrogens 37.3
  SA of glycerol: 2.426, with hydrogens 4.001
  rotatable bonds of glycerol: 2, with hydrogens 5
  acceptors of glycerol: 3, with hydrogens 3
  SPS of glycerol: 10, with hydrogens 35.33
  QED of glycerol: 0.3815, with hydrogens 0.3815
  logP of glycerol: -1.668, with hydrogens -1.668
  TPSA of glycerol: 60.69, with hydrogens 60.69
2026.09.1
  SA of ibuprofen: 2.192, with hydrogens 7.126
  rotatable bonds of ibuprofen: 4, with hydrogens 4
  acceptors of ibuprofen: 1, with hydrogens 2
  SPS of ibuprofen: 12.8, with hydrogens 36.27
  QED of ibuprofen: 0.8216, with hydrogens 0.8216
  logP of ibuprofen: 3.073, with hydrogens 3.073
  TPSA of ibuprofen: 37.3, with hydrogens 37.3
  SA of glycerol: 2.426, with hydrogens 4.001
  rotatable bonds of glycerol: 2, with hydrogens 5
  acceptors of glycerol: 3, with hydrogens 3
  SPS of glycerol: 10, with hydrogens 35.33
  QED of glycerol: 0.3815, with hydrogens 0.3815
  logP of glycerol: -1.668, with hydrogens -1.668
  TPSA of glycerol: 60.69, with hydrogens 60.69
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
