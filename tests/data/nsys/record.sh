#!/usr/bin/env bash
# Record, export and scrub the traces `nested` and `died` on a machine with a GPU and a complete nsys, with what
# `nsys stats` says of them. usage: record.sh DEST
set -u
here=$(cd "$(dirname "$0")" && pwd)
dest=${1:?usage: record.sh DEST}
mkdir -p "$dest"
for scene in nested died; do
  nsys profile --trace=cuda,nvtx --sample=none --cpuctxsw=none --cuda-graph-trace=node \
    --capture-range=cudaProfilerApi --capture-range-end=none --output="$dest/$scene" --force-overwrite=true \
    python3 "$here/record.py" $scene
  nsys export --type=sqlite --quiet=true --force-overwrite=true --output="$dest/$scene.raw.sqlite" "$dest/$scene.nsys-rep"
  for report in nvtx_gpu_proj_trace nvtx_gpu_proj_sum nvtx_kern_sum cuda_gpu_kern_sum; do
    nsys stats --quiet --report $report --format csv "$dest/$scene.raw.sqlite" >"$dest/$scene.$report.csv"
  done
  python3 -c "from pathlib import Path; from gpubench.profilers.scrub import scrub
scrub(Path('$dest/$scene.raw.sqlite'), Path('$dest/$scene.sqlite'))"
  rm "$dest/$scene.raw.sqlite" "$dest/$scene.nsys-rep"
done
