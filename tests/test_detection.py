"""Average precision against pycocotools and by hand; ILSVRC's error by hand."""

import contextlib
import io

import numpy as np
import pytest

from segjax import detection, regions
from tests.requirements import require_parity
from tests.test_regions import blobs


def test_box_iou_by_hand():
    first = np.array([[0, 0, 4, 4], [10, 10, 12, 12]])
    second = np.array([[2, 2, 6, 6], [0, 0, 4, 2], [4, 0, 8, 4]])
    want = [[4 / 28, 8 / 16, 0], [0, 0, 0]]
    np.testing.assert_allclose(detection.box_iou(first, second), want)
    assert detection.box_iou(np.zeros((0, 4)), second).shape == (0, 3)


def test_average_precision_by_hand():
    # Two objects; the first detection is wrong, the second and the third hit: precision
    # 1/2 at recall 1/2 and 2/3 at recall 1, so 2/3 at every recall.
    found = detection.AveragePrecision(3, thresholds=(0.5, 0.75))
    iou = np.array([[0.1, 0.2], [0.9, 0.0], [0.0, 0.6]])
    found.add(0, np.array([0.9, 0.8, 0.7]), iou)
    # Class 1 has an object that nothing finds; class 2 has none: not in the mean.
    found.add(1, np.zeros(0), np.zeros((0, 1)))
    found.add(2, np.array([0.5]), np.zeros((1, 0)))
    # At 0.75 only the second hits: precision 1/2 up to recall 1/2: 51 of 101 recalls.
    second = 51 / 101 / 2
    np.testing.assert_allclose(
        found.values(), [[2 / 3, second], [0, 0], [np.nan] * 2], atol=1e-12
    )
    told = found.summarize(("a", "b", "c"))
    assert told["ap50"] == pytest.approx(1 / 3) and told["per_class"]["c"] is None
    assert told["ap"] == pytest.approx((2 / 3 + second) / 4)
    assert (told["objects"], told["detections"]) == (3, 4)
    nothing = detection.AveragePrecision(1).summarize(("a",))
    assert nothing["ap"] is None and nothing["ap50"] is None


def test_an_object_is_found_once_and_max_detections_acts():
    for limit, want in ((3, 1.0), (1, 1.0), (100, 1.0)):
        found = detection.AveragePrecision(1, (0.5,), limit)
        found.add(0, np.array([0.9, 0.8, 0.7]), np.full((3, 1), 0.9))
        assert found.values()[0, 0] == want
        assert found.summarize(("a",))["detections"] == min(3, limit)
    # The same three in two images: those found twice come first and cost precision.
    found = detection.AveragePrecision(1, (0.5,))
    found.add(0, np.array([0.9, 0.8, 0.7]), np.full((3, 1), 0.9))
    found.add(0, np.array([0.1]), np.full((1, 1), 0.9))
    assert found.values()[0, 0] == pytest.approx((51 * 1 + 50 * 0.5) / 101)


def cocoeval(kind: str, truths: list, detections: list, size, classes: int):
    """AP, AP50 and AP per class of pycocotools; scores of ``detections`` are added."""
    coco_module = require_parity("pycocotools.coco")
    evaluation = require_parity("pycocotools.cocoeval")

    def entries(images, scored):
        for image, found in enumerate(images):
            for region in found:
                x0, y0, x1, y1 = region.box
                yield {
                    "image_id": image + 1,
                    "category_id": region.class_id + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": region.area,
                    "iscrowd": 0,
                    "segmentation": regions.encode(region.mask, size, region.box[:2]),
                } | ({"score": region.score} if scored else {})

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_module.COCO()
        truth.dataset = {
            "info": {},
            "images": [
                {"id": i + 1, "height": size[0], "width": size[1]}
                for i in range(len(truths))
            ],
            "categories": [{"id": k + 1, "name": str(k)} for k in range(classes)],
            "annotations": [
                {"id": i + 1, **entry} for i, entry in enumerate(entries(truths, False))
            ],
        }
        truth.createIndex()
        found = truth.loadRes(list(entries(detections, True)))
        ran = evaluation.COCOeval(truth, found, kind)
        ran.evaluate()
        ran.accumulate()
        ran.summarize()
    # [threshold, recall, class, area, max detections]: all areas, 100.
    per_class = ran.eval["precision"][:, :, :, 0, 2].mean(1).T
    return ran.stats[0], ran.stats[1], np.where(per_class < 0, np.nan, per_class)


# pycocotools 2.0.11 itself uses what NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parity
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_average_precision_is_that_of_pycocotools(kind):
    require_parity("pycocotools.cocoeval")
    random, size, classes = np.random.default_rng(5), (61, 83), 6
    truths, detections = [], []
    for image in range(25):
        truth = blobs(2 * image, size, classes - 1)
        # A map that agrees in part, and scores that are often equal.
        other = blobs(2 * image + 1, size, classes)
        label = np.where(blobs(900 + image, size, 3) == 0, other, truth)
        confidence = np.round(random.random(size) ** 0.3, 1)
        truths.append(regions.find(truth, classes, min_area=4))
        found = regions.find(label, classes, confidence, min_area=4)
        rounded = [
            regions.Region(f.class_id, f.box, f.area, f.mask, round(f.score or 0, 2))
            for f in found
        ]
        detections.append(rounded)
    ours = detection.AveragePrecision(classes)
    for true, found in zip(truths, detections, strict=True):
        for class_id in range(classes):
            pair = [
                [r for r in side if r.class_id == class_id] for side in (found, true)
            ]
            if kind == "segm":
                iou = regions.mask_iou(*pair)
            else:
                iou = detection.box_iou(*map(regions.boxes_of, pair))
            ours.add(class_id, np.array([f.score for f in pair[0]]), iou)
    ap, ap50, per_class = cocoeval(kind, truths, detections, size, classes)
    told = ours.summarize([str(k) for k in range(classes)])
    assert 0.1 < told["ap"] < 0.9 and told["per_class"]["5"] is None
    assert abs(told["ap"] - ap) < 1e-6 and abs(told["ap50"] - ap50) < 1e-6
    np.testing.assert_allclose(ours.values(), per_class, atol=1e-6)


def test_localization_error_by_hand():
    square = np.array([0, 0, 10, 10])
    half, far = np.array([0, 0, 10, 5]), np.array([50, 50, 60, 60])
    classes = [[1, 2], [3, 1], [4, 5], [1, 2]]
    boxes = [[square, far], [square, half], [square, square], [far, square]]
    truth = [1, 1, 1, 1]
    # Right at once; second guess, IoU exactly 0.5; never; class right, box wrong.
    truth_boxes = [np.array([far, square]), square[None], square[None], square[None]]
    got = detection.localization_error(
        np.array(classes), np.array(boxes), truth, truth_boxes
    )
    assert got == pytest.approx(
        {
            "top1_error": 0.5,
            "top1_localization_error": 0.75,
            "top2_error": 0.25,
            "top2_localization_error": 0.5,
        }
    )
    stricter = detection.localization_error(
        np.array(classes), np.array(boxes), truth, truth_boxes, iou=0.6
    )
    assert stricter["top2_localization_error"] == 0.75
    with pytest.raises(ValueError, match=r"lengths \[3, 4\]"):
        detection.localization_error(np.array(classes), np.array(boxes), [1] * 3, boxes)
