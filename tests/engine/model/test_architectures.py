"""A dozen families of timm beside the two that every other test runs on: what LoRA changes, and where a head goes."""

import functools
import re

import pytest
import timm
import torch
from torch import nn

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.model.attention import projections
from fewshot_cli.engine.model.backbone import merged_module, state_with
from fewshot_cli.engine.model.classifiers import classifier_of, classifier_values
from fewshot_cli.engine.model.matrices import low_rank_targets
from fewshot_cli.engine.model.timm_models import build_backbone, classifier_name, plain_timm_model
from fewshot_cli.engine.params import total_size
from fewshot_cli.errors import FewshotError

WAY = 5
CLASSIFIERS = {
    "resnet18": "fc",
    "convnext_atto": "head.fc",
    "sequencer2d_s": "head.fc",
    "edgenext_xx_small": "head.fc",
    "coat_lite_tiny": "head",
    "resnetv2_18": "a convolution",
    "efficientvit_m0": "a batch norm before it",
    "shvit_s1": "a batch norm before it",
    "repvit_m0_9": "two, each after a batch norm",
    "levit_128s": "two, each after a batch norm",
    "deit_tiny_distilled_patch16_224": "two on features of their own, which are averaged",
    "crossvit_tiny_240": "two on features of their own, side by side",
    "efficientvim_m1": "four on features of their own, with learned weights",
}
OLD_TARGETS = r"attn\.qkv\.weight$|conv_pwl?\.weight$"
SIZES = {"levit_128s": 224, "crossvit_tiny_240": 240, "coat_lite_tiny": 64}


@functools.cache
def built(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone(name, timm.create_model(name).state_dict(), SIZES.get(name, 64))


def pictures(backbone, count=2):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *backbone.preprocessing.size, generator=rng)


def random_head(backbone, features):
    rng = torch.Generator().manual_seed(2)
    weight = torch.randn(WAY, backbone.dim, generator=rng) / features.norm()
    return Head(weight, torch.randn(WAY, generator=rng), unit_norm=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_timms_own_model_holds_any_linear_head_exactly(name):
    backbone = built(name)
    images = pictures(backbone)
    features = backbone.features(images)
    head = random_head(backbone, features)
    plain, body = plain_timm_model(backbone, WAY), state_with(backbone, {})
    for part in plain.modules():  # as pre-trained weights would have them
        if isinstance(part, nn.BatchNorm1d):
            nn.init.uniform_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
    classifier = classifier_of(plain, body.keys(), name, WAY)
    plain.load_state_dict(plain.state_dict() | body)
    values = classifier_values(plain, classifier, head, images, features)
    plain.load_state_dict(plain.state_dict() | body | values, strict=True)
    expected = head.logits(features)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "what"), CLASSIFIERS.items())
def test_only_a_single_linear_classifier_has_a_name(name, what):
    single = dict(timm.create_model(name, num_classes=WAY).named_modules()).get(what)
    if single is not None:
        assert classifier_name(built(name)) == what
    else:
        with pytest.raises(FewshotError, match="no single linear classifier") as caught:
            classifier_name(built(name))
        assert "safetensors" in caught.value.hint


def test_a_layer_between_features_and_classifier_is_the_reason_given():
    plain = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, WAY))
    with pytest.raises(FewshotError, match=r"has 1, a LayerNorm with weights of its own"):
        classifier_of(plain, {"0.weight", "0.bias"}, "net", WAY)
    with pytest.raises(FewshotError, match="no classifier"):
        classifier_of(nn.Sequential(nn.Linear(4, 4)), {"0.weight", "0.bias"}, "net", WAY)


def test_a_classifier_without_a_bias_holds_no_head_with_one():
    plain = nn.Sequential(nn.Linear(4, WAY, bias=False))
    head = Head(torch.ones(WAY, 4), torch.ones(WAY), unit_norm=False)
    with pytest.raises(FewshotError, match="has no bias"):
        classifier_values(plain, classifier_of(plain, (), "net", WAY), head, torch.zeros(1, 4), torch.zeros(1, 4))


class WithAuxiliary(nn.Module):
    """As in VOLO: half of the best answer to any of the tokens is added to that of the class token."""

    def __init__(self):
        super().__init__()
        self.aux_head, self.head = nn.Linear(4, WAY), nn.Linear(4, WAY)

    def forward(self, tokens):
        return self.head(tokens[:, 0]) + 0.5 * self.aux_head(tokens).max(1)[0]


