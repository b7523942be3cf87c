"""MOSES: 1.58 million lead-like molecules as SMILES, with computed conformers and ChemNet.

Commands::

    make data-moses                                           # into data/, from PyPI
    reed-cache build moses --data data/moses/train/000.csv    # the first 10,000
    reed-cache build moses --data data/moses/train            # all of them

The processes that read the SMILES compute a conformer each (ETKDG). The teacher is ChemNet of the
package fcd, which reads the SMILES and knows no coordinates.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="molecule",
    source="molecules",
    base=("molecule",),
    encoders=("chemnet",),
    shard_size=1000,
    settings={"chemnet": {"weights": "data/weights/ChemNet_v0.13_pretrained.pt"}},
    codecs=("chemnet/sample=standard+int8",),
)
