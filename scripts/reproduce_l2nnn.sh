#!/usr/bin/env bash
# Every table of "L2-Nonexpansive Neural Networks" (Qian & Wegman, ICLR 2019), and the two of the poster on it.
#
#   bash scripts/reproduce_l2nnn.sh [DATA [OUT]]      DEVICE=cuda: where the later attacks run
#
# All of it is days on a GPU; each block is a table and can be copied by itself (with this head). The rows are
# conf/experiment/l2nnn/*.yaml, and each says what was published. A run that was stopped: lipcert train resume=PATH.
set -eu
DATA=${1:-./data}
OUT=${2:-outputs/l2nnn}
DEVICE=${DEVICE:-cpu}
rows() { local IFS=,; echo "$*"; } # a b c -> a,b,c, which -m sweeps over: the jobs are $OUT/TABLE/0, 1, ...

# Table 1, MNIST. Natural 99.1 98.5 98.7 98.2; C&W with 1000 iterations, l2 3: 0.05 51.5 20.3 24.4 (models 1 to 4)
lipcert train -m experiment="$(rows l2nnn/table1_model{1,2,3,4})" data_dir="$DATA" output_dir="$OUT/table1"
# 100 iterations: 70.2 91.7 77.6 75.6; 10K: 0 16.0 20.1 24.4; 100K: 0 9.8 20.1 24.4; 1M: 0 7.6 20.1 24.4
for steps in 100 10000 100000; do # and 1000000, for who can wait
  for run in "$OUT"/table1/{0,1,2,3}; do
    lipcert attack run="$run" attack=carlini_wagner_l2 attack.steps=$steps attack.images=null device="$DEVICE"
  done
done
lipcert compare "$OUT/table1"

# Table 2, CIFAR-10. Natural 95.0 87.1 79.2 77.2; C&W with 1000 iterations, l2 1.5: 0 9.4 10.1 20.4
# (models 1 and 2 are small networks here, so their natural accuracy is out of reach)
lipcert train -m experiment="$(rows l2nnn/table2_model{1,2,3,4})" data_dir="$DATA" output_dir="$OUT/table2"
# 100: 0 13.9 10.2 20.8; 10K: 0 9.0 10.1 20.4; 1000 x 10: 0 8.7 10.1 20.4; 100K: 0 NA 10.1 20.4
for strength in "attack.steps=100" "attack.steps=10000" "attack.restarts=10"; do
  for run in "$OUT"/table2/{0,1,2,3}; do
    lipcert attack run="$run" attack=carlini_wagner_l2 "$strength" attack.images=null device="$DEVICE"
  done
done
lipcert compare "$OUT/table2"

# Table 3, what each part is for. No weight regularisation 99.4, gap 68.3, C&W 0; no L_c 99.2, 2.2, 8.9; max-pooling
# 98.8, 1.3, 9.9; one-sided ReLU 98.0, 2.5, 15.1; other omega: 98.8, C&W 19.1 and 98.4, C&W 22.6
TABLE3=$(rows l2nnn/table3_{no_weight_regularisation,no_confidence_loss,max_pooling,one_sided_relu,omega0.5,omega2.0})
lipcert train -m experiment="$TABLE3" data_dir="$DATA" output_dir="$OUT/table3"
lipcert compare "$OUT/table1/2" "$OUT/table3"

# Table 4, l_inf, of models 3 and 4 of tables 1 and 2 (trained anew: experiment=l2nnn/table4_mnist_model3, ...).
# MNIST 0.1: 90.9 92.4; 0.3: 7.0 44.0; CIFAR-10 8/256: 32.3 42.5. The paper's attack is C&W l_inf, ours PGD.
for model in 2 3; do
  lipcert attack run="$OUT/table1/$model" attack=pgd_linf "attack.eps=[0.1,0.3]" attack.steps=1000 device="$DEVICE"
  lipcert attack run="$OUT/table2/$model" attack=pgd_linf "attack.eps=[0.03125]" attack.steps=1000 device="$DEVICE"
done
lipcert compare "$OUT/table1/[23]" "$OUT/table2/[23]"

# Table 5, scrambled labels. L2NNN at 0, 25, 50, 75, 100 % random: 98.7 98.5 96.0 93.1 11.9
lipcert train -m experiment="$(rows l2nnn/table5_rand{0,25,50,75,100})" data_dir="$DATA" output_dir="$OUT/table5"
lipcert compare "$OUT/table5"

# Tables 6, 9, 10: accuracy against gap at 50, 25, 75 % random labels; test accuracy 79.0 ... 96.0, 92.6 ... 98.5,
# 49.8 ... 93.1
TABLE6=$(rows l2nnn/table6_omega{0.01_v50,0.03_v20,0.1_v10,0.3_v5,0.5_v2,1_v1})
TABLE9=$(rows l2nnn/table9_omega{0.01_v50,0.1_v10,0.5_v2,1_v1})
TABLE10=$(rows l2nnn/table10_omega{0.003_v100,0.01_v50,0.03_v20,0.1_v10,0.3_v5,0.5_v2,1_v1})
lipcert train -m experiment="$TABLE6" data_dir="$DATA" output_dir="$OUT/table6"
lipcert train -m experiment="$TABLE9" data_dir="$DATA" output_dir="$OUT/table9"
lipcert train -m experiment="$TABLE10" data_dir="$DATA" output_dir="$OUT/table10"
for table in 6 9 10; do lipcert compare "$OUT/table$table"; done

# Tables 7 and 8: ordinary networks of 4 and 22 layers on scrambled labels; table 5 prints the better of the two.
# Vanilla at 0, 25, 50, 75, 100 %: 98.9 82.5 57.7 32.1 9.5 and 99.4 90.4 65.5 41.5 9.7
# Early stopping is the mean of ten held-out sets, here of ten seeds: 99.0 79.1 66.4 52.7 and 99.0 96.2 81.0 75.2
SEEDS=0,1,2,3,4,5,6,7,8,9
for table in 7 8; do
  TABLE=$(rows l2nnn/table${table}_rand{0,25,50,75,100}_{vanilla,wd,dropout})
  STOPPED=$(rows l2nnn/table${table}_rand{0,25,50,75,100}_{early_stopping,wd_dropout_early_stopping})
  lipcert train -m experiment="$TABLE" data_dir="$DATA" output_dir="$OUT/table$table"
  lipcert train -m experiment="$STOPPED" seed=$SEEDS data_dir="$DATA" output_dir="$OUT/table${table}_stopped"
  lipcert compare "$OUT/table$table" "$OUT/table${table}_stopped"
done

# The poster, MNIST: accuracy for w = 0, 0.1, 0.5, without and with division before convolution.
# ConvNet 86.89 82.30, 88.83 99.00, 79.37 97.42; ResNet 66.94 20.37, 75.05 98.83, 90.44 93.92. Its FGSM and PGD rows
# above 15 are masked gradients, and its ResNet had no valid bound: neither should come out here.
# With w = 0 nothing bounds L_c, and training may end in a loss that is not finite: the other jobs go on.
for table in 1 2; do
  TABLE=$(rows l2nnn/poster_table${table}_w{0,0.1,0.5}_{no_dbc,dbc})
  lipcert train -m experiment="$TABLE" data_dir="$DATA" output_dir="$OUT/poster$table" || echo "some jobs failed"
  DONE=("$OUT/poster$table"/*/summary.json)
  for run in "${DONE[@]%/summary.json}"; do
    lipcert attack run="$run" attack=fgsm device="$DEVICE"
  done
  lipcert compare "${DONE[@]%/summary.json}"
done
