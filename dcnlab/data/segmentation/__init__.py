"""Semantic segmentation: VOC, Cityscapes, CamVid and lists of images."""
