"""Broken files for the fuzz tests: each a function of the random numbers given, so that a seed repeats it."""

import copy
import json
import struct
import xml.etree.ElementTree as ElementTree
import zlib

PIECES = [
    b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r\n", b"\t", b" ", b"-", b"'", b'"', b"\\", b"\\ud800",
    b"{", b"}", b"[", b"]", b",", b":", b"#", b"&a ", b"*a", b"<<: ", b"!!set ", b"|", b">", b"<", b"&", b"&#0;",
    b"&lt;", b"<!DOCTYPE a>", b"]]>", b"<!--", b"${oc.env:HOME}", b"${seed}", b"${", b"null", b"true", b"~", b"NaN",
    b"-Infinity", b".nan", b"1e999", b"-0.0", b"9" * 25, b"9" * 5000, b"2001-01-01", b"../../x", b"/etc/passwd",
    b"[" * 60, b"{a: " * 40, b"x" * 3000,
]  # fmt: skip
"""What one of the formats has a use for, or chokes on."""

DEEP: list = []
for _ in range(60):
    DEEP = [DEEP]

LEAVES = [
    None, True, False, 0, -1, 1, 2, 7, 0.5, -0.0, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, -(2**63) - 1,
    10**30, 10**400, "", " ", "0", "1e3", "nan", "null", "cat", "../x", "/etc/passwd", "a/../../b", "a\nb", "a\x00b",
    "\ud800", "\u202e", "${seed}", "${oc.env:HOME}", "${", "x" * 5000, [], {}, [[]], [None], [1, 2], {"a": 1}, {"": {}},
    DEEP,
]  # fmt: skip


def of_bytes(random, content, pieces=PIECES):
    """One to three cuts, doublings, insertions or flips."""
    content = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        start = random.randrange(len(content) + 1)
        end = min(len(content), start + random.choice((0, 0, 1, 1, 2, 4, 8, 30, 200)))
        other = random.randrange(len(content) + 1)
        content[start:end] = random.choice(
            (
                b"",
                random.choice(pieces),
                b"%d" % random.randrange(-3, 300),
                bytes(random.randrange(256) for _ in range(random.choice((1, 1, 2, 4)))),
                content[other : other + random.choice((1, 5, 40))],
            )
        )
        if random.random() < 0.05:
            del content[random.randrange(len(content) + 1) :]
    return bytes(content)


def of_tree(random, tree):
    """One to three values of nested dicts and lists replaced, dropped, moved, doubled or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = [(None, None), *_places(tree)]
        owner, key = random.choice(places)
        if owner is None:
            if random.random() < 0.02:
                tree = random.choice(LEAVES)
            continue
        action = random.randrange(6)
        if action == 0:
            del owner[key]
        elif action == 1:
            other, name = random.choice(places[1:])
            owner[key] = copy.deepcopy(other[name])
        elif action == 2 and isinstance(owner, dict):
            new = random.choice([f"{key}s", str(key)[:-1], "", "a.b", "id", "name", "\ud800", key.upper()])
            owner[new] = owner.pop(key)
        elif action == 2:
            owner.append(copy.deepcopy(owner[key]))
        else:
            owner[key] = copy.deepcopy(random.choice(LEAVES))
    return tree


def _places(tree):
    """Every dict or list with each of its keys."""
    found, waiting = [], [tree]
    while waiting and len(found) < 500:
        owner = waiting.pop()
        if isinstance(owner, dict | list):
            keys = list(owner) if isinstance(owner, dict) else range(len(owner))
            found += [(owner, key) for key in keys]
            waiting += [owner[key] for key in keys]
    return found


def of_json(random, content):
    """The text or the values of JSON; a key twice in an object, too."""
    if random.random() < 0.4:
        return of_bytes(random, content)
    text = json.dumps(of_tree(random, json.loads(content)))
    if random.random() < 0.05:
        text = text.replace("{", '{"id": 1, "id": 2, ', 1)
    return text.encode()


def of_yaml(random, content, tree):
    """The text of YAML, or its values, which JSON writes."""
    if random.random() < 0.5:
        return of_bytes(random, content)
    return json.dumps(of_tree(random, tree)).encode()


def of_xml(random, content):
    """The text of XML, or its elements."""
    if random.random() < 0.5:
        return of_bytes(random, content)
    tree = ElementTree.fromstring(content)
    for _ in range(random.choice((1, 1, 2))):
        owners = [node for node in tree.iter() if len(node)]
        if not owners:
            break
        owner = random.choice(owners)
        node = owner[random.randrange(len(owner))]
        action = random.randrange(5)
        if action == 0:
            owner.remove(node)
        elif action == 1:
            owner.append(copy.deepcopy(random.choice(owners)))
        elif action == 2:
            node.tag = random.choice(("name", "object", "bndbox", "size", "width", "difficult", "x"))
        elif action == 3:
            node.clear()
        else:
            node.text = str(random.choice([leaf for leaf in LEAVES if _is_xml(leaf)]))[:4000]
    return ElementTree.tostring(tree)


def _is_xml(leaf):
    """Whether a value can be written into XML."""
    if isinstance(leaf, str):
        return all(" " <= sign < "\ud800" for sign in leaf)
    return type(leaf) is not int or abs(leaf) < 10**300


def of_png(random, content):
    """The bytes of a PNG; or its chunks, their checksums right again."""
    if random.random() < 0.4:
        return of_bytes(random, content)
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(random.choice((1, 1, 2))):
        place = random.randrange(len(chunks))
        kind, data = chunks[place]
        action = random.randrange(6)
        if action == 0 and place:
            chunks.insert(random.randrange(len(chunks)), chunks.pop(place))
        elif action == 1:
            head = bytearray(chunks[0][1].ljust(13, b"\0"))
            head[random.randrange(13)] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 127, 255))
            chunks[0] = (chunks[0][0], bytes(head))
        elif action == 2:
            kind = random.choice(
                (b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"gAMA", b"pHYs", b"acTL", b"fcTL")
            )
            bomb = random.choice((b"", b"x" * 30, b"n\0\0" + zlib.compress(bytes(2**21), 1), bytes(1000)))
            chunks.insert(random.randrange(1, len(chunks)), (kind, bomb))
        elif action == 3:
            raw = zlib.compress(random.randbytes(random.choice((0, 1, 100, 5000))))
            chunks = [(kind, raw if kind == b"IDAT" else data) for kind, data in chunks]
        else:
            chunks[place] = (kind, of_bytes(random, data))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return content[:8] + body
