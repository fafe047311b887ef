"""The commands, one file each: `lipcert train` is `lipcert.tasks.train.run`, and `conf/train.yaml` its keywords."""
