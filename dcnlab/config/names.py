"""The table of data sets, networks and backbones: their names and what each of them can do.

Everything that lists such names, checks them or asks what they can do reads them here.
"""

from __future__ import annotations

from dataclasses import dataclass

from dcnlab.config import libraries
from dcnlab.config.outside import is_outside


@dataclass(frozen=True)
class DataSet:
    """A data set, or a layout of files that many data sets have."""

    tasks: tuple[str, ...]
    """Tasks that networks can learn on it."""
    layout: str | None = None
    """Contents of the folder `data.root`; None: the data set is embedded in the package."""
    is_square: bool = False
    """Whether images come as squares of `data.image_size`, and a split is a single name."""
    protocol: str = "voc"
    """detection: the protocol of the AP where `data.protocol` is None."""
    usual_size: tuple[int, int] | None = None
    """Height and width of most images, pixels; None: they differ."""


@dataclass(frozen=True)
class Network:
    """A network: the head on the backbone, and the options that it takes."""

    task: str
    """The task that it solves."""
    output_stride: int = 16
    """Stride of the backbone's last map, pixels of the image."""
    anchor_scales: tuple[float, ...] = (8, 16, 32)
    """detection: sides of the anchors, in strides of the map, where `model.rpn.scales` is None."""
    deform_pooling: bool = False
    """Whether it pools RoIs, plain or deformable."""
    ohem: bool = False
    """Whether it can learn from the hardest RoIs."""
    spatial_transformer: bool = False
    """Whether a spatial transformer can precede it."""


@dataclass(frozen=True)
class Backbone:
    """A network under the head."""

    imagenet: tuple[str, ...] = ()
    """Torchvision's weights of ImageNet, by their names here; see `IMAGENET`."""
    layers: int | None = None
    """How many 3x3 convolutions it has, all of which can be deformable; None: only the library knows."""


DATA_SETS = {
    "digits": DataSet(("classification", "segmentation", "detection"), is_square=True),
    "imagefolder": DataSet(
        ("classification",),
        "classification of any folder laid out as ROOT/SPLIT/CLASS/IMAGE",
        is_square=True,
    ),
    "voc": DataSet(
        ("segmentation", "detection"),
        "segmentation and detection, VOCdevkit or a folder laid out as one of its years",
        protocol="voc07",
        usual_size=(375, 500),
    ),
    "coco": DataSet(
        ("detection",),
        "detection, a folder of image folders and annotations/instances_SPLIT.json",
        protocol="coco",
        usual_size=(480, 640),
    ),
    "yolo": DataSet(
        ("detection",),
        "detection, images/ and labels/ with .txt and a data.yaml, as Roboflow and Ultralytics write them",
        protocol="coco",
        usual_size=(640, 640),
    ),
    "cityscapes": DataSet(("segmentation",), "segmentation, leftImg8bit/ and gtFine/", usual_size=(1024, 2048)),
    "camvid": DataSet(("segmentation",), "segmentation, SegNet's lists, images and labels", usual_size=(360, 480)),
    "imagelist": DataSet(("segmentation",), 'segmentation of any folder with SPLIT.txt of lines "image label"'),
    "own": DataSet(
        ("classification", "segmentation", "detection"),
        "all three tasks, a folder of one's own: its layout is looked for, splits are held out",
        protocol="coco",
    ),
}
"""By `data.name`."""

OWN_LAYOUTS = {
    "detection": {
        "voc": "XML of VOC, in Annotations or next to the images",
        "coco": "JSON with images and annotations",
        "yolo": "images/ and labels/ with .txt, together or in each split's folder",
    },
    "segmentation": {
        "cityscapes": "leftImg8bit/ and gtFine/",
        "voc": "JPEGImages/ and SegmentationClass/",
        "imagelist": 'SPLIT.txt with lines "image label"',
        "masks": "images/ and masks/, or labels/, with label PNGs of the same names",
    },
    "classification": {"imagefolder": "a folder of images for each class, with or without splits above them"},
}
"""Layouts that `data.name` own recognises in a folder, by task; values of `data.layout`."""

NETWORKS = {
    "resnet": Network("classification", output_stride=32, spatial_transformer=True),
    "deeplab": Network("segmentation"),
    "class_aware_rpn": Network("detection"),
    "faster_rcnn": Network("detection", deform_pooling=True),
    "faster_rcnn_fpn": Network("detection", output_stride=32, anchor_scales=(8,), deform_pooling=True, ohem=True),
    "rfcn": Network("detection", deform_pooling=True, ohem=True),
}
"""By `model.name`."""

