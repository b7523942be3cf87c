#!/bin/bash
# Trains on several machines; call it on each of them, with its own NODE, counted from 0:
#   bash train-node.sh NODES NODE FIRST_MACHINE PROCESSES --shards CACHE --run RUN ...
# When a machine is lost, the launchers of the others end with an error and are started again: they
# wait for it, and all go on from the last checkpoint. RUN must be on a file system that all share.
nodes=$1 node=$2 first=$3 processes=$4
shift 4
for try in 1 2 3 4 5 6; do
    torchrun --nnodes "$nodes" --node-rank "$node" --master-addr "$first" --master-port 29500 \
        --nproc-per-node "$processes" --max-restarts 0 -m -- reed.cli.train "$@" && exit
    echo "attempt $try has ended with an error" >&2
    sleep 5
done
exit 1
