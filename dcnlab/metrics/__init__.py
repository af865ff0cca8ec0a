"""Scores as their benchmarks define them: mIoU, VOC AP, COCO AP; percent."""
