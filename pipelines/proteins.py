"""Your own protein structures: a folder of PDB and mmCIF files, with a teacher without weights.

Commands::

    reed-cache build proteins --data structures
    reed-cache build proteins --data structures --set source.min_length=20

The pipeline `pdb` has the recipe of the paper, with a protein language model as the teacher.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="protein",
    source="proteins",
    base=("chain",),
    encoders=("structure",),
    shard_size=256,
)
