import torch

from fewshot_cli.engine.head.growing import NamedFeatures

KNOWN = NamedFeatures(torch.eye(4), ("fox", "ant", "fox", "bee"), ("a", "b", "c", "d"))


def test_classes_are_sorted_and_labels_are_their_places():
    assert KNOWN.classes == ("ant", "bee", "fox")
    assert KNOWN.labels.tolist() == [2, 0, 2, 1]
    assert KNOWN.count("fox") == 2 and len(KNOWN) == 4


def test_images_join_and_classes_go():
    new = NamedFeatures(torch.full((1, 4), 2.0), ("cat",), ("e",))
    grown = KNOWN.joined(new)
    assert grown.classes == ("ant", "bee", "cat", "fox") and grown.labels.tolist() == [3, 0, 3, 1, 2]
    left = grown.without({"fox", "bee"})
    assert left.names == ("ant", "cat") and left.contents == ("b", "e")
    assert torch.equal(left.features, torch.stack([KNOWN.features[1], new.features[0]]))


def test_a_class_gets_another_name_and_an_image_another_class():
    assert KNOWN.renamed({"ant": "zebra"}).classes == ("bee", "fox", "zebra")
    assert KNOWN.relabelled({"c": "bee", "nowhere": "ant"}).names == ("fox", "ant", "bee", "bee")
    assert KNOWN.names == ("fox", "ant", "fox", "bee")
