"""ImageNet-1k at 256 x 256: REED's image experiment (arXiv 2507.08980), SiT-XL/2 on latents.

    reed-cache build imagenet --data /data/imagenet/train
    accelerate launch -m reed.cli.train --shards cache/imagenet                  # REED
    accelerate launch -m reed.cli.train --shards cache/imagenet --variant repa   # DINOv2 alone
    accelerate launch -m reed.cli.train --shards cache/imagenet --variant sit    # no alignment
    torchrun --nproc-per-node 8 -m -- reed.cli.sample --run runs/imagenet --num 50000 \\
        --sampler sde --steps 250 --guidance 1.275 --labels random --rounding down

Data: the folders n01440764 ... n15075141 of the training set, 1,281,167 images, cropped as ADM
does. Nothing is mirrored, as in REPA and REED.

Cache, by arithmetic: latents 21 GB (float16), DINOv2-B tokens 252 GB (int8), embeddings 9 GB
(float16).

Hours, an estimate and not measured: one million steps of 256 are 256 million images; at the 173
images/s per H100 that REPA reports with its encoder online, 8 H100 need 51 hours. Stage one takes
the encoders' forward passes over the data once.

Expected FID-50K, by ADM's suite; the numbers are those of the papers, none is ours. REED's and
SiT's, and REPA's up to 300K steps, are read off a figure of REED's (2 percent):

    steps, no guidance     50K   100K   200K   300K   400K    1M    7M
    REED                  37.9   15.9    9.7    8.2    7.3   4.7
    REPA                  52.3   19.4   11.1           7.9   6.4
    SiT-XL/2              79.5   41.9   26            17.2          8.3

    with guidance over the whole interval, SDE, 250 steps, at 1M steps (200 epochs):
    REED 1.80 (1.275; IS 267.5, precision 0.81, recall 0.61); REPA 1.96 (its 1.80 takes 800 epochs).
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="image",
    source="images",
    base=("sd-vae", "labels"),
    encoders=("dinov2-b", "captions", "qwen2-vl-7b"),
    shard_size=1024,
)

# step -> FID-50K without guidance, and with guidance 1.275
PUBLISHED = {
    "REED": {50_000: 37.9, 100_000: 15.9, 200_000: 9.7, 300_000: 8.2, 400_000: 7.3, 1_000_000: 4.7},
    "REPA": {50_000: 52.3, 100_000: 19.4, 200_000: 11.1, 400_000: 7.9, 1_000_000: 6.4},
    "SiT-XL/2": {50_000: 79.5, 100_000: 41.9, 200_000: 26.0, 400_000: 17.2, 7_000_000: 8.3},
}
GUIDED = {"REED": {1_000_000: 1.80}, "REPA": {1_000_000: 1.96}}
