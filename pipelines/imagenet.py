r"""REED's image experiment (arXiv 2507.08980): SiT-XL/2 on latents of ImageNet-1k at 256x256.

Commands::

    reed-cache build imagenet --data /data/imagenet/train
    accelerate launch -m reed.cli.train --shards cache/imagenet                  # REED
    accelerate launch -m reed.cli.train --shards cache/imagenet --variant repa   # DINOv2 alone
    accelerate launch -m reed.cli.train --shards cache/imagenet --variant sit    # no alignment
    torchrun --nproc-per-node 8 -m -- reed.cli.sample --run runs/imagenet --num 50000 \
        --sampler sde --steps 250 --guidance 1.275 --labels random --rounding down

Data: the folders n01440764 ... n15075141 of the training set, 1,281,167 images, cropped as in ADM.
Images are not mirrored, as in REPA and REED.

Size of the cache (calculated): latents 21 GB (float16), DINOv2-B tokens 252 GB (int8), embeddings
9 GB (float16).

Hours (an estimate, not measured): one million steps of 256 are 256 million images. At the 173
images/s per H100 that REPA reports with its encoder online, 8 H100 need 51 hours. Stage one runs
the encoders over the data once.

reed/experiments/reproduce_image.py lists the numbers of the papers.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="image",
    source="images",
    base=("sd-vae", "labels"),
    encoders=("dinov2-b", "captions", "qwen2-vl-7b"),
    shard_size=1024,
)
