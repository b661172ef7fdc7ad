"""Backbones against the timm models they are made of."""

import hashlib

import pytest
import timm
import torch
from timm.data import resolve_model_data_config

from fewshot_cli.engine.model.backbone import Backbone, fingerprint, merged_module, with_twin
from fewshot_cli.engine.model.model import grafted
from fewshot_cli.engine.model.timm_models import build_backbone, classifier_name, plain_timm_model
from fewshot_cli.engine.model.timm_names import check_name, hub_repository, list_backbones
from fewshot_cli.errors import FewshotError
from fewshot_cli.jobs.features import model_key

# Plain and relative attention, batch norm, a hidden layer before the classifier, buffers that are no weights.
ARCHITECTURES = (
    "test_vit",
    "test_vit_relpos",
    "test_efficientnet",
    "test_resnet",
    "test_convnext",
    "test_mambaout",
    "test_maxvit",
    "mobilenetv3_small_050",
    "levit_128s",
)


def reference(name, weights, **options):
    """The model as a user of timm makes it, without the classifier."""
    model = timm.create_model(name, num_classes=0, **options)
    model.load_state_dict({key: value for key, value in weights.items() if key in model.state_dict()})
    return model.eval().requires_grad_(False)


def batch(size, n=2):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["with", "without"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_are_those_of_the_timm_model(name, classifier, random_weights):
    weights = random_weights(name)
    model = reference(name, weights)
    built = build_backbone(name, weights if classifier == "with" else model.state_dict())
    images = batch(built.preprocessing.size)
    actual, expected = built.features(images), model(images)
    if any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules()):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    else:  # no other memory format, so no other order of sums
        assert torch.equal(actual, expected)
    assert actual.shape == (2, built.dim)
    assert built.params.keys() == dict(model.named_parameters()).keys()
    assert not any(parameter.requires_grad for parameter in built.module.parameters())
    assert not built.module.training


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_weights_replace_the_bases_for_one_call_only(name, random_weights):
    first, second = random_weights(name, seed=0), random_weights(name, seed=1)
    built = build_backbone(name, first, image_size=64)
    images = batch((64, 64))
    plain = built.features(images)
    other = build_backbone(name, second, image_size=64)
    torch.testing.assert_close(built.features(images, other.params), other.features(images))
    assert not torch.allclose(plain, other.features(images))
    assert torch.equal(built.features(images), plain)
    assert torch.equal(built.features(images, {}), plain)


@pytest.mark.parametrize("size", [96, 224])
def test_a_vit_takes_another_size_by_resampling_its_positions(size, random_weights):
    weights = random_weights("test_vit")
    built = build_backbone("test_vit", weights, image_size=size)
    assert built.preprocessing.size == (size, size)
    assert built.params["pos_embed"].shape[1] == (size // 16) ** 2 + 1
    overlay = {"state_dict": dict(weights)}
    model = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=size)
    images = batch((size, size))
    assert torch.equal(built.features(images), model.eval()(images))
    assert built.fingerprint == build_backbone("test_vit", weights).fingerprint  # still the same weights


def test_a_convolutional_network_takes_another_size_as_it_is(random_weights):
    weights = random_weights("test_efficientnet")
    built = build_backbone("test_efficientnet", weights, image_size=96)
    own = build_backbone("test_efficientnet", weights)
    assert built.preprocessing.size == (96, 96)
    torch.testing.assert_close(built.features(batch((96, 96))), own.features(batch((96, 96))))


def test_half_precision_weights_become_float32(random_weights):
    weights = {k: v.half() if v.is_floating_point() else v for k, v in random_weights("test_vit").items()}
    built = build_backbone("test_vit", weights)
    assert {values.dtype for values in built.params.values()} == {torch.float32}
    assert built.features(batch((160, 160))).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("test_vit", "test_resnet"),
        ("test_resnet", "test_vit"),
        ("test_vit", "test_vit2"),
        ("test_convnext", "test_vit"),
    ],
)
def test_weights_of_another_model_are_an_error_never_a_random_network(name, of, random_weights):
    with pytest.raises(FewshotError, match=f"not of {name}") as caught:
        build_backbone(name, random_weights(of))
    assert "--backbone" in caught.value.hint


@pytest.mark.parametrize("image_size", [None, 64])
def test_one_weight_missing_or_too_many_is_an_error(random_weights, image_size):
    whole = random_weights("test_vit")
    missing = {key: value for key, value in whole.items() if key != "blocks.1.mlp.fc1.weight"}
    with pytest.raises(FewshotError, match=r"blocks\.1\.mlp\.fc1\.weight"):
        build_backbone("test_vit", missing, image_size)
    with pytest.raises(FewshotError, match="stranger"):
        build_backbone("test_vit", whole | {"stranger": torch.zeros(2)}, image_size)


