"""Scores as their benchmarks define them, in percent: mIoU, VOC AP, COCO AP; and effective dilation, in pixels."""
