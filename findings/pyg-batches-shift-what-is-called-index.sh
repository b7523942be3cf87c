#!/usr/bin/env bash
# Versions:  torch_geometric 2.5.3 and 2.8.1, torch 2.14.1, numpy 2.4.6, Python 3.11, on a CPU.
# Guess:     a batch of graphs joins an attribute that one has added oneself, and leaves its values:
#            edge_index alone is shifted, as it holds numbers of atoms.
# Behaviour: whatever has "index" in its name is shifted by the atoms before it, a plain int too, and
#            what has "batch" in its name by one more than the largest value so far. The number of a
#            molecule in its data set becomes that of another molecule. As sample_id it stays.
# Hurt:      whoever keeps the place of a molecule (index, cache_index, conformer_index) to look up
#            features, targets or splits of it: every graph but the first of a batch gets those of
#            another one, mostly within range, and nothing is said.
# Source:    torch_geometric/data/data.py (__inc__).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/batch.py" <<'PYTHON'
import torch
import torch_geometric
from torch_geometric.data import Batch, Data

bonds = torch.zeros(2, 0, dtype=torch.long)
graphs = [
    Data(
        x=torch.zeros(atoms, 1),
        edge_index=bonds,
        index=i,
        cache_index=torch.tensor([i]),
        batch_no=torch.tensor([i]),
        sample_id=torch.tensor([i]),
    )
    for i, atoms in enumerate((3, 4, 5))
]
batch = Batch.from_data_list(graphs)
print(torch_geometric.__version__)
for name in ("index", "cache_index", "batch_no", "sample_id"):
    print(f"  {name}: {[int(each[name]) for each in graphs]} in graphs", end=", ")
    print(f"{batch[name].tolist()} in their batch")
PYTHON

python3 -m venv "$work/venv"
for version in 2.5.3 2.8.1; do
  "$work/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 torch_geometric==$version
  "$work/venv/bin/python" "$work/batch.py" 2> /dev/null | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
2.5.3
  index: [0, 1, 2] in graphs, [0, 4, 9] in their batch
  cache_index: [0, 1, 2] in graphs, [0, 4, 9] in their batch
  batch_no: [0, 1, 2] in graphs, [0, 2, 5] in their batch
  sample_id: [0, 1, 2] in graphs, [0, 1, 2] in their batch
2.8.1
  index: [0, 1, 2] in graphs, [0, 4, 9] in their batch
  cache_index: [0, 1, 2] in graphs, [0, 4, 9] in their batch
  batch_no: [0, 1, 2] in graphs, [0, 2, 5] in their batch
  sample_id: [0, 1, 2] in graphs, [0, 1, 2] in their batch
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