def test_no_weights_at_all_are_an_error_and_no_download():
    with pytest.raises(FewshotError, match="not of test_vit"):
        build_backbone("test_vit", {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levit_128s", "test_maxvit"])
def test_a_size_the_architecture_cannot_take_is_an_error(name, random_weights):
    with pytest.raises(FewshotError, match="150 pixels"):
        build_backbone(name, random_weights(name), image_size=150)


def test_an_unknown_name_is_an_error_with_the_nearest_names():
    with pytest.raises(FewshotError, match="'resnet_50'") as caught:
        build_backbone("resnet_50", {})
    assert "resnet50" in caught.value.hint
    check_name("resnet50")
    check_name("resnet50.a1_in1k")


def test_preprocessing_is_timms(random_weights):
    for name in ("test_vit", "test_efficientnet", "test_convnext"):
        facts = resolve_model_data_config(timm.create_model(name))
        ours = build_backbone(name, random_weights(name)).preprocessing
        assert ours.size == facts["input_size"][1:]
        assert (ours.crop_fraction, ours.crop_mode, ours.interpolation) == tuple(
            facts[key] for key in ("crop_pct", "crop_mode", "interpolation")
        )
        assert (ours.mean, ours.std) == (facts["mean"], facts["std"])


def test_normalised_pictures_have_the_mean_taken_off_and_are_divided_by_the_deviation(conv):
    picture = torch.arange(3 * 4).view(1, 3, 2, 2).byte() * 20
    expected = torch.stack(
        [
            (picture[:, c] / 255 - mean) / std
            for c, (mean, std) in enumerate(zip(conv.preprocessing.mean, conv.preprocessing.std, strict=True))
        ],
        dim=1,
    )
    torch.testing.assert_close(conv.normalised(picture), expected)


def test_frozen_features_do_not_depend_on_the_chunks(backbone, pictures, monkeypatch):
    images, _ = pictures((3, 3, 1), seed=0)
    whole = backbone.frozen_features(images)
    monkeypatch.setattr(Backbone, "chunk", 2)
    chunked = backbone.frozen_features(images)
    torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole, backbone.features(backbone.normalised(images)), rtol=1e-4, atol=1e-5)
    assert not whole.requires_grad
    assert backbone.frozen_features(images[:0]).shape == (0, backbone.dim)


def test_a_chunk_is_at_least_one_picture_however_large(random_weights):
    assert build_backbone("test_efficientnet", random_weights("test_efficientnet"), image_size=1024).chunk == 1


def test_the_fingerprint_is_of_names_shapes_and_values_in_any_order():
    weights = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3)}
    same = {"a": torch.tensor(3), "b": torch.tensor([[1.0, 2.0]])}
    assert fingerprint(weights) == fingerprint(same)
    assert len(bytes.fromhex(fingerprint(weights))) == hashlib.sha256().digest_size
    others = (
        {"b": torch.tensor([[1.0, 2.0000002]]), "a": torch.tensor(3)},
        {"b": torch.tensor([[1.0], [2.0]]), "a": torch.tensor(3)},
        {"c": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3)},
        {"b": torch.tensor([[1.0, 2.0]])},
    )
    assert len({fingerprint(other) for other in (*others, weights)}) == len(others) + 1


def test_the_fingerprint_of_a_backbone_is_that_of_its_file(random_weights):
    weights = random_weights("test_efficientnet")
    assert build_backbone("test_efficientnet", weights, image_size=64).fingerprint == fingerprint(weights)


def test_a_merged_module_is_the_backbone_under_other_weights(backbone, pictures):
    images = backbone.normalised(pictures((1, 1, 1), seed=0)[0])
    weights = {name: values * 1.1 for name, values in backbone.params.items()}
    module = merged_module(backbone, weights)
    expected = backbone.features(images, weights)
    torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert not torch.equal(module(images), backbone.features(images))  # and the backbone itself is as it was


def test_the_plain_timm_model_takes_merged_weights_and_a_head(backbone, pictures):
    images = backbone.normalised(pictures((1, 1, 1), seed=0)[0])
    model, classifier = plain_timm_model(backbone, way=4), classifier_name(backbone)
    head = torch.nn.Linear(backbone.dim, 4)
    head_weights = {f"{classifier}.{part}": values for part, values in head.state_dict().items()}
    model.load_state_dict(backbone.module.state_dict() | head_weights)
    torch.testing.assert_close(model(images), head(backbone.features(images)), rtol=1e-4, atol=1e-5)


def test_timms_lists_are_searched_without_a_network():
    assert "resnet50.a1_in1k" in list_backbones("resnet50.a1")
    assert not list_backbones("no_such_model")
    assert hub_repository("test_vit") == "timm/test_vit.r160_in1k"


def test_a_moved_backbone_is_the_same_with_other_weights(backbone, pictures):
    images = backbone.normalised(pictures((2, 2), seed=1)[0])
    name = next(name for name, values in backbone.params.items() if values.ndim > 1)
    first, second = ({name: backbone.params[name] * factor} for factor in (1.5, 2.0))
    expected = backbone.features(images, first)
    moved = backbone.moved(first)
    assert torch.equal(moved.features(images), expected)
    assert torch.equal(moved.params[name], first[name]) and list(moved.params) == list(backbone.params)
    assert torch.equal(moved.features(images, second), backbone.features(images, second))
    assert torch.equal(moved.moved(second).features(images), backbone.features(images, second))
    assert torch.equal(moved.features(images), expected)
    assert not torch.equal(backbone.features(images), expected)


