"""JSON read an entry at a time, against Python's own decoder."""

import json
import random

import mutations
import pytest

from dcnlab.io import json_file, json_lists
from dcnlab.io.errors import DataError

CONTENT = {"info": {"a": [1, {}]}, "annotations": [{"b": 1.5}, [], "x", None, {"c": {"d": [2]}}], "images": [], "n": 3}


def read(path):
    """The content of a file, its taken entries put back into their lists."""
    taken = {"annotations": [], "images": []}
    content = json_lists.load_object(path, {key: entries.append for key, entries in taken.items()})
    if not isinstance(content, dict):
        return content
    for key in taken.keys() & content.keys():
        if isinstance(content[key], list):
            assert content[key] == []
            content[key] = taken[key]
    return content


def outcome(call, path):
    """What a reader gives, or that it refuses the file."""
    try:
        return json.dumps(call(path))
    except DataError:
        return "refused"


def test_entries_are_handed_over_in_order(tmp_path):
    """Taken lists are empty in the result, and other values stand as they are."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT, indent=1))
    entries = []
    content = json_lists.load_object(path, {"annotations": entries.append})
    assert entries == CONTENT["annotations"]
    assert content == {**CONTENT, "annotations": []}
    path.write_text(json.dumps(CONTENT["annotations"]))
    entries.clear()
    assert json_lists.load_list(path, entries.append)
    assert entries == CONTENT["annotations"]
    path.write_text("{}")
    assert not json_lists.load_list(path, entries.append)


def test_mutated_files_read_as_the_standard_decoder_reads_them(tmp_path):
    """Of 1000 mutated files both readers refuse the same ones, and read the others alike."""
    path, results = tmp_path / "a.json", []
    content = json.dumps(CONTENT).encode()
    for seed in range(1000):
        numbers = random.Random(seed)
        path.write_bytes((mutations.of_json if seed % 2 else mutations.of_bytes)(numbers, content))
        expected = outcome(json_file.load, path)
        assert outcome(read, path) == expected, path.read_bytes()
        results.append(expected == "refused")
    assert 100 < sum(results) < 900


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value: line 1 column 1"),
        ('{"a": 1,}', "property name enclosed in double quotes: line 1 column 9"),
        ('{"annotations": [1 2]}', "Expecting ',' delimiter: line 1 column 20"),
        ('{"annotations": [1,]}', "Expecting value: line 1 column 20"),
        ('{"annotations" 1}', "Expecting ':' delimiter: line 1 column 16"),
        ('{"annotations": [', "Expecting value"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"annotations": [{"a": 1, "a": 2}]}', "the key 'a' is there twice"),
        ("{} x", "Extra data: line 1 column 4"),
        ("[" * 10**5, "recursion"),
        ('{"annotations": ' + "[" * 10**5, "recursion"),
    ],
)
def test_a_file_that_is_no_json_is_refused_with_its_place(tmp_path, text, reason):
    """The error names line and column, as the standard decoder does."""
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=reason):
        read(path)
