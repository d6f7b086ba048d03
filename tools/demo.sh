#!/usr/bin/env bash
# The whole main job on drawn images, on the CPU: draw, prepare, train, evaluate, predict. Called by `make demo`.
# What is done already is not done again.
set -euo pipefail
# Images this small gain little from threads, and lose much where other programs compute: threads wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
raw=output/demo_images data=datasets/demo run=output/demo

say() { printf '\n== %s\n' "$*"; }

say "draw 300 dermoscopy images"
python tools/make_synthetic.py --count 300 --size 256 --out "$raw" --seed 0
say "prepare them as a COCO data set"
python tools/prepare_dataset.py --images "$raw/images" --masks "$raw/masks" --labels "$raw/labels.csv" --out "$data" --max-size 192
if [ -f "$run/model_final.pth" ]; then
    say "trained already: $run"
else
    say "train a small Mask R-CNN from scratch on the CPU (log: $run/log.txt)"
    python tools/train_net.py --config-file configs/demo.yaml --num-gpus 0 --resume
fi
say "evaluate it on the held-out images"
python tools/evaluate.py --run "$run"
say "outline the lesions of held-out images"
awk -F, -v folder="$PWD/$raw/images/" '$4 == "val" {print folder $2}' "$data/split.csv" > "$run/held_out.txt"
python tools/predict.py --input "$run/held_out.txt" --weights "$run/model_best.pth" --save overlay,mask,csv
say "done: scores of the held-out images"
head -n 5 "$run/inference/demo_val/scores.md"
echo "overlays:   $run/predictions/overlay"
echo "masks:      $run/predictions/mask"
echo "all scores: $run/inference/demo_val/scores.md"