def test_an_auxiliary_classifier_is_left_without_a_say():
    tokens = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    plain = WithAuxiliary()
    head = Head(torch.randn(WAY, 4), torch.randn(WAY), unit_norm=False)
    values = classifier_values(plain, classifier_of(plain, (), "net", WAY), head, tokens, tokens[:, 0])
    plain.load_state_dict(values)
    torch.testing.assert_close(plain(tokens), head.logits(tokens[:, 0]))


def test_classifiers_that_all_look_at_something_else_are_refused():
    tokens = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    head = Head(torch.ones(WAY, 4), torch.ones(WAY), unit_norm=False)
    plain = WithAuxiliary()
    with pytest.raises(FewshotError, match="no linear layer on these features"):
        classifier_values(plain, classifier_of(plain, (), "net", WAY), head, tokens, tokens[:, 0].flip(0).exp())


def old_targets(backbone):
    wanted = re.compile(OLD_TARGETS)
    return [name for name, values in backbone.params.items() if wanted.search(name) and values.ndim > 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["tf_efficientnet_lite0", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "test_vit", "test_vit2"],
)
def test_what_the_default_targets_were_they_are(name):
    backbone = built(name)
    found = low_rank_targets(backbone, projections(backbone.module), ("q", "v"))
    assert list(found) == old_targets(backbone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("resnet18", "layer1.0.conv1.weight", 19),
        ("convnext_atto", "stages.0.blocks.0.mlp.fc1.weight", 27),
        ("regnety_002", "s1.b1.conv1.conv.weight", 30),
        ("resnetv2_18", "stages.0.blocks.0.conv1.weight", 19),
        ("ghostnet_100", "blocks.0.0.ghost1.primary_conv.0.weight", 38),
        ("sequencer2d_s", "stages.0.blocks.0.rnn_tokens.fc.weight", 57),
        ("mobilenetv4_hybrid_medium", "blocks.2.4.attn.query.proj.weight", 16),
        ("levit_128s", "stages.0.blocks.0.attn.qkv.linear.weight", 13),
        ("efficientvit_m0", "stages.0.blocks.0.mixer.m.attn.qkvs.0.conv.weight", 24),
        ("efficientvim_m1", "patch_embed.conv.1.conv.weight", 37),
    ],
)
def test_every_family_has_weights_that_lora_changes(name, first, count):
    backbone = built(name)
    found = low_rank_targets(backbone, projections(backbone.module), ("q", "v"))
    assert next(iter(found)) == first and len(found) == count
    assert not any(".se." in target for target in found)
    assert all(values.ndim > 1 for values in found.values())
    assert total_size(found) < total_size(backbone.params)


ATTENTION = {
    "coat_lite_tiny": 224,
    "crossvit_tiny_240": 240,
    "efficientformer_l1": 224,
    "efficientvit_m0": 224,
    "maxvit_rmlp_pico_rw_256": 256,
    "mobilevit_xxs": 128,
    "pvt_v2_b0": 64,
    "shvit_s1": 224,
    "swin_tiny_patch4_window7_224": 224,
    "test_vit": 160,
    "tiny_vit_5m_224": 224,
    "tnt_s_legacy_patch16_224": 224,
    "twins_svt_small": 64,
}
"""Attention by softmax, without norms on queries and keys; each with a size that it takes."""


@torch.no_grad()
def audible(model):
    """The model with blocks that count: many begin with a last scale of zero or nearly, and with tiny queries."""
    for values in model.parameters():
        if values.ndim == 1 and float(values.abs().max()) < 1e-2 and len(values.unique()) == 1:
            values.fill_(0.5)
    for weight in projections(model):
        model.get_parameter(weight).mul_(20)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTENTION)
