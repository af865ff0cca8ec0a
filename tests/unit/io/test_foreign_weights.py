"""Caffe's and MXNet's weight files: read whole and right, or refused in one line within bounded memory."""

import struct
import tracemalloc

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from dcnlab.io import caffe_file, mxnet_file
from dcnlab.io.errors import DataError


def caffe_messages():
    """Protobuf's own classes for the parts of caffe.proto that hold weights."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    text, floats, doubles, whole, message = 9, 2, 1, 3, 11

    def add(name, *fields):
        made = file.message_type.add(name=name)
        for number, (field, kind, packed) in fields:
            one = made.field.add(name=field, number=number, label=3 if packed is not None else 1)
            if isinstance(kind, str):
                one.type, one.type_name = message, f".caffe.{kind}"
            else:
                one.type = kind
            one.options.packed = bool(packed)

    add("BlobShape", (1, ("dim", whole, True)))
    old = [(number, (name, 5, None)) for number, name in enumerate(("num", "channels", "height", "width"), 1)]
    more = [(5, ("data", floats, True)), (7, ("shape", "BlobShape", None)), (8, ("double_data", doubles, True))]
    add("BlobProto", *old, *more)
    add("LayerParameter", (1, ("name", text, None)), (2, ("type", text, None)), (7, ("blobs", "BlobProto", False)))
    add("V1LayerParameter", (4, ("name", text, None)), (6, ("blobs", "BlobProto", False)))
    layers = [(2, ("layers", "V1LayerParameter", False)), (100, ("layer", "LayerParameter", False))]
    add("NetParameter", (1, ("name", text, None)), *layers)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def caffemodel(layers=(), old_layers=()):
    """A .caffemodel that protobuf itself writes."""
    net = caffe_messages()(name="net")
    for name, arrays in layers:
        layer = net.layer.add(name=name, type="Convolution")
        for array in arrays:
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            (blob.double_data if array.dtype == np.float64 else blob.data).extend(array.flatten().tolist())
    for name, arrays in old_layers:
        layer = net.layers.add(name=name)
        for array in arrays:
            num, channels, height, width = array.shape
            blob = layer.blobs.add(num=num, channels=channels, height=height, width=width)
            blob.data.extend(array.flatten().tolist())
    return net.SerializeToString()


def params(arrays, version=2, names=None):
    """A .params file, byte by byte as MXNet's ndarray.cc lays it out."""
    names = list(arrays) if names is None else names
    content = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        kind = {"float32": 0, "float64": 1, "float16": 2}[array.dtype.name]
        if version == 0:
            content += struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape)
        else:
            content += struct.pack("<I", 0xF993FAC7 + version) + (struct.pack("<i", 0) if version > 1 else b"")
            content += struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
        content += struct.pack("<iii", 1, 0, kind) + array.tobytes()
    return content + struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(n)) + n.encode() for n in names)


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_mxnet_arrays_of_every_version_are_read(tmp_path, version):
    """Each array comes back under its name, in its type and shape."""
    arrays = {"arg:w": numbers(2, 3, 1, 1), "aux:m": numbers(4, dtype=np.float64), "h": numbers(5, dtype=np.float16)}
    (tmp_path / "w.params").write_bytes(params(arrays, version))
    found = mxnet_file.load(tmp_path / "w.params")
    assert list(found) == list(arrays)
    assert all(found[name].dtype == arrays[name].dtype for name in arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_blobs_that_protobuf_wrote_are_read(tmp_path):
    """Layers of both forms give their blobs by name and number, with their shapes."""
    new, double, old = numbers(2, 3, 3, 3), numbers(3, dtype=np.float64), numbers(1, 1, 1, 4)
    content = caffemodel([("conv1", [new, double]), ("relu", [])], [("fc", [old])])
    (tmp_path / "w.caffemodel").write_bytes(content)
    found = caffe_file.load(tmp_path / "w.caffemodel")
    assert {name: array.shape for name, array in found.items()} == {
        "conv1.0": (2, 3, 3, 3), "conv1.1": (3,), "fc.0": (1, 1, 1, 4)
    }  # fmt: skip
    assert np.array_equal(found["conv1.0"], new)
    assert np.array_equal(found["conv1.1"], double)
    assert np.array_equal(found["fc.0"], old)


def hostile():
    """Files that state more than they hold, by what they state."""
    one = params({"w": numbers(2, 2)})
    yield "mxnet, no list", mxnet_file, b"PK\x03\x04" + bytes(40)
    yield "mxnet, empty", mxnet_file, b""
    yield "mxnet, many arrays", mxnet_file, struct.pack("<QQQ", 0x112, 0, 2**63)
    yield "mxnet, many dimensions", mxnet_file, struct.pack("<QQQI", 0x112, 0, 1, 2**31)
    head = struct.pack("<QQQII", 0x112, 0, 1, 0xF993FAC8, 2)
    yield "mxnet, a large array", mxnet_file, head + struct.pack("<qqiii", 2**40, 2**40, 1, 0, 0)
    yield "mxnet, a negative length", mxnet_file, head + struct.pack("<qqiii", -1, -1, 1, 0, 0)
    yield "mxnet, an unknown type", mxnet_file, head + struct.pack("<qqiii", 1, 1, 1, 0, 99) + bytes(8)
    yield "mxnet, a sparse array", mxnet_file, struct.pack("<QQQIi", 0x112, 0, 1, 0xF993FAC9, 1)
    yield "mxnet, a long name", mxnet_file, one[:-9] + struct.pack("<Q", 2**62) + b"w"
    yield "mxnet, names too few", mxnet_file, params({"w": numbers(1)}, names=[])
    yield "mxnet, one name twice", mxnet_file, params({"w": numbers(1), "v": numbers(1)}, names=["w", "w"])
    blob = caffemodel([("conv1", [numbers(4, 4)])])
    yield "caffe, empty", caffe_file, b""
    yield "caffe, text", caffe_file, b"hello, this is not a protobuf"
    yield "caffe, a long field", caffe_file, b"\xa2\x06\xff\xff\xff\xff\x7f"
    yield "caffe, an endless number", caffe_file, b"\xff" * 40
    yield "caffe, many fields", caffe_file, b"\x08\x00" * (caffe_file.MOST_FIELDS + 1)
    yield "caffe, too few values", caffe_file, blob.replace(b"\x04\x04", b"\x04\x7f")
    yield "caffe, one layer twice", caffe_file, blob * 2
    for content, module in ((one, mxnet_file), (blob, caffe_file)):
        yield f"{module.__name__}, cut short", module, content[:-3]


@pytest.mark.parametrize(("module", "content"), [pytest.param(m, c, id=name) for name, m, c in hostile()])
def test_a_hostile_file_is_refused_in_one_line(tmp_path, module, content):
    """The error is a DataError of one line, and memory stays near the file's own size."""
    (tmp_path / "w").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as error:
            module.load(tmp_path / "w")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert peak < 4 * len(content) + 2**22


def test_random_damage_never_ends_in_another_error(tmp_path):
    """Files with bytes changed at random are read, or refused by a DataError."""
    random = np.random.default_rng(0)
    files = ((mxnet_file, params({"w": numbers(3, 2)})), (caffe_file, caffemodel([("c", [numbers(3)])])))
    refused = []
    for module, content in files:
        for _ in range(300):
            damaged = bytearray(content)
            for at in random.integers(0, len(damaged), 3):
                damaged[at] = random.integers(256)
            (tmp_path / "w").write_bytes(damaged)
            try:
                module.load(tmp_path / "w")
            except DataError as error:
                refused.append(str(error))
    assert len(refused) > 50
    assert not any("\n" in line for line in refused)
