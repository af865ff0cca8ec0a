"""Words of other suites for settings and commands, and the key or command of dcnlab that each stands for."""

from __future__ import annotations

KEYS = {
    "amp": "trainer.precision",
    "arch": "model.backbone.name",
    "backbone": "model.backbone.name",
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "conf": "test.score_floor",
    "data_dir": "data.root",
    "dataset": "data.name",
    "device": "trainer.devices",
    "early_stopping": "trainer.early_stop",
    "epochs": "trainer.max_epochs",
    "fp16": "trainer.precision",
    "gpus": "trainer.devices",
    "gradient_clip_val": "optim.clip_norm",
    "image_root": "data.root",
    "img_size": "data.image_size",
    "imgsz": "data.image_size",
    "iterations": "trainer.max_steps",
    "learning_rate": "optim.lr",
    "lr_schedule": "optim.schedule",
    "max_iter": "trainer.max_steps",
    "nc": "data.classes",
    "num_classes": "data.classes",
    "num_epochs": "trainer.max_epochs",
    "num_gpus": "trainer.devices",
    "num_steps": "trainer.max_steps",
    "num_workers": "data.workers",
    "optimizer": "optim.name",
    "output_dir": "out",
    "patience": "trainer.early_stop",
    "pretrained": "model.backbone.weights",
    "random_seed": "seed",
    "save_dir": "out",
    "scheduler": "optim.schedule",
    "steps": "trainer.max_steps",
    "wd": "optim.weight_decay",
    "work_dir": "out",
}
"""Last parts of keys, as torchvision, ultralytics, detectron2, mmdetection and Lightning write them."""

COMMANDS = {
    "detect": "predict",
    "eval": "evaluate",
    "help": "--help",
    "infer": "predict",
    "inference": "predict",
    "ls": "list",
    "plot": "visualize",
    "show": "visualize",
    "test": "evaluate",
    "train": "fit",
    "val": "evaluate",
    "validate": "evaluate",
    "version": "--version",
}
"""First words of a command line."""

PRECISIONS = {
    "16": "16-mixed",
    "32": "32-true",
    "64": "64-true",
    "amp": "16-mixed",
    "bf16": "bf16-mixed",
    "bfloat16": "bf16-mixed",
    "double": "64-true",
    "float16": "16-mixed",
    "float32": "32-true",
    "float64": "64-true",
    "fp16": "16-mixed",
    "fp32": "32-true",
    "half": "16-mixed",
}
"""Values of trainer.precision: numbers of another precision train in mixed form, unless the user says otherwise."""
ACCELERATORS = {"cuda": "gpu"}
SCHEDULES = {"multistep": "step", "onecycle": "one_cycle", "polynomial": "poly"}
