"""Folders as other people leave them: tiny photographs with boxes, labels or classes, in many layouts."""

import json

import numpy as np
from PIL import Image

COLOURS = {"ball": (220, 40, 30), "box": (30, 60, 220)}
"""Of the objects, by class."""
PIXELS = 48


def draw(path, name, at=(8, 16), side=16):
    """Write a photograph of one object, and return its box x, y, width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(at[0]).integers(0, 90, (PIXELS, PIXELS, 3)).astype(np.uint8)
    pixels[at[1] : at[1] + side, at[0] : at[0] + side] = COLOURS[name]
    Image.fromarray(pixels).save(path)
    return [at[0], at[1], side, side]


def names_of(count):
    """The class of each of some images, in turn."""
    return [list(COLOURS)[number % 2] for number in range(count)]


def coco(root, count=20, file="annotations.json", images="images", first_id=1, extra=()):
    """One JSON for all images, as labelling tools export it, and its images' folder."""
    content = {"images": [], "annotations": [], "categories": [*extra]}
    content["categories"] += [{"id": first_id + k, "name": name} for k, name in enumerate(COLOURS)]
    for number, name in enumerate(names_of(count)):
        box = draw(root / images / f"photo{number}.png", name, (number % 20, 16))
        content["images"].append({"id": number, "file_name": f"photo{number}.png", "height": PIXELS, "width": PIXELS})
        category = first_id + list(COLOURS).index(name)
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": category, "bbox": box, "area": 256, "iscrowd": 0}
        )
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root


def voc(root, count=20, images="JPEGImages", annotations="Annotations", classes=True):
    """A folder of VOC's form with classes.txt, without ImageSets."""
    (root / annotations).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names_of(count)):
        x, y, w, h = draw(root / images / f"photo{number}.png", name, (number % 20, 16))
        corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
        (root / annotations / f"photo{number}.xml").write_text(
            f"<annotation><size><width>{PIXELS}</width><height>{PIXELS}</height></size>"
            f"<object><name>{name}</name><bndbox>{corners}</bndbox></object></annotation>"
        )
    if classes:
        (root / "classes.txt").write_text("box\nball\n")
    return root


def yolo(root, count=20, images="images", labels="labels", yaml="names: [ball, box]\n"):
    """Images and text files of YOLO's form."""
    (root / labels).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names_of(count)):
        x, y, w, h = draw(root / images / f"photo{number}.png", name, (number % 20, 16))
        fractions = [(x + w / 2) / PIXELS, (y + h / 2) / PIXELS, w / PIXELS, h / PIXELS]
        line = " ".join(map(str, [list(COLOURS).index(name), *fractions]))
        (root / labels / f"photo{number}.txt").write_text(f"{line}\n")
    (root / "data.yaml").write_text(yaml)
    return root


def class_folders(root, count=20):
    """A folder of images for each class."""
    for number, name in enumerate(names_of(count)):
        draw(root / name / f"photo{number}.png", name, (number % 20, 16))
    return root


def masks(root, count=20, images="images", labels="masks", values=(0, 1), added=""):
    """Images and label PNGs of the same names."""
    (root / labels).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names_of(count)):
        x, y, w, h = draw(root / images / f"photo{number}.png", name, (number % 20, 16))
        label = np.full((PIXELS, PIXELS), values[0], np.uint8)
        label[y : y + h, x : x + w] = values[1 + list(COLOURS).index(name) % (len(values) - 1)]
        Image.fromarray(label).save(root / labels / f"photo{number}{added}.png")
    return root
