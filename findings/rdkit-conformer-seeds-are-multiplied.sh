#!/usr/bin/env bash
# Versions:  rdkit 2023.9.6 and 2026.9.1, numpy 1.26.4, Python 3.11.
# Guess:     EmbedMultipleConfs(mol, n, randomSeed=s) starts one stream of random numbers at s, so its
#            n conformers differ from one another, and those of two seeds are independent samples.
# Behaviour: conformer i (from 0) is embedded with the seed (i + 1) * s. With s = 0 all conformers are
#            therefore the same one, n times, and nothing is said. With s = 1 and s = 2 the second
#            run is contained in the first: conformer i of seed 2 is conformer 2i + 1 of seed 1. Four
#            conformers from each of the seeds 1 to 5 are 13 and not 20.
# Hurt:      whoever fixes the seed to 0, as one does elsewhere, and takes the ensemble for a rigid
#            molecule (its spread is 0, a Boltzmann mean is one conformer); whoever adds conformers
#            by a second run with the next seed, or estimates an error over seeds 1, 2, 3: data sets
#            hold duplicates, and the error is too small. Seeds that are large primes far apart do
#            not share multiples. enableSequentialRandomSeeds adds the index in place of the
#            product, so that seed 0 works, and seeds nearer than n overlap as well.
# Source:    seen while checking that conformers of one molecule are independent.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/seeds.py" <<'PYTHON'
import rdkit
from rdkit import Chem
from rdkit.Chem import rdDistGeom

MOLECULE = Chem.AddHs(Chem.MolFromSmiles("CCOC(=O)c1ccccc1NC(C)CO"))


def conformers(seed: int, count: int, sequential: bool = False) -> list[bytes]:
    settings = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed
    if sequential:
        settings.enableSequentialRandomSeeds = True
    mol = Chem.Mol(MOLECULE)
    ids = rdDistGeom.EmbedMultipleConfs(mol, count, settings)
    return [mol.GetConformer(i).GetPositions().round(4).tobytes() for i in ids]


print(rdkit.__version__)
for seed in (0, 7):
    print(f"  10 conformers of seed {seed}: {len(set(conformers(seed, 10)))} different ones")
print(f"  seed 2 is every second of seed 1: {conformers(2, 5) == conformers(1, 10)[1::2]}")
several = [one for seed in range(1, 6) for one in conformers(seed, 4)]
print(f"  4 conformers of each seed from 1 to 5: {len(set(several))} different of {len(several)}")
print(f"  seed 0, sequential seeds: {len(set(conformers(0, 10, True)))} different ones of 10")
PYTHON

python3 -m venv "$work/venv"
for version in 2023.9.6 2026.9.1; do
  "$work/venv/bin/pip" install --quiet numpy==1.26.4 rdkit==$version
  "$work/venv/bin/python" "$work/seeds.py" | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
2023.09.6
  10 conformers of seed 0: 1 different ones
  10 conformers of seed 7: 10 different ones
  seed 2 is every second of seed 1: True
  4 conformers of each seed from 1 to 5: 13 different of 20
  seed 0, sequential seeds: 10 different ones of 10
2026.09.1
  10 conformers of seed 0: 1 different ones
  10 conformers of seed 7: 10 different ones
  seed 2 is every second of seed 1: True
  4 conformers of each seed from 1 to 5: 13 different of 20
  seed 0, sequential seeds: 10 different ones of 10
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
