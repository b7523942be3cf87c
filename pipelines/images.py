"""Your own images: a folder, zip, tars or parquet files, as pixels or as latents.

Commands::

    reed-cache build images --data photos                               # pixels, 64x64
    reed-cache build images --data photos --set source.resolution=32
    reed-cache build images --data photos --latents sd-vae --set source.resolution=256

Classes are the top folders, or what lies beside the images; without any, all images are one class.
Captions beside the images are read if every image has one. The teacher, histograms of gradients,
needs no weights; --encoder names others, such as dinov2-b.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="image",
    source="images",
    base=("image", "labels"),
    encoders=("gradients",),
    shard_size=1024,
    optional={"caption": ("captions=captions-beside", "caption-ngrams")},
    settings={
        "source": {"resolution": 64, "one_class": True},
        "caption-ngrams": {"captions": "captions/text"},
    },
    latents="image",
)
