"""The files of a run's directory, by name."""

from __future__ import annotations

CONFIG = "config.yaml"  # the resolved configuration
MANIFEST = "manifest.json"  # the hashes of the files below, and of the data
CHECKPOINT = "checkpoints/last.ckpt"  # what a stopped training goes on from
METRICS = "metrics.csv"  # a row an epoch of training
LOGGER = "logger.json"  # what the service of its logger calls the run
TRAINING = "training.json"  # what was trained, and for how long
NETWORK = "network"  # the frozen network: a folder of two files
CERTIFICATES = "certificates.csv"  # a row an image and certificate
CERTIFICATE_FACTS = "certificates.json"  # what each certificate rests on
ATTACKS = "attacks.csv"  # a row an image, attack and eps
ATTACK_FACTS = "attacks.json"  # what each attack was asked for, and what it took
ADVERSARIAL = "adversarial"  # a folder: a file of each attack whose images were to be kept
AUDIT = "audit.csv"  # a row an image whose proved radius was attacked
AUDIT_FACTS = "audit.json"  # what the audit was made with, what it took, and what it found
AUDIT_EPS = "audit_eps.csv"  # a row an image that was attacked at one eps, of which nothing is proved
AUDIT_EPS_FACTS = "audit_eps.json"  # the same of these
AUDIT_SELF_TEST = "audit_self_test.json"  # forged certificates, and which of them the audit caught
STABILITY = "stability.csv"  # a row an image: how steep the network is there
LABEL_NOISE = "label_noise.csv"  # the training labels that were replaced
SUMMARY = "summary.json"  # what the run claims; written last
CURVES = "curves"  # .png and .svg: accuracy against the radius
COUNTEREXAMPLES = "counterexamples"  # a file for each image that broke a certificate
LOCK, HOLDER = ".lock", ".lock.json"  # held by who writes; who that is
FAILURE, RANKS_LOG = "failure.txt", "ranks{}.log"  # of the ranks of a training, while it runs
RANKS_FOLDER = ".ranks{}.partial"  # where torchrun keeps files of its own

# What computes a file anew where it is damaged; of the others, training does.
CERTIFIED, ATTACKED = (CERTIFICATE_FACTS, CERTIFICATES, STABILITY), (ATTACK_FACTS, ATTACKS)
REMEDIES = {
    **dict.fromkeys(CERTIFIED, "`lipcert certify run={0}` computes it anew"),
    **dict.fromkeys(ATTACKED, "`lipcert attack run={0}`, with the same attack, computes it anew"),
    ADVERSARIAL: "`lipcert attack run={0} save_images=true`, with the same attack, finds its images anew",
    **dict.fromkeys((AUDIT, AUDIT_FACTS), "`lipcert audit run={0} again=true` computes it anew"),
    **dict.fromkeys(
        (AUDIT_EPS, AUDIT_EPS_FACTS), "`lipcert audit run={0} again=true`, with its norm and eps, computes it anew"
    ),
    AUDIT_SELF_TEST: "`lipcert audit run={0} self_test=true` writes it anew",
    TRAINING: "the record does without it",
    LOGGER: "its service shows the run anew without it",
    SUMMARY: "`lipcert train resume={0}` writes it anew",
}

SWEEP = "sweep.json"  # of a sweep's directory: its jobs, known by their configurations
