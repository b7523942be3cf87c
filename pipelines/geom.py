"""REED's molecule experiment (arXiv 2507.08980): molecules with conformers from GEOM or QM9.

Commands::

    reed-cache build geom --data /data/geom --set source.split=train     # train_data.pickle, ...
    reed-cache build geom --data /data/geom/rdkit_folder
    reed-cache build geom --data /data/qm9 --cache cache/qm9             # gdb9.sdf
    reed-cache build geom --data /data/molecules                         # SDF files, SMILES

Data: GEOM-DRUGS in the split of MiDi or SemlaFlow, the rdkit_folder of GEOM, the gdb9.sdf of QM9,
or any SDF files and lists of SMILES. The processes that read SMILES compute conformers for them.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="molecule",
    source="molecules",
    base=("molecule",),
    encoders=("rdkit3d",),
    shard_size=1024,
)
