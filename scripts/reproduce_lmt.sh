#!/usr/bin/env bash
# Table 1 and section 6 of "Lipschitz-Margin Training" (Tsuzuku, Sato & Sugiyama, NeurIPS 2018).
#
#   bash scripts/reproduce_lmt.sh [DATA [OUT]]      DEVICE=cuda: where the analysis runs
#
# SVHN with its extra images is a day or more a row on a GPU; MNIST is minutes on a CPU, but for its adversarial row.
# Each block can be copied by itself (with this head). The rows are conf/experiment/lmt/*.yaml, and each says what was
# published. A run that was stopped: lipcert train resume=PATH.
set -eu
DATA=${1:-./data}
OUT=${2:-outputs/lmt}
DEVICE=${DEVICE:-cpu}
rows() { local IFS=,; echo "$*"; } # a b c -> a,b,c, which -m sweeps over: the jobs are $OUT/TABLE/0, 1, ...

# Table 1, SVHN, WRN-16-4: clean, and under C&W (100 iterations) at l2 0.2 0.5 1.0.
# Weight decay 98.31 72.38 20.98 2.02; Parseval 98.30 71.35 17.92 0.94; spectral norm 98.27 73.66 20.35 1.39;
# LMT 96.38 86.90 55.11 17.69, its median certified radius above 0.029
TABLE1=$(rows lmt/table1_{weight_decay,parseval,spectral_norm,lmt})
lipcert train -m experiment="$TABLE1" data_dir="$DATA" output_dir="$OUT/table1"
lipcert compare "$OUT/table1"

# Section 6, the same with average-pooled shortcuts at c = 0.1: median certified radius above 0.08 at 86 clean
lipcert train -m experiment=lmt/svhn_average data_dir="$DATA" output_dir="$OUT/average"
lipcert compare "$OUT/table1/3" "$OUT/average"

# Section 6, MNIST, attacked by DeepFool. Median certified radius: naive 0.012, LMT 1.02; median distance: naive 0.97.
# Figure 4, error ratios (i) (ii) (iii): naive 39.9 1.13 1.82; LMT 1.42 1.02 1.15, all of them together 1.72;
# adversarial (iii) above 2.4
lipcert train -m experiment="$(rows lmt/mnist_{naive,adversarial,lmt})" data_dir="$DATA" output_dir="$OUT/mnist"
lipcert compare "$OUT/mnist"
for run in "$OUT"/mnist/{0,1,2}; do
  lipcert certify run="$run" analysis=tightness device="$DEVICE"
done
