#!/usr/bin/env bash
# Versions:  torch 2.14.1, accelerate 1.15.0, webdataset 1.0.2, datasets 5.2.0, numpy 2.4.6,
#            Python 3.11, on a CPU.
# Guess:     runs with the seeds 0, 1 and 2 see the data in orders that have nothing to do with one
#            another, as repeated runs for an error bar should.
# Behaviour: torch's DistributedSampler, Accelerate's seedable sampler (the one that a shuffled loader
#            gets in prepare() with use_seedable_sampler=True) and webdataset's detshuffle seed their
#            generator with seed + epoch. Epoch e of seed s is epoch e + 1 of seed s - 1, index for
#            index: five runs of 10 epochs with the seeds 0 to 4 have 14 orders among them, not 50.
#            A shuffled IterableDataset of datasets mixes the two, and its orders differ.
# Hurt:      whoever estimates the spread over seeds 0, 1, 2, ... of runs with several epochs: the
#            runs share nearly all of their orders, and what the order of the data adds to the
#            spread is underestimated. Seeds that are further apart than the epochs of a run are
#            enough.
# Source:    seen while comparing loaders; torch/utils/data/distributed.py, accelerate/data_loader.py.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/orders.py" <<'PYTHON'
import datasets
import webdataset
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

datasets.disable_progress_bars()
DATA = list(range(32))
ACCELERATOR = Accelerator(dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))


def of_torch(seed: int, epoch: int) -> tuple[int, ...]:
    sampler = DistributedSampler(DATA, num_replicas=1, rank=0, seed=seed)
    sampler.set_epoch(epoch)
    return tuple(sampler)


def of_accelerate(seed: int, epoch: int) -> tuple[int, ...]:
    set_seed(seed)
    loader = ACCELERATOR.prepare(DataLoader(DATA, shuffle=True))
    loader.set_epoch(epoch)
    return tuple(int(each) for each in loader)


def of_webdataset(seed: int, epoch: int) -> tuple[int, ...]:
    shuffle = webdataset.detshuffle(bufsize=64, seed=seed, epoch=epoch - 1)
    return tuple(shuffle.run(iter(DATA)))


def of_datasets(seed: int, epoch: int) -> tuple[int, ...]:
    stream = datasets.Dataset.from_dict({"i": DATA}).to_iterable_dataset()
    stream = stream.shuffle(seed=seed, buffer_size=64)
    stream.set_epoch(epoch)
    return tuple(each["i"] for each in stream)


for name, order in (
    ("torch", of_torch),
    ("accelerate", of_accelerate),
    ("webdataset", of_webdataset),
    ("datasets", of_datasets),
):
    same = order(1, 0) == order(0, 1) and order(2, 3) == order(0, 5)
    count = len({order(seed, epoch) for seed in range(5) for epoch in range(10)})
    print(f"{name}: epoch 0 of seed 1 is epoch 1 of seed 0: {same}; 50 epochs of 5 seeds: {count} orders")
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.14.1 accelerate==1.15.0 webdataset==1.0.2 \
  datasets==5.2.0 numpy==2.4.6
"$work/venv/bin/python" "$work/orders.py" 2> /dev/null | tee "$work/seen"

cat > "$work/expected" <<'TEXT'
torch: epoch 0 of seed 1 is epoch 1 of seed 0: True; 50 epochs of 5 seeds: 14 orders
accelerate: epoch 0 of seed 1 is epoch 1 of seed 0: True; 50 epochs of 5 seeds: 14 orders
webdataset: epoch 0 of seed 1 is epoch 1 of seed 0: True; 50 epochs of 5 seeds: 14 orders
datasets: epoch 0 of seed 1 is epoch 1 of seed 0: False; 50 epochs of 5 seeds: 50 orders
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
