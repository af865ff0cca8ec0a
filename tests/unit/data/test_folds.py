"""Folds: every image is tested in one of them, and trains or validates in the others."""

from collections import Counter

import numpy as np
import pytest
import small_experiments

from dcnlab.config.load import load_experiment
from dcnlab.config.validation import check
from dcnlab.data.folds import Fold, blocks, interleaved, stratified
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.training.build_data import data_module
from dcnlab.training.scored_images import image_names


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The experiments of `small_experiments`, of 16 training and 7 test images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("folds"))
        small_experiments.write_data()
        yield


def names_of(split):
    return set(image_names(split, ".", list(range(len(split)))))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("val", ["test", "pair"])
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_folds_of_listed_images_are_disjoint_and_whole(task, val, seed, shapes):
    """23 images in three folds; val validates on the fold where it is test, else on a tenth of the rest."""
    tested = []
    for k in (1, 2, 3):
        data = data_module(load_experiment(f"{task}.yaml", [f"data.fold={k}/3", f"data.val={val}", f"seed={seed}"]))
        train, held, test = (names_of(split) for split in (data.train, data.val, data.test))
        assert len(train | held | test) == 23
        assert not (train & test) | (train & held)
        assert held == test if val == "test" else 1 <= len(held) <= 2 and not held & test
        assert 7 <= len(test) <= 8
        tested += test
        if seed:
            whole = data_module(load_experiment(f"{task}.yaml", [f"data.fold={k}/3", f"data.val={val}"]))
            assert names_of(whole.test) == test
    assert len(set(tested)) == len(tested) == 23


def test_detection_folds_keep_the_boxes_of_their_images(shapes):
    """Each image's only box has the class that the image had before the cut."""
    whole = data_module(load_experiment("detection.yaml", ["data.train=[train, test]"])).train.annotations
    of_file = dict(
        zip(whole.files.tolist(), zip(whole.boxes.tolist(), whole.labels.tolist(), strict=True), strict=True)
    )
    part = data_module(load_experiment("detection.yaml", ["data.fold=2/3"])).test.annotations
    assert part.offsets.tolist() == list(range(len(part) + 1))
    for at, file in enumerate(part.files.tolist()):
        assert (part.boxes[at].tolist(), part.labels[at]) == of_file[file]
        assert part.image_ids[at] == file.split("/")[-1].removesuffix(".jpg")


def test_segmentation_folds_are_blocks_of_neighbours(shapes):
    """In the order of file names, in which 10 stands before 2."""
    order = sorted(f"{number}.jpg" for number in range(23))
    for k in (1, 2, 3):
        data = data_module(load_experiment("segmentation.yaml", [f"data.fold={k}/3"]))
        block = [path.name for path, _ in data.test.pairs]
        assert block == order[order.index(block[0]) :][: len(block)]


@pytest.mark.parametrize("val", ["null", "test"])
def test_folds_of_class_folders_are_stratified(val, shapes):
    """Each class differs by one image at most between folds; a tenth of the rest validates where val is null."""
    counts, tested = [], []
    for k in (1, 2, 3):
        data = data_module(load_experiment("classification.yaml", [f"data.fold={k}/3", f"data.val={val}"]))
        train, held, test = (names_of(split) for split in (data.train, data.val, data.test))
        assert (held == test) == (val == "test")
        assert not train & (held | test)
        assert len(train | held | test) == 23
        tested += test
        counts.append(np.bincount(data.test.labels, minlength=2))
        folders = [name.split("/")[-2] for name in image_names(data.test, ".", list(range(len(data.test))))]
        assert folders == [data.classes[label] for label in data.test.labels]
    assert len(set(tested)) == len(tested) == 23
    assert np.ptp(counts, axis=0).max() <= 1


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_folds_of_the_digits_share_no_digit(task, tiny):
    """10,000 digits, 1,000 in each of ten folds; of the rest a tenth validates; scenes have other names and poses."""
    data_sets = []
    for k in (1, 10):
        words = [f"task={task}", "model.name=class_aware_rpn"] if task == "detection" else []
        words += [f"data.fold={k}/10", "data.train_length=null", "data.test_length=null"]
        data_sets.append(data_module(load_experiment(tiny, words)))
    unions = []
    for data in data_sets:
        scenes = [split.scenes for split in (data.train, data.val, data.test)]
        assert [len(part) for part in scenes] == [8100, 900, 1000]
        digits = [Counter(ink.tobytes() for ink in part.inks) for part in scenes]
        unions.append(digits[0] + digits[1] + digits[2])
        counts = [np.bincount(part.digit_labels, minlength=10) for part in scenes]
        assert np.abs(counts[2] - sum(counts) / 10).max() < 1
    assert unions[0] == unions[1]
    assert unions[0].total() == 10_000
    first, last = data_sets
    assert not {ink.tobytes() for ink in first.test.scenes.inks} & {ink.tobytes() for ink in last.test.scenes.inks}
    assert not names_of(first.test) & names_of(last.test)
    assert first.test.scenes.key != last.test.scenes.key


def test_the_cuts_by_hand():
    """Seven images in three parts; the labels of the last decide."""
    labels = np.array([1, 0, 0, 1, 0, 0, 1])
    assert blocks(labels, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert interleaved(labels, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert stratified(labels, 3).tolist() == [1, 0, 1, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ("fold", "says"),
    [
        ("0/5", "data.fold is '0/5'; k must lie in 1 to n, and n be at least 2; nearest: 1/5"),
        ("6/5", "data.fold is '6/5'; k must lie in 1 to n, and n be at least 2; nearest: 5/5"),
        ("1/1", "data.fold is '1/1'; k must lie in 1 to n, and n be at least 2; nearest: 1/2"),
        ("a", "data.fold is 'a'; it must be k/n, fold k of n, such as 1/5"),
        ("-1/5", "data.fold is '-1/5'; it must be k/n, fold k of n, such as 1/5"),
        ("1/5/2", "data.fold is '1/5/2'; it must be k/n, fold k of n, such as 1/5"),
    ],
)
def test_a_wrong_fold_is_one_line(fold, says, tiny):
    """It names the key, the value and, for numbers, the nearest right one."""
    with pytest.raises(ConfigError) as caught:
        check(load_experiment(tiny, [f"data.fold={fold}"]))
    assert str(caught.value) == f"command line: {says}"


def test_more_folds_than_images_are_refused():
    """One line with the number of images."""
    with pytest.raises(DataError, match=r"\Adata\.fold is 2/5, and the data set has 4 images; take fewer folds\Z"):
        Fold(2, 5).parts(np.zeros(4, int), interleaved, None)


def test_folds_of_a_data_set_of_your_own_are_refused(tiny):
    """Its class knows its images, ours do not."""
    with pytest.raises(ConfigError, match="a data set of your own cuts its folds itself"):
        check(load_experiment(tiny, ["data.name=package.module:Class", "data.fold=1/2"]))
