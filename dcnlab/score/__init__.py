"""Scores files of anyone's predictions: label images by mIoU, boxes by VOC's or COCO's rules."""

from dcnlab.score.box_files import IOUS, PICTURES, detection
from dcnlab.score.label_images import MOST_CLASSES, segmentation
from dcnlab.score.tables import FORMATS, render

__all__ = ["FORMATS", "IOUS", "MOST_CLASSES", "PICTURES", "detection", "render", "segmentation"]
