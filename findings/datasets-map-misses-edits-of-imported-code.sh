#!/usr/bin/env bash
# Versions:  datasets 5.2.0, Python 3.11.
# Guess:     map() takes its result from the cache only where the function would give it again: the
#            cache is found by a hash of the function and of what it uses, and an edit changes it.
# Behaviour: a function in the script is hashed by its code, one that is imported by its name. After
#            an edit of an imported module, a new process gets the rows that the old code made,
#            also where map() is given a function of the (unchanged) script that calls it.
# Hurt:      whoever computes features, latents or tokens with map() and keeps the encoder in a module:
#            after a bug in it is mended, training goes on with the old features, and nothing is said.
#            load_from_cache_file=False, or a new_fingerprint that names the version, helps.
# Source:    seen while comparing caches of features; datasets/utils/_dill.py.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > rows.py <<'PYTHON'
import pyarrow
import pyarrow.parquet

pyarrow.parquet.write_table(pyarrow.table({"x": [1, 2, 3]}), "rows.parquet")
PYTHON

cat > features.py <<'PYTHON'
import datasets
import encoder

datasets.disable_progress_bars()
rows = datasets.load_dataset("parquet", data_files="rows.parquet", split="train")


def calls(row):
    return encoder.encode(row)


print(f"{datasets.__version__}, encode gives {encoder.encode({'x': 1})['y']} for 1")
for name, function in (("imported", encoder.encode), ("calls it", calls)):
    print(f"  {name}: {list(rows.map(function)['y'])}")
PYTHON

python3 -m venv venv
venv/bin/pip install --quiet datasets==5.2.0
venv/bin/python rows.py
export HF_HOME="$work/home"
for factor in 2 1000; do
  printf 'def encode(row):\n    return {"y": row["x"] * %s}\n' $factor > encoder.py
  venv/bin/python features.py 2> /dev/null | tee -a seen
done

cat > expected <<'TEXT'
5.2.0, encode gives 2 for 1
  imported: [2, 4, 6]
  calls it: [2, 4, 6]
5.2.0, encode gives 1000 for 1
  imported: [2, 4, 6]
  calls it: [2, 4, 6]
TEXT
diff expected seen && echo "as described above"
