"""Small hostile inputs of every kind, made from seeds: none takes 20 seconds or a gibibyte, each ends in one line.

DCNLAB_FUZZ=10 tries ten times as many.
"""

import io
import json
import os
import random
import struct
import time
import warnings
import zlib
from pathlib import Path

import mutations
import pytest
from command_line import python
from locations import ROOT
from peak_memory import peak
from PIL import Image

SECONDS, MEBIBYTES = 20, 1024
TIMES = float(os.environ.get("DCNLAB_FUZZ", "1"))
COUNTS = {"images": 20, "json": 12, "yaml": 8, "sweeps": 20, "lists": 6, "annotations": 6}


def chunk(kind, data):
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def image(numbers):
    """A strip, or an image whose head states another size; of any format that is read."""
    long, short = numbers.choice((1, 300, 5000, 60000)), numbers.choice((1, 2, 40))
    size = numbers.choice(((long, short), (short, long)))
    if numbers.random() < 0.4:
        width, height = (numbers.choice((1, 2, 255, 60000, 89478485, 2**31 - 1)) for _ in range(2))
        head = struct.pack(">IIBBBBB", width, height, numbers.choice((1, 8, 16)), numbers.choice((0, 2, 3, 6)), 0, 0, 0)
        pixels = zlib.compress(bytes(numbers.choice((10, 10**6, 10**8))), 9)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    form, options = numbers.choice(
        (
            ("PNG", {}),
            ("JPEG", {"progressive": True}),
            ("PPM", {}),
            ("BMP", {}),
            ("GIF", {}),
            ("TIFF", {}),
            ("WEBP", {}),
        )
    )
    if form == "WEBP":
        size = tuple(min(side, 16383) for side in size)
    file = io.BytesIO()
    Image.new(numbers.choice(("RGB", "L")), size).save(file, form, **options)
    content = file.getvalue()
    if numbers.random() < 0.5:
        return mutations.of_bytes(numbers, content[:4000]) + content[4000:]
    plain = b"P3\n4 4\n255\n" + numbers.choice((b"#\n", b"#", b"1 ", b" ")) * 2**20
    return numbers.choice((content, content, plain, b"P6\n#" + bytes(2**21)))


def tree(numbers):
    """JSON or YAML that repeats, nests or counts without measure."""
    many = numbers.choice((10, 10**4, 2 * 10**5))
    return numbers.choice(
        (
            "{" + ",".join(f'"k{number % (many - 1)}": 0' for number in range(many)) + "}",
            "[" * many + "]" * many,
            '{"a": ' * many + "0" + "}" * many,
            "[" + "[]," * many + "0]",
            "[" + "9" * many + "]",
            "[" + "1e9," * many + "0]",
            '{"a": "' + "\\ud800" * many + '"}',
            "a: &a [" + "x, " * (many % 5000) + "x]\nb: [" + "*a, " * (many % 5000) + "*a]\n",
            "k0: &k0 {a: 1}\n" + "".join(f"k{n}: &k{n} {{<<: *k{n - 1}}}\n" for n in range(1, many % 9000)),
            "? " * many, "- " * many, "a: |\n" + " x\n" * many, "a: '" + "x" * many, '{"x": ' * 20 + "1" + "}" * 20,
        )
    )  # fmt: skip


def sweep(numbers):
    """A sweep of far more points than memory holds."""
    ranges = (
        {"min": 0, "max": numbers.choice((10**6, 10**12, 10**30))},
        {"distribution": "q_uniform", "min": 0.0, "max": numbers.choice((1e6, 1e300 - 1e290)), "q": 1e-9},
        {"values": list(range(numbers.choice((2, 500))))},
        {"distribution": "log_uniform", "min": 0, "max": 10**6}, {"min": 0.0, "max": 1.0}, {"value": 3},
    )  # fmt: skip
    names = ("seed", "optim.lr", "model.deform_layers", "data.image_size", "optim.warmup", "model.dilation")
    spec = {name: numbers.choice(ranges) for name in names[: numbers.randrange(1, 7)]}
    whole = {"method": numbers.choice(("grid", "random")), "program": "classification/quickstart", "parameters": spec}
    whole["command"] = ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"]
    if numbers.random() < 0.7:
        whole["run_cap"] = numbers.choice((1, 2, 10**9, 10**15))
    return json.dumps(whole)


