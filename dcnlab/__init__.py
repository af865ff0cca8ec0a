"""Deformable convolutional networks: operators, networks and the ablations of the paper as one experiment suite."""

import importlib
import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcnlab.training.loading import load as load
    from dcnlab.training.prediction import predict as predict
    from dcnlab.training.run import fit as fit

_PUBLIC = {
    "fit": "dcnlab.training.run",
    "load": "dcnlab.training.loading",
    "predict": "dcnlab.training.prediction",
}
"""Functions of this module, by the module that defines them: imported when they are first asked for."""


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        if importlib.util.find_spec("dcnlab.training") is None:
            raise ImportError(f"dcnlab.{name} needs the whole suite; dcnlab-ops is installed: pip install dcnlab")
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


__version__ = "0.1.0"
"""The version; pyproject.toml reads it here."""

MOVED = {
    "dcnlab.compiled": "dcnlab.ops.jit",
    "dcnlab.data.annotations": "dcnlab.data.detection.annotations",
    "dcnlab.data.camvid": "dcnlab.data.segmentation.camvid",
    "dcnlab.data.cityscapes": "dcnlab.data.segmentation.cityscapes",
    "dcnlab.data.coco_detection": "dcnlab.data.detection.coco",
    "dcnlab.data.files": "dcnlab.io.files",
    "dcnlab.data.imagefile": "dcnlab.io.image_file",
    "dcnlab.data.imagefolder": "dcnlab.data.classification.image_folder",
    "dcnlab.data.imagelist": "dcnlab.data.image_list",
    "dcnlab.data.jsonfile": "dcnlab.io.json_file",
    "dcnlab.data.text": "dcnlab.io.text",
    "dcnlab.data.voc_detection": "dcnlab.data.detection.voc",
    "dcnlab.data.voc_segmentation": "dcnlab.data.segmentation.voc",
    "dcnlab.doctor": "dcnlab.cli.doctor",
    "dcnlab.experiment": "dcnlab.training.run",
    "dcnlab.export": "dcnlab.training.export",
    "dcnlab.ops.cpu.products": "dcnlab.ops.cpu.matmul",
    "dcnlab.ops.cpu.threads": "dcnlab.ops.cpu.openmp",
    "dcnlab.ops.cuda.choice": "dcnlab.ops.cuda.fused_dispatch",
    "dcnlab.ops.cuda.products": "dcnlab.ops.cuda.matmul",
    "dcnlab.yamlfile": "dcnlab.io.yaml_file",
}
"""Former names of modules, which users' scripts may import until version 0.2."""


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module under its former name."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the `__spec__` that the import system has just replaced; the module itself has run already."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(_Moved())
