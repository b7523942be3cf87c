"""Your own molecules: SDF files, or lists of SMILES, with RDKit's descriptors as the teacher.

Commands::

    reed-cache build molecules --data molecules.sdf
    reed-cache build molecules --data list.smi          # conformers are computed

The pipeline `geom` has the recipe of the paper.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="molecule",
    source="molecules",
    base=("molecule",),
    encoders=("rdkit3d",),
    shard_size=256,
    # All channels: how many components could be kept would depend on the number of molecules.
    codecs=("rdkit3d/sample=standard+int8",),
)