def attempts(kind, folder):
    """What writes a file from random numbers, and what reads it in every way there is."""
    from dcnlab.ablations.sweeps import sweep_file
    from dcnlab.ablations.sweeps.trial import trials_of
    from dcnlab.config.load import load_experiment
    from dcnlab.data import image_list
    from dcnlab.data.classification.image_folder import ImageFolderSplit
    from dcnlab.data.detection.coco import read_coco
    from dcnlab.data.labels import read_label
    from dcnlab.data.segmentation.split import SegmentationSplit
    from dcnlab.io import image_file, json_file, yaml_file

    path = folder / "train/a/x.png"
    path.parent.mkdir(parents=True)
    if kind == "images":
        label = folder / "label.png"

        def segmentation():
            with image_file.opened(path) as head:
                size = head.size
            if size[0] * size[1] < 10**6:
                Image.new("L", size).save(label)
            SegmentationSplit([(path, label)], ["a"], shorter_side=300, random_scale=(0.5, 2.0), augment=True)[0]

        reads = [
            lambda: image_file.read_image(path), lambda: read_label(path), lambda: ImageFolderSplit(folder, "train")[0],
            lambda: ImageFolderSplit(folder, "train", augment=True)[0], segmentation,
        ]  # fmt: skip
        return lambda numbers: path.write_bytes(image(numbers)), reads
    if kind == "json":
        return lambda numbers: path.write_text(tree(numbers)), [lambda: json_file.load(path)]
    if kind == "yaml":
        config = lambda: load_experiment(str(path))  # noqa: E731
        return lambda numbers: path.write_text(tree(numbers)), [lambda: yaml_file.read_yaml(path), config]
    if kind == "sweeps":
        return lambda numbers: path.write_text(sweep(numbers)), [lambda: trials_of(sweep_file.read(str(path)), limit=2)]
    if kind == "lists":
        lines = (b"a\n", b"\n", b"a b\n", b"x" * 999, b"a\tb\r\n", b"\x0b", b"1 a\n")
        reads = [
            lambda: image_list.read_lines(path),
            lambda: image_list.read_pairs(path, folder),
            lambda: image_list.read_classes(path),
        ]
        return lambda numbers: path.write_bytes(numbers.choice(lines) * numbers.choice((9, 10**5, 4 * 10**5))), reads
    (folder / "annotations").mkdir()
    file = folder / "annotations/instances_train.json"
    return lambda numbers: file.write_text(coco(numbers)), [lambda: read_coco(folder, "train")]


def coco(numbers):
    """COCO's form, one of its lists very long."""
    many = numbers.choice((1, 10**3, 10**5))
    known = [{"id": f"{'a' * 60}{number}", "file_name": "a/x.png", "height": 8, "width": 8} for number in range(many)]
    classes = [{"id": number, "name": f"{'a' * 60}{number}"} for number in range(numbers.choice((1, 3000, 10**5)))]
    box = {"id": 1, "image_id": "a" * numbers.choice((61, 10**6)), "category_id": 0, "bbox": [0, 0, 1, 1]}
    whole = {"images": known, "categories": classes, "annotations": [box]}
    whole[numbers.choice(list(whole))].append(numbers.choice(({}, {"id": "b"}, {"id": 0, "name": "a" * 64}, 7)))
    return json.dumps(whole)


def main(kind, folder):
    """Try all inputs of a kind; print what is wrong, and how much memory was taken at most."""
    write, reads = attempts(kind, Path(folder))
    from dcnlab.io.errors import ConfigError, DataError

    warnings.simplefilter("ignore")
    before = peak()
    wrong, slowest = [], 0.0
    for turn in range(round(COUNTS[kind] * TIMES)):
        write(random.Random(turn))
        for number, read in enumerate(reads):
            began = time.process_time()
            try:
                read()
            except (ValueError, OSError) as error:
                said = str(error)
                if type(error) not in (ValueError, DataError, ConfigError, OSError) or "\n" in said:
                    if not isinstance(error, OSError):
                        wrong.append((turn, number, type(error).__name__, said[:200]))
                if "not enough memory" in said:
                    wrong.append((turn, number, "memory", said[:200]))
            except BaseException as error:
                wrong.append((turn, number, type(error).__name__, str(error)[:200]))
            seconds = time.process_time() - began
            slowest = max(slowest, seconds)
            grown = (peak() - before) >> 20
            if seconds > SECONDS or grown > MEBIBYTES:
                wrong.append((turn, number, "bounds", f"{seconds:.1f} s, {grown} MiB"))
                before += grown << 20
    grown = (peak() - before) >> 20
    print(json.dumps({"wrong": wrong, "slowest": slowest, "mebibytes": grown}))


@pytest.mark.parametrize("kind", COUNTS)
def test_no_small_input_takes_a_gibibyte_or_twenty_seconds(tmp_path, kind):
    """Small hostile files of each kind must be read or refused below 1 GiB and 20 seconds."""
    limit = 8 * 2**30  # torch maps some; the machine is safe where the code is not
    code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit})); "
    path = [str(ROOT / name) for name in ("tests/integration", "tests/helpers")]
    code += f"import sys; sys.path[:0] = {path}; import test_bounded as t; t.main({kind!r}, {str(tmp_path)!r})"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["mebibytes"] < MEBIBYTES
