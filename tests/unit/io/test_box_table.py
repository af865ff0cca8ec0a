"""Boxes read into arrays: what an entry costs, and which of several faults is reported."""

import gc
import json
import tracemalloc

import pytest

from dcnlab.io.box_table import BoxTable
from dcnlab.io.errors import DataError
from dcnlab.io.json_lists import load_object
from dcnlab.metrics.boxes import filled

BOX = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 1, "difficult": 0}


def test_columns_hold_what_the_entries_say():
    """Values of two entries, one with every key and one with the needed keys alone."""
    plain = {"image_id": "b", "category_id": 4, "bbox": [0, 0, 2.5, 2]}
    columns = filled(BoxTable(), [BOX, plain]).columns({7: 0, "b": 1}, {3: 0, 4: 2})
    assert columns.images.tolist() == [0, 1]
    assert columns.classes.tolist() == [0, 2]
    assert columns.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 2.5, 2]]
    assert columns.values.tolist() == [9.5, 5]
    assert columns.crowd.tolist() == [True, False]
    assert columns.difficult.tolist() == [False, False]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({2: {"image_id": 8}, 3: {"bbox": []}}, "annotation 2 has the image_id 8, which no image has; nearest: 7"),
        ({2: {"bbox": []}, 3: {"image_id": 8}}, r"annotation 2 has the bbox \[\]"),
        ({1: {"category_id": 9}, 2: {"image_id": 8}}, "annotation 1 has the category_id 9, which no category has"),
        ({3: {"image_id": 8, "category_id": 9}}, "annotation 3 has the image_id 8"),
        ({2: {"id": None, "difficult": "0"}}, "annotation 2, counted from 0, has the difficult '0'; it must be 0 or 1"),
    ],
)
def test_the_first_wrong_entry_is_reported(changes, words):
    """Ids are looked up at the end; the entry that is named is still the first one in the file."""
    table = filled(BoxTable(), [{**BOX, "id": at, **changes.get(at, {})} for at in range(5)])
    with pytest.raises(DataError, match=f"^x.json {words}"):
        table.columns({7: 0}, {3: 0}, prefix="x.json ")


def test_reading_keeps_no_dictionary_of_an_entry(tmp_path):
    """Beyond the file's text, 20,000 entries take 100 bytes each, where their dictionaries take a kilobyte."""
    mask = [[0.5] * 40]
    entries = [{**BOX, "id": number, "image_id": number % 10, "segmentation": mask} for number in range(20_000)]
    path, table = tmp_path / "a.json", BoxTable()
    path.write_text(json.dumps({"annotations": entries}))
    del entries
    assert gc.isenabled()
    tracemalloc.start()
    load_object(path, {"annotations": table.add})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert gc.isenabled()
    assert len(table) == 20_000
    assert peak - 2 * path.stat().st_size < 100 * 20_000
