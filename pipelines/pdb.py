"""REED's protein experiment (arXiv 2507.08980): ProteinMPNN on chains of known structure.

Commands::

    reed-cache build pdb --data /data/pdb_2021aug02 --encoder esm2-650m
    reed-cache build pdb --data /data/pdb_2021aug02 --cache cache/pdb-valid --set source.split=valid
    reed-cache build pdb --data /data/structures          # a folder of PDB and mmCIF files

Data: the training data of ProteinMPNN (list.csv beside a folder pdb/), from which every epoch draws
one chain per cluster, or any folder of structures.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="protein",
    source="proteins",
    base=("chain",),
    encoders=("esm2-650m",),
    shard_size=512,
)
