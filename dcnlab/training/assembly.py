"""What a config stands for: its data, its network under a task, its trainer."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from dcnlab.config import identity
from dcnlab.config.schema import Config, DataConfig, TrainerConfig
from dcnlab.config.validation import check_paths
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import one_line
from dcnlab.training import environment
from dcnlab.training.callbacks.cost import Cost
from dcnlab.training.callbacks.divergence import Watch
from dcnlab.training.callbacks.watchdog import Watchdog
from dcnlab.training.checkpoint_file import Saving, WholeFiles
from dcnlab.training.distributed import slurm_requeue
from dcnlab.training.distributed.failures import FailurePropagation
from dcnlab.training.distributed.rendezvous import watch_rendezvous
from dcnlab.training.loggers import console
from dcnlab.training.run_folder import CHECKPOINT

if TYPE_CHECKING:
    from dcnlab.models.backbone import Backbone
    from dcnlab.models.detector import Detector


@dataclass
class Parts:
    """What a config stands for."""

    config: Config
    data: Any
    task: pl.LightningModule
    trainer: pl.Trainer
    cost: Cost
    saving: Saving
    failures: FailurePropagation


def build(config: Config, folder: Path, trains: bool = True, alone: bool = False) -> Parts:
    """The data module, the task and the trainer of a config; writes nothing.

    Args:
        config: of the run.
        folder: of the run.
        trains: whether it is for training, not only to be scored or looked at.
        alone: whether this process works by itself, whatever launcher started it.

    Raises:
        ConfigError: the data, the weights or the device are not there or do not fit.
    """
    check_paths(config)
    if config.logger.wandb:
        console.wandb_mode()
    console.quiet()
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    processes = _check_devices(config.trainer, alone)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    failures, cost, watch = FailurePropagation(), Cost(), Watch(config.trainer.offset_limit, config.logger.every)
    saving = Saving(folder / CHECKPOINT, identity.settings(config), config.trainer.checkpoint_every, check=watch.check)
    try:
        data = data_module(config)
        task = network_of(config, data.classes)
        _check_kernels(config.trainer, task)
        if trains:
            _check_norms(config, data, task, processes)
        trainer = _trainer(config, folder, [failures, cost, watch, saving, Watchdog()], data.val is not None, alone)
        return Parts(config, data, task, trainer, cost, saving, failures)
    except (DataError, OSError) as error:
        raise ConfigError(one_line(error)) from error
    except (MemoryError, RuntimeError) as error:
        if environment.is_out_of_memory(error):
            raise ConfigError("the network does not fit into memory; see the widths in model") from error
        raise


def _check_devices(run: TrainerConfig, alone: bool) -> int:
    """Check that the devices are there and the launcher started as many processes; how many there are in all.

    Raises:
        ConfigError: they are not; names the key.
    """
    gpus, other = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    on_cpu = run.accelerator == "cpu" or not gpus + other
    if on_cpu and run.accelerator == "gpu":
        raise ConfigError(
            "trainer.accelerator is 'gpu', and torch finds no GPU here (see dcnlab doctor); take cpu or auto"
        )
    if not on_cpu and isinstance(run.devices, int) and run.devices > max(gpus, other):
        raise ConfigError(f"trainer.devices is {run.devices}, and torch finds {max(gpus, other)} GPUs here")
    if on_cpu and run.precision == "16-mixed" and not alone:
        raise ConfigError("trainer.precision is '16-mixed', which needs a GPU; on a CPU take bf16-mixed or 32-true")
    devices = run.devices if isinstance(run.devices, int) else 1 if on_cpu else max(gpus, other)
    if not alone:
        if _under_srun():
            slurm_requeue.check_tasks(devices, run.num_nodes)
        else:
            slurm_requeue.check_world_size(devices, run.num_nodes)
    return devices * run.num_nodes


def _check_kernels(run: TrainerConfig, task: pl.LightningModule) -> None:
    """Check that the operators of a network can compute on the GPUs that the run takes.

    Raises:
        ConfigError: they cannot, for want of CuPy or on AMD's GPUs; says what to do.
    """
    from dcnlab import nn
    from dcnlab.models.roi_pool import RoIPool

    layers = (nn.ActiveConv2d, nn.DeformConv2d, nn.DeformPSRoIPool, nn.DeformRoIPool, RoIPool)
    if run.accelerator == "cpu" or not torch.cuda.device_count():
        return
    if not any(isinstance(module, layers) for module in task.modules()):
        return
    from dcnlab.ops.cuda import toolkit

    try:
        toolkit.import_cupy()
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"{one_line(error)}; trainer.accelerator=cpu does without") from error


def _under_srun() -> bool:
    return SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()


def _check_norms(config: Config, data: Any, task: Any, processes: int) -> None:
    """Check that no batch norm has a single value a channel to average, in the smallest batch of the training.

    Raises:
        ConfigError: one has; says what to change.
    """
    images = len(data.train) // processes or 1
    if min(config.data.batch_size, images) != 1:  # a pass leaves out a last batch that is not full
        return
    from dcnlab.models.norms import norm_of_one_value

    image = data.train[0, 0][0]
    found = norm_of_one_value(task.model, image[None])
    if found is None:
        return
    name, shape = found
    few = f"data.train has {images} images for each of {processes} processes"
    batch = f"data.batch_size is {config.data.batch_size}" if config.data.batch_size == 1 else few
    frozen = "" if config.task == "classification" else ", or model.backbone.freeze_norm=true"
    raise ConfigError(
        f"{batch}, and of an image of {image.shape[-2]}x{image.shape[-1]} the batch norm {name} sees a map of "
        f"{shape[-2]}x{shape[-1]}: one value a channel, which it cannot train on; take two images at a time, "
        f"or larger ones{frozen}"
    )


def data_module(config: Config) -> Any:
    """The three splits that `config.data` names, as the task takes them."""
    from dcnlab.data.detection.data_module import DetectionDataModule
    from dcnlab.data.module import ImageFolderDataModule
    from dcnlab.data.segmentation.data_module import SegmentationDataModule

    data = config.data
    common: dict[str, Any] = {
        "train": data.train,
        "val": data.val,
        "test": data.test,
        "classes": data.classes,
        "batch_size": data.batch_size,
        "workers": data.workers,
        "seed": config.seed,
    }
    if data.name in ("digits", "imagefolder"):
        for key, split in (("train", data.train), ("val", data.val), ("test", data.test)):
            if isinstance(split, list):
                raise ConfigError(f"data.{key} is {split}; {data.name} takes the name of one split")
    if data.name == "digits":
        return _digits(data, config.task, common)
    if config.task == "classification":
        return ImageFolderDataModule(
            root=data.root or "",
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            exif=data.exif,
            **common,
        )
    pictures = {key: getattr(data, key) for key in ("root", "shorter_side", "flip", "mean", "std", "exif")}
    if config.task == "detection":
        return DetectionDataModule(
            data.name,
            images=data.images,
            annotations=data.annotations,
            longer_side=data.longer_side,
            test_sides=config.test.shorter_sides,  # the test resizes the file's own pixels, once
            **pictures,
            **common,
        )
    return SegmentationDataModule(
        data.name,
        ignore=data.ignore,
        random_scale=data.random_scale,
        crop_size=data.crop_size,
        test_scale=max(config.test.scales),
        **pictures,
        **common,
    )


def _digits(data: DataConfig, task: str, common: dict[str, Any]) -> Any:
    from dcnlab.data.digits.rendering import Geometry
    from dcnlab.data.module import DigitsDataModule

    geometry = Geometry(data.image_size, data.rotation, data.scale, data.shear, data.warp, data.clutter)
    lengths: dict[str, Any] = {"train_length": data.train_length, "test_length": data.test_length}
    return DigitsDataModule(geometry, task=task, digits=data.digits, **lengths, **common)


def network_of(config: Config, classes: list[str]) -> pl.LightningModule:
    """`task_module`, whose layers' complaints about an argument are the user's to mend.

    Raises:
        ConfigError: a layer refuses what the config states.
    """
    try:
        return task_module(config, classes)
    except ConfigError:
        raise
    except ValueError as error:  # by which layers refuse arguments
        raise ConfigError(one_line(error)) from error


def task_module(config: Config, classes: list[str]) -> pl.LightningModule:
    """The network that `config.model` names, under the task that trains and scores it."""
    from dcnlab.data.digits.scenes import MEAN, STD
    from dcnlab.models.backbone import backbone
    from dcnlab.models.deeplab import DeepLab
    from dcnlab.models.resnet import classifier
    from dcnlab.tasks.classification import Classification
    from dcnlab.tasks.detection import Detection
    from dcnlab.tasks.segmentation import Segmentation

    model, feet, data = config.model, config.model.backbone, config.data
    layers: dict[str, Any] = {
        "deform_layers": model.deform_layers,
        "dilation": model.dilation or (1 if config.task == "classification" else 2),
        "offset_groups": model.offset_groups,
        "modulated": model.modulated,
        "deform_kind": model.deform_kind,
    }
    if config.task == "classification":
        network = classifier(
            feet.name, len(classes), feet.weights, **layers, spatial_transformer=model.spatial_transformer
        )
        background = -MEAN / STD if data.name == "digits" else 0.0
        return Classification(network, classes, config.optim, config.test, background)
    features = backbone(
        feet.name,
        feet.weights,
        output_stride=32 if model.name == "faster_rcnn_fpn" else 16,
        stride_on_1x1=feet.stride_on_1x1,
        freeze_norm=feet.freeze_norm,
        freeze_at=feet.freeze_at,
        **layers,
    )
    mean, std = ((MEAN,) * 3, (STD,) * 3) if data.name == "digits" else (data.mean, data.std)
    if config.task == "segmentation":
        deeplab = DeepLab(features, len(classes), model.head_channels or 1024)
        return Segmentation(deeplab, classes, config.optim, config.test, mean, std)
    protocol = data.protocol or {"coco": "coco", "voc": "voc07", "digits": "voc"}[data.name]
    return Detection(
        _detector(config, features, len(classes)),
        classes,
        protocol,
        config.optim,
        config.test,
        data.longer_side,
        mean,
        std,
        config.seed,
    )


def _detector(config: Config, features: Backbone, classes: int) -> Detector:
    from dcnlab.models.anchors import RPNSettings
    from dcnlab.models.class_aware_rpn import ClassAwareRPN
    from dcnlab.models.detector import DetectionSettings
    from dcnlab.models.faster_rcnn import FasterRCNN
    from dcnlab.models.fpn import FPNFasterRCNN
    from dcnlab.models.rfcn import RFCN
    from dcnlab.models.roi_sampling import RoISampling

    model, rpn, test = config.model, config.model.rpn, config.test
    common: dict[str, Any] = {
        "rpn": RPNSettings(
            scales=tuple(rpn.scales or ((8,) if model.name == "faster_rcnn_fpn" else (8, 16, 32))),
            ratios=tuple(rpn.ratios),
            hidden_channels=rpn.hidden_channels,
            sampled=rpn.sampled,
            candidates=rpn.candidates,
            proposals=rpn.proposals,
            allowed_border=rpn.border,
        ),
        "detections": DetectionSettings(test.score_floor, test.nms_iou, test.max_detections),
    }
    if model.head_channels is not None:
        common["channels"] = model.head_channels
    if model.name == "class_aware_rpn":
        return ClassAwareRPN(features, classes, **common)
    common |= {"deform_pooling": model.deform_pooling, "sampling": RoISampling(model.rois)}
    if model.name == "rfcn":
        return RFCN(features, classes, ohem=model.ohem, **common)
    common["fc_channels"] = model.fc_channels
    if model.name == "faster_rcnn":
        return FasterRCNN(features, classes, **common)
    return FPNFasterRCNN(features, classes, ohem=model.ohem, **common)


class _Averaging(EMAWeightAveraging):
    """Leaves the average in place also of a run that goes on from the end of its training, where no step is left."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._copy_average_to_current(pl_module)


