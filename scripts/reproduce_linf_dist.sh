#!/usr/bin/env bash
# Every table of "Towards Certifying l_inf Robustness using Neural Networks with l_inf-dist Neurons" (Zhang et al., ICML
# 2021), and of its follow-up (Zhang et al., ICLR 2022) the five rows that its code gives.
#
#   bash scripts/reproduce_linf_dist.sh [DATA [OUT]]
#
# All of it is weeks on a GPU; each block is a table and can be copied by itself (with this head). The rows are
# conf/experiment/linf_dist/*.yaml, and each says what was published. A run that was stopped: lipcert train resume=PATH.
set -eu
DATA=${1:-./data}
OUT=${2:-outputs/linf_dist}
SEEDS=2020,2021,2022,2023,2024,2025,2026,2027 # 2020 is the authors'
rows() { local IFS=,; echo "$*"; } # a b c -> a,b,c, which -m sweeps over: the jobs are $OUT/TABLE/0, 1, ...

# Table 1. Clean, PGD-20 and certified, the median of 8 runs. MNIST 0.3: 98.54 94.71 92.64 (net), 98.56 95.28 93.09
# (net and perceptron); Fashion-MNIST 0.1: 87.91 79.64 77.48, 87.91 80.89 79.23; CIFAR-10 8/255: 56.80 37.46 33.30,
# 50.80 37.06 35.42. Table 4, seconds an epoch of CIFAR-10: the column `seconds` of metrics.csv; 19.7 on an RTX 3090.
for row in table1_{mnist,fashion_mnist,cifar10}_{net,net_mlp}; do
  lipcert train -m experiment=linf_dist/$row seed=$SEEDS data_dir="$DATA" output_dir="$OUT/table1/$row"
done
# Published IBP: 97.88 93.22 91.79; 84.12 80.58 77.67; 50.99 31.27 29.19
IBP=$(rows linf_dist/table1_{mnist,fashion_mnist,cifar10}_ibp)
lipcert train -m experiment="$IBP" data_dir="$DATA" output_dir="$OUT/table1/ibp"
lipcert compare "$OUT/table1"
# compare shows means and deviations; the medians:
python3 - "$OUT/table1" <<'MEDIANS'
import json, pathlib, statistics, sys

for row in sorted(pathlib.Path(sys.argv[1]).glob("table1_*")):
    runs = [json.loads(path.read_text()) for path in row.glob("*/summary.json")]
    robust = [accuracy for run in runs for at in run["robust_accuracy"].values() for accuracy in at.values()]
    certified = [accuracy for run in runs for accuracy in run["certified_accuracy"].values()]
    columns = [run["clean_accuracy"] for run in runs], robust, certified
    print(row.name, len(runs), "runs:", *(f"{100 * statistics.median(column):.2f}" for column in columns))
MEDIANS

# Table 2, TinyImageNet 1/255: 21.82 18.09 16.31
lipcert train -m experiment=linf_dist/table2_tiny_imagenet_net_mlp data_dir="$DATA" output_dir="$OUT/table2"
lipcert compare "$OUT/table2"

# Table 3, what each part is for, CIFAR-10 8/255; row E is table 1's. Net: 28.21 8.42 7.02, 55.63 35.28 32.56,
# 56.15 35.96 32.71, 53.64 32.12 29.01; with perceptron: 37.68 28.72 27.76, 37.61 30.99 29.71, 48.97 36.21 35.02,
# 45.34 33.48 32.49. In an hour on a CPU: add dataset=mnist model.width=256 schedule.epochs=20.
lipcert train -m experiment="$(rows linf_dist/table3_{a,b,c,d}_{net,net_mlp})" data_dir="$DATA" output_dir="$OUT/table3"
lipcert compare "$OUT"/table1/table1_cifar10_net "$OUT"/table1/table1_cifar10_net_mlp "$OUT/table3"

# Table 7, accuracy in tests of 5 to 10 layers. Gaussian start: 55.76 55.85 56.77 56.72 55.94 55.04; identity:
# 56.56 56.80 57.06 56.64 57.01 57.18
TABLE7=$(rows linf_dist/table7_{gaussian,identity}_{5,6,7,8,9,10})
lipcert train -m experiment="$TABLE7" data_dir="$DATA" output_dir="$OUT/table7"
lipcert compare "$OUT/table7"

# Table 9, convolutional, CIFAR-10 8/255: 49.17 37.23 34.30
lipcert train -m experiment=linf_dist/table9_conv_net_mlp data_dir="$DATA" output_dir="$OUT/table9"
lipcert compare "$OUT"/table1/table1_cifar10_net_mlp "$OUT/table9"

# The follow-up, clean, PGD-100 and certified. MNIST 0.1: 98.93 98.03 97.95; 0.3: 98.56 94.73 93.20; CIFAR-10 2/255:
# 60.61 54.28 54.12; 8/255: 54.30 41.84 40.06; 16/255: 48.50 32.73 29.04
ICLR2022=$(rows linf_dist/iclr2022_{mnist_0.1,mnist_0.3,cifar10_2,cifar10_8,cifar10_16})
lipcert train -m experiment="$ICLR2022" seed=2021 data_dir="$DATA" output_dir="$OUT/iclr2022"
lipcert compare "$OUT/iclr2022"
