"""Object detection: VOC, COCO and data sets in their formats."""