def _trainer(
    config: Config, folder: Path, callbacks: list[pl.Callback], validates: bool, alone: bool = False
) -> pl.Trainer:
    run = config.trainer
    averaging = [] if config.optim.ema is None else [_Averaging(decay=config.optim.ema)]
    plugins: list[Any] = [WholeFiles()]
    if alone:
        plugins.append(LightningEnvironment())
    elif _under_srun():
        # Lightning would put the job back into the queue with a checkpoint of its own, which only it knows of.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    bar = console.ProgressBar() if run.progress and sys.stdout.isatty() else None
    try:
        trainer = pl.Trainer(
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.num_nodes,
            precision=run.precision,  # type: ignore[arg-type]  # checked against config.PRECISIONS
            max_steps=run.max_steps or -1,
            max_epochs=run.max_epochs or -1,
            gradient_clip_val=config.optim.clip_norm,
            deterministic=run.deterministic,
            use_distributed_sampler=False,  # the data modules share the images out, and pad none
            num_sanity_val_steps=0,
            check_val_every_n_epoch=run.val_every,
            limit_val_batches=None if validates else 0,
            log_every_n_steps=config.logger.every,
            logger=False,
            plugins=plugins,
            callbacks=[*averaging, *callbacks, *([bar] if bar else [])],
            enable_progress_bar=bar is not None,
            enable_model_summary=False,
            default_root_dir=folder,
        )
    except (MisconfigurationException, RuntimeError) as error:
        raise ConfigError(f"trainer: {one_line(error)}") from error
    if isinstance(trainer.strategy, DDPStrategy):
        watch_rendezvous(trainer.strategy, run.rendezvous_minutes)
    # Lightning's own handler of SIGTERM calls a collective, wherever the processes are just then.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    # Where max_steps is set, Lightning takes each checkpoint for one of the middle of a pass, and skips the next.
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    trainer.accumulate_grad_batches = accumulation(config, trainer.world_size)
    return trainer


def accumulation(config: Config, world_size: int) -> int:
    """Batches to a step of the optimizer, so that a step sees `trainer.effective_batch` images.

    Raises:
        ConfigError: no whole number of batches gives that many.
    """
    effective, loaded = config.trainer.effective_batch, config.data.batch_size * world_size
    if effective is None:
        return 1
    if effective % loaded:
        fits = math.gcd(effective, loaded) if world_size == 1 else math.gcd(effective // world_size, loaded)
        hint = f"; data.batch_size={fits} would do" if effective % (fits * world_size) == 0 else ""
        raise ConfigError(
            f"trainer.effective_batch is {effective}; it must be a multiple of the {loaded} images that "
            f"data.batch_size {config.data.batch_size} x {world_size} processes load{hint}"
        )
    return effective // loaded
