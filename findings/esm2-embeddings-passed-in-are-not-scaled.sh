#!/usr/bin/env bash
# Versions:  transformers 4.57.3 and 5.24.0, torch 2.14.1, Python 3.11, on a CPU.
# Guess:     inputs_embeds replaces the lookup and nothing else, so an ESM-2 that is given
#            get_input_embeddings()(ids) answers as it answers to ids.
# Behaviour: it answers otherwise. The published ESM-2 configurations have token_dropout, by which the
#            embeddings of a sequence are multiplied by (1 - 0.15 * 0.8) / (1 - share of <mask>), in
#            evaluation too. The product is made only where ids are given: embeddings passed in are
#            1 / 0.88 = 1.136 times as large as those that the first block was trained on.
# Hurt:      gradients with respect to embeddings (saliency, integrated gradients), soft prompts and
#            sequence design by gradients: they study a net that is not the one that was published,
#            with no warning. Whoever passes embeddings multiplies them by 0.88 (no masks).
# Source:    seen while comparing states of ESM-2 from ids and from embeddings.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/embeds.py" <<'PYTHON'
import torch
import transformers
from transformers import EsmConfig, EsmModel

torch.manual_seed(0)
config = EsmConfig(
    vocab_size=33, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=64, pad_token_id=1, mask_token_id=32, position_embedding_type="rotary",
    token_dropout=True,
)
net = EsmModel(config).eval()
ids = torch.randint(4, 24, (1, 20))
here = torch.ones_like(ids)
rows = net.get_input_embeddings()(ids)


def shown(name: str, a: torch.Tensor, b: torch.Tensor) -> None:
    print(f"  {name}: {'equal' if torch.allclose(a, b, atol=1e-6) else 'different'}")


print(transformers.__version__)
with torch.no_grad():
    first = net.embeddings(input_ids=ids, attention_mask=here)
    passed = net.embeddings(inputs_embeds=rows, attention_mask=here)
    print(f"  embeddings passed in / looked up: {(passed / first).median():.4f}")
    states = net(input_ids=ids, attention_mask=here).last_hidden_state
    for name, given in (("states", rows), ("states, embeddings times 0.88", 0.88 * rows)):
        shown(name, states, net(inputs_embeds=given, attention_mask=here).last_hidden_state)
PYTHON

python3 -m venv "$work/venv"
for version in 4.57.3 5.24.0; do
  "$work/venv/bin/pip" install --quiet torch==2.14.1 transformers==$version
  "$work/venv/bin/python" "$work/embeds.py" 2> /dev/null | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
4.57.3
  embeddings passed in / looked up: 1.1364
  states: different
  states, embeddings times 0.88: equal
5.24.0
  embeddings passed in / looked up: 1.1364
  states: different
  states, embeddings times 0.88: equal
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