def test_a_moved_backbone_keeps_its_identity_and_has_one_of_its_own_beside_it(backbone):
    name = next(iter(backbone.params))
    moved, other = (backbone.moved({name: backbone.params[name] + shift}) for shift in (1, 2))
    assert moved.fingerprint == backbone.fingerprint
    assert backbone.moved_fingerprint == backbone.moved({}).moved_fingerprint == ""
    assert moved.moved_fingerprint != other.moved_fingerprint
    assert moved.moved_fingerprint == backbone.moved(moved.overlay).moved_fingerprint


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_resnet"])
def test_weights_with_and_without_their_classifier_are_one_body(name, random_weights):
    weights = random_weights(name)
    whole = build_backbone(name, weights)
    assert whole.classifier and {key.rpartition(".")[2] for key in whole.classifier} == {"weight", "bias"}
    body = {key: values for key, values in weights.items() if key not in whole.classifier}
    other = weights | {key: values + 1 for key, values in weights.items() if key in whole.classifier}
    without, another = build_backbone(name, body), build_backbone(name, other, image_size=64)
    assert len({whole.fingerprint, without.fingerprint, another.fingerprint}) == 3
    assert whole.body_fingerprint == without.body_fingerprint == without.fingerprint == another.body_fingerprint
    moved = build_backbone(name, weights | {key: values + 1 for key, values in list(body.items())[:1]})
    assert moved.body_fingerprint != whole.body_fingerprint


@pytest.mark.slow
def test_a_network_of_convolutions_runs_with_channels_last_whatever_its_norms(random_weights):
    for name, expected in (("test_nfnet", True), ("test_efficientnet", True), ("test_vit", False)):
        backbone = build_backbone(name, random_weights(name))
        assert backbone.channels_last == expected, name
        seen = []
        first = next(part for part in backbone.module.modules() if isinstance(part, torch.nn.Conv2d))
        handle = first.register_forward_pre_hook(lambda part, given, seen=seen: seen.append(given[0]))
        actual = backbone.features(batch(backbone.preprocessing.size))
        handle.remove()
        assert seen[0].is_contiguous(memory_format=torch.channels_last) == expected
        wanted = reference(name, random_weights(name))(batch(backbone.preprocessing.size))
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def test_a_pass_does_not_look_what_the_network_is_made_of(random_weights, monkeypatch):
    backbone = build_backbone("test_efficientnet", random_weights("test_efficientnet"))
    images = batch(backbone.preprocessing.size)
    monkeypatch.setattr(type(backbone.module), "modules", None)
    backbone.features(images)


# --- frozen passes on another device ---

THERE = torch.device("cpu", 0)  # equals no device without a number, so that it can stand for another


@pytest.fixture
def twinned(vit):
    """The backbone with frozen passes elsewhere, and how many passes were done there and here."""
    both = with_twin(vit, THERE)
    counts = {"there": 0, "here": 0}

    def count(where):
        return lambda *_: counts.update({where: counts[where] + 1})

    hooks = [both.twin.register_forward_hook(count("there")), both.module.register_forward_hook(count("here"))]
    yield both, counts
    for hook in hooks:
        hook.remove()


def test_frozen_passes_are_done_there_and_their_features_come_here(vit, twinned):
    both, counts = twinned
    pictures = torch.randint(256, (5, 3, 64, 64), dtype=torch.uint8)
    weights = {name: values + 0.1 for name, values in vit.params.items() if name.endswith("bias")}
    expected, expected_of_moved = vit.frozen_features(pictures), vit.moved(weights).frozen_features(pictures)
    counts.update(here=0)
    assert torch.equal(both.frozen_features(pictures), expected)
    assert torch.equal(both.moved(weights).frozen_features(pictures), expected_of_moved)
    assert torch.equal(both.frozen_features(pictures, weights), expected_of_moved)
    assert counts == {"there": 3, "here": 0}
    assert both.device == torch.device("cpu")


@pytest.mark.slow
def test_passes_with_a_gradient_and_through_grafts_are_done_here(vit, twinned):
    both, counts = twinned
    both.features(torch.randn(2, 3, 64, 64))
    assert counts == {"there": 0, "here": 1}
    grown = grafted(both, ("",), {"map": torch.eye(vit.dim)}, lambda site, params, inputs, outputs: 2 * outputs)
    pictures = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(grown.frozen_features(pictures), 2 * vit.frozen_features(pictures))
    assert counts["there"] == 0


def test_features_are_cached_by_where_they_were_computed(vit, monkeypatch):
    monkeypatch.setattr(Backbone, "embedding_device", torch.device("mps"))
    elsewhere = model_key(vit, "")
    monkeypatch.undo()
    assert elsewhere != model_key(vit, "")
