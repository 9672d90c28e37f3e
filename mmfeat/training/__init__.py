"""Training inside a project, shared by fuse, finetune, compare, sweep and selftrain."""
