"""Examples of each command, which its `--help` ends with."""

from __future__ import annotations

EXAMPLES = {
    "": [
        "dcnlab list experiments",
        "dcnlab fit classification/quickstart",
        "dcnlab config classification/quickstart --keys optim",
    ],
    "fit": [
        "dcnlab fit classification/quickstart model.deform_layers=3",
        "dcnlab fit detection/own data.root=MINE id=first",
    ],
    "evaluate": [
        "dcnlab evaluate runs/quickstart/ID",
        "dcnlab evaluate runs/own_detection/first test.flip=true",
    ],
    "resume": [
        "dcnlab resume runs/quickstart/ID",
        "dcnlab resume runs/quickstart/ID trainer.max_steps=2000",
    ],
    "predict": [
        "dcnlab predict runs/own_detection/first photo.jpg",
        "dcnlab predict runs/own_detection/first FOLDER --out found",
    ],
    "sweep": [
        "dcnlab sweep quickstart --jobs 2",
        "dcnlab sweep table1_rfcn_voc data.root=VOC --minutes 60",
    ],
    "table": [
        "dcnlab table quickstart",
        "dcnlab table table1 --runs runs/small --format markdown",
    ],
    "report": ["dcnlab report runs", "dcnlab report runs --out page.html"],
    "complexity": ["dcnlab complexity", "dcnlab complexity detection/rfcn_voc --no-time"],
    "dilation": [
        "dcnlab dilation runs/own_detection/first",
        "dcnlab dilation runs/own_detection/first --images 50",
    ],
    "robustness": ["dcnlab robustness related_work --out robustness"],
    "visualize": [
        "dcnlab visualize runs/own_detection/first test:0",
        "dcnlab visualize runs/own_detection/first photo.jpg --kind all",
    ],
    "export": ["dcnlab export runs/own_detection/first --format safetensors"],
    "list": ["dcnlab list", "dcnlab list experiments"],
    "config": [
        "dcnlab config detection/own --keys data",
        "dcnlab config segmentation/quickstart optim.lr=0.02 --keys 'optim.*'",
    ],
    "convert": ["dcnlab convert resnet_v1_101-0000.params resnet101.safetensors"],
    "recipe": ["dcnlab recipe", "dcnlab recipe detection/rfcn_coco"],
    "doctor": ["dcnlab doctor"],
    "completion": ['eval "$(dcnlab completion bash)"', "dcnlab completion fish | source"],
    "data": ["dcnlab data preview"],
    "data preview": [
        "dcnlab data preview detection/own data.root=MINE",
        "dcnlab data preview segmentation/quickstart --split test --out test.png",
    ],
    "score": ["dcnlab score detection --help"],
    "score detection": ["dcnlab score detection --detections D.json --annotations A.json --protocol voc"],
    "score segmentation": ["dcnlab score segmentation --predictions DIR --labels DIR --classes 21"],
}
"""Command lines, by the command's words after `dcnlab`."""


def epilog(command: str) -> str:
    """The end of a command's help; the help shows each paragraph of it as a line."""
    return "\n\n".join(["Examples:", *EXAMPLES[command]])
