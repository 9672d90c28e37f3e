"""Training inside a project: what fuse, finetune, compare, sweep and selftrain share."""