IMAGENET = {"imagenet": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}
"""Values of `model.backbone.weights` that torchvision serves, and its names for them."""

BACKBONES = {
    "resnet10_slim": Backbone(layers=9),
    "resnet18": Backbone(("imagenet",), layers=16),
    "resnet34": Backbone(("imagenet",), layers=32),
    "resnet50": Backbone(("imagenet", "imagenet_v2"), layers=16),
    "resnet101": Backbone(("imagenet", "imagenet_v2"), layers=33),
    "resnet152": Backbone(("imagenet", "imagenet_v2"), layers=50),
    "aligned_inception_resnet": Backbone(layers=99),
    **dict.fromkeys(libraries.PACKAGED, Backbone(("imagenet",))),
}
"""By `model.backbone.name`; each of them stands under the networks of every task. Others are of torchvision or timm."""

TASKS = tuple(dict.fromkeys(network.task for network in NETWORKS.values()))
PROTOCOLS = ("coco", "voc07", "voc07_exact", "voc")
"""Of the AP: COCO's, VOC's of eleven points as its evaluator counts them or as fractions, and of the area."""

METRICS = {
    "classification": ("top1", "top5"),
    "segmentation": ("miou",),
    "coco": (
        *("ap", "ap50", "ap70", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
    ),
    "voc07": ("ap50", "ap70"),
    "voc07_exact": ("ap50", "ap70"),
    "voc": ("ap50", "ap70"),
}
"""Metrics of the whole test, by the task; of detection, by the protocol."""


def metrics(task: str, data: str, protocol: str | None) -> tuple[str, ...]:
    """Names of the metrics of the whole test.

    Args:
        task: what the network does.
        data: `data.name`, which decides the protocol where none is stated.
        protocol: `data.protocol`.
    """
    return METRICS[protocol or data_set(data).protocol] if task == "detection" else METRICS[task]


_OUTSIDE_DATA = DataSet(TASKS)
_OUTSIDE_NETWORK = Network("", deform_pooling=True, ohem=True, spatial_transformer=True)
_OUTSIDE_BACKBONE = Backbone()


def data_set(name: str) -> DataSet:
    """A data set's row of the table; for a class from outside, a row that allows everything."""
    return _OUTSIDE_DATA if is_outside(name) else DATA_SETS[name]


def has_squares(task: str, data: str) -> bool:
    """Whether images come as squares of `data.image_size`.

    Args:
        task: what the network does.
        data: `data.name`.
    """
    return data_set(data).is_square or (data == "own" and task == "classification")


def network(name: str) -> Network:
    """A network's row of the table; for a class from outside, a row that allows everything."""
    return _OUTSIDE_NETWORK if is_outside(name) else NETWORKS[name]


def backbone(name: str) -> Backbone:
    """A backbone's row of the table; a class from outside has no weights of torchvision's.

    Raises:
        ConfigError: there is no such backbone.
    """
    if is_outside(name):
        return _OUTSIDE_BACKBONE
    return BACKBONES.get(name) or Backbone(libraries.imagenet(*libraries.library_of(name, BACKBONES)))


def library_of(name: str) -> tuple[str, str] | None:
    """The library that builds a backbone, timm or torchvision, and the network's name there.

    Returns:
        None for a residual network of ours and for a class from outside.

    Raises:
        ConfigError: there is no such backbone.
    """
    if is_outside(name) or (name in BACKBONES and name not in libraries.PACKAGED):
        return None
    return libraries.library_of(name, BACKBONES)


def data_sets(task: str) -> tuple[str, ...]:
    """Names of the data sets that a task can learn on."""
    return tuple(name for name, data_set in DATA_SETS.items() if task in data_set.tasks)


def networks(task: str) -> tuple[str, ...]:
    """Names of the networks of a task."""
    return tuple(name for name, network in NETWORKS.items() if network.task == task)


def networks_with(ability: str) -> tuple[str, ...]:
    """Names of the networks that can do something.

    Args:
        ability: field of `Network`: deform_pooling, ohem or spatial_transformer.
    """
    return tuple(name for name, network in NETWORKS.items() if getattr(network, ability))
