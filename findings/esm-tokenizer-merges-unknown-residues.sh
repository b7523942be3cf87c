#!/usr/bin/env bash
# Versions:  transformers 4.57.3 and 5.24.0, Python 3.11.
# Guess:     the tokenizer of ESM-2 gives one token per letter, and <unk> for a letter that it does not
#            know, so that residue i is token i + 1.
# Behaviour: a run of letters that it does not know becomes a single <unk>. Lower case is unknown, as
#            are J and the stop *. A stretch of four soft-masked residues is one token, and every
#            residue behind it has the features of another position.
# Hurt:      whoever feeds FASTA with soft-masked stretches, rows of an a3m alignment (insertions in
#            lower case) or translations with stops, and cuts features by position: the array is
#            shorter than the chain, and in a padded batch this does not show. Put sequences in upper
#            case, J and * as X, or compare the lengths.
# Source:    seen while checking residue-wise features against lengths of chains.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/tokens.py" <<'PYTHON'
import sys

import transformers
from transformers import EsmTokenizer

LETTERS = "L A G V S E R T I D P K Q N F Y M H W C X B U Z O . -"
tokens = f"<cls> <pad> <eos> <unk> {LETTERS} <null_1> <mask>".split()
with open(f"{sys.argv[1]}/vocab.txt", "w") as file:
    file.write("\n".join(tokens))
tokenizer = EsmTokenizer(f"{sys.argv[1]}/vocab.txt")

print(transformers.__version__)
for chain in ("MKACDELV", "MKacdeLV", "MKJJLV", "MKLV**", "MK*LV"):
    ids = tokenizer(chain)["input_ids"][1:-1]
    print(f"  {chain}: {len(chain)} letters, {len(ids)} tokens, the L is", end=" ")
    print(f"letter {chain.index('L')} and token {ids.index(tokens.index('L'))}")
PYTHON

python3 -m venv "$work/venv"
for version in 4.57.3 5.24.0; do
  "$work/venv/bin/pip" install --quiet transformers==$version
  "$work/venv/bin/python" "$work/tokens.py" "$work" 2> /dev/null | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
4.57.3
  MKACDELV: 8 letters, 8 tokens, the L is letter 6 and token 6
  MKacdeLV: 8 letters, 5 tokens, the L is letter 6 and token 3
  MKJJLV: 6 letters, 5 tokens, the L is letter 4 and token 3
  MKLV**: 6 letters, 5 tokens, the L is letter 2 and token 2
  MK*LV: 5 letters, 5 tokens, the L is letter 3 and token 3
5.24.0
  MKACDELV: 8 letters, 8 tokens, the L is letter 6 and token 6
  MKacdeLV: 8 letters, 5 tokens, the L is letter 6 and token 3
  MKJJLV: 6 letters, 5 tokens, the L is letter 4 and token 3
  MKLV**: 6 letters, 5 tokens, the L is letter 2 and token 2
  MK*LV: 5 letters, 5 tokens, the L is letter 3 and token 3
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