def test_keys_are_where_a_constant_changes_nothing(name):
    """A constant added to all keys adds the same to all of a query's logits, which softmax takes off again."""
    torch.manual_seed(0)
    model = audible(timm.create_model(name, num_classes=0).eval())
    rows = projections(model)
    fused = [weight for weight, found in rows.items() if len(found) > 1 and "k" in found]
    assert fused
    weight = fused[-1]
    layer = model.get_submodule(weight.removesuffix(".weight"))
    images = torch.randn(1, 3, ATTENTION[name], ATTENTION[name])

    def moved(letter):
        def add(_, __, output):
            axis = 1 if isinstance(layer, nn.Conv2d) else output.ndim - 1
            constant = torch.zeros(output.shape[axis])
            constant[rows[weight][letter]] = torch.randn(len(rows[weight][letter])) * output.std() * 5
            shape = [-1 if i == axis else 1 for i in range(output.ndim)]
            return output + constant.view(shape)

        return add

    with torch.no_grad():
        plain = model(images)
        changes = {}
        for letter in rows[weight]:
            with layer.register_forward_hook(moved(letter)):
                changes[letter] = float((model(images) - plain).abs().max())
    assert changes["k"] < 1e-4 * float(plain.abs().max())
    assert all(change > 10 * changes["k"] for letter, change in changes.items() if letter != "k"), changes


@pytest.mark.slow
def test_shared_parameters_are_merged_by_each_of_their_names():
    weights = timm.create_model("coat_lite_tiny").state_dict()  # its class token hardly sees the picture yet
    weights = {name: 8 * values if values.ndim == 2 else values for name, values in weights.items()}
    backbone = build_backbone("coat_lite_tiny", weights, 64)
    shared = [
        name
        for name, _ in backbone.module.named_parameters(remove_duplicate=False)
        if name not in dict(backbone.module.named_parameters())
    ]
    assert shared
    name = "cpe1.proj.weight"
    weights = {name: backbone.params[name] + 0.5}
    images = pictures(backbone)
    plain = backbone.features(images)
    module = merged_module(backbone, weights)
    torch.testing.assert_close(module(images), backbone.features(images, weights), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(module(images), plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(backbone.features(images), plain)
    twins = [key for key, values in state_with(backbone, weights).items() if torch.equal(values, weights[name])]
    assert len(twins) > 1


def test_a_kernel_of_another_rank_stays_as_it_is_beside_channels_last_ones():
    backbone = build_backbone("lambda_resnet26t", timm.create_model("lambda_resnet26t").state_dict(), 128)
    assert {values.ndim for values in backbone.params.values()} >= {4, 5}
    kernels = [values for values in backbone.params.values() if values.ndim == 4 and values.shape[-1] > 1]
    assert all(values.is_contiguous(memory_format=torch.channels_last) for values in kernels)
    assert backbone.features(pictures(backbone, 1)).shape == (1, backbone.dim)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levit_128s", "efficientvit_m0"])
def test_attention_biases_that_timm_remembers_are_the_moved_ones(name):
    backbone = built(name)
    images = pictures(backbone)
    plain = backbone.features(images)
    moved = {
        key: values + torch.linspace(-9, 9, values.numel()).view_as(values)
        for key, values in backbone.params.items()
        if key.endswith("attention_biases")
    }
    moved |= {key: torch.ones_like(values) for key, values in backbone.params.items() if key.endswith("bn.weight")}
    own = {key: values for key, values in moved.items() if not key.endswith("attention_biases")}
    assert not torch.allclose(backbone.features(images, moved), backbone.features(images, own), rtol=1e-3)
    trained = {key: values.clone().requires_grad_() for key, values in moved.items()}
    for _ in range(2):  # a second pass, with a graph of its own
        backbone.features(images, trained).sum().backward()
    torch.testing.assert_close(backbone.features(images, moved), merged_module(backbone, moved)(images))
    assert torch.equal(backbone.features(images), plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "works"),
    [("efficientformer_l1", 112, 224), ("mixer_s32_224", 112, 224), ("levit_128s", 150, 224), ("test_vit", 100, 96)],
)
def test_a_size_that_a_network_cannot_take_is_told_with_those_that_it_takes(name, size, works):
    weights = timm.create_model(name).state_dict()
    with pytest.raises(FewshotError, match=rf"{name} can't take images of {size} pixels; it takes .*{works}") as caught:
        build_backbone(name, weights, size)
    assert f"--image-size {works}" in caught.value.hint
    assert len(caught.value.problem) < 120


@pytest.mark.parametrize(("name", "all_called"), [("eva02_tiny_patch14_224", False), ("test_vit", True)])
def test_layers_whose_weights_are_read_without_calling_them_are_known(name, all_called):
    backbone = build_backbone(name, timm.create_model(name).state_dict(), 112)
    layers = {name for name, part in backbone.module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
    uncalled = layers - backbone.called
    assert bool(uncalled) != all_called
    assert all(layer.endswith("attn.qkv") for layer in uncalled)
