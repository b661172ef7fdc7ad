"""Two-tower models: equal to open_clip's numbers, whatever a file calls the weights, and one dict of parameters."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.model.clip.build import build_towers
from fewshot_cli.engine.model.clip.description import (
    Description,
    described_beside,
    plain_text_shapes,
    preprocessing_of,
)
from fewshot_cli.engine.model.clip.names import canonical, resized_positions
from fewshot_cli.engine.model.clip.open_clip import described, text_tower, tokenizer
from fewshot_cli.engine.model.clip.towers import mean_directions
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.decode import load_array

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
OPENAI_KEYS = {"input_resolution": torch.tensor(24), "context_length": torch.tensor(12), "vocab_size": torch.tensor(64)}


@pytest.fixture(scope="module")
def published(golden):
    numbers, config = golden("clip_zero_shot")
    return numbers, config, {name[2:]: values for name, values in numbers.items() if name.startswith("w.")}


def towers_about(config):
    return Description("clip:golden", config["model"], {})


@pytest.fixture(scope="module")
def towers(published):
    _, config, weights = published
    return build_towers(towers_about(config), weights)


def vectors_of(towers, tokens, weights=None):
    return mean_directions(towers.text_features(tokens.flatten(0, 1), weights), [tokens.shape[1]] * len(tokens))


def test_features_class_vectors_and_logits_are_open_clips(published, towers):
    numbers, _, _ = published
    features = towers.features(numbers["images"])
    torch.testing.assert_close(features, numbers["image_features"], **CLOSE)
    vectors = vectors_of(towers, numbers["tokens"])
    torch.testing.assert_close(vectors.T, numbers["class_vectors"], **CLOSE)
    logits = towers.scale * F.normalize(features, dim=1) @ vectors.T
    torch.testing.assert_close(logits, numbers["logits"], **CLOSE)


def test_quickgelu_changes_both_towers(published):
    numbers, config, weights = published
    quick = build_towers(Description("clip:golden", {**config["model"], "quick_gelu": True}, {}), weights)
    features = quick.features(numbers["images"])
    torch.testing.assert_close(features, numbers["quickgelu.image_features"], **CLOSE)
    torch.testing.assert_close(vectors_of(quick, numbers["tokens"]).T, numbers["quickgelu.class_vectors"], **CLOSE)


def test_the_bias_of_siglip_is_kept_and_its_probabilities_are_open_clips(published):
    numbers, config, weights = published
    siglip = {"logit_scale": torch.tensor(config["siglip"]["logit_scale"]), "logit_bias": torch.tensor([-10.0])}
    towers = build_towers(towers_about(config), weights | siglip)
    assert towers.bias == -10.0
    images = F.normalize(towers.features(numbers["images"][:5]), dim=1)
    texts = F.normalize(towers.text_features(numbers["tokens"][:, 0]), dim=1)
    logits = towers.scale * images @ texts.T + towers.bias
    torch.testing.assert_close(logits, numbers["siglip.pair_logits"], **CLOSE)
    torch.testing.assert_close(logits.sigmoid(), numbers["siglip.pair_probs"], **CLOSE)


def test_gradients_through_both_towers_are_open_clips(published, towers):
    numbers, config, weights = published
    trained = {name: values.clone().requires_grad_() for name, values in towers.params.items()}
    vectors = vectors_of(towers, numbers["tokens"], trained)
    logits = towers.scale * F.normalize(towers.features(numbers["images"], trained), dim=1) @ vectors.T
    loss = F.cross_entropy(logits, numbers["labels"])
    torch.testing.assert_close(loss.reshape(1), numbers["ce"], **CLOSE)
    loss.backward()
    sizes = [weights[name].numel() for name in config["grad_all_order"]]
    parts = torch.split(numbers["grad_all"], sizes)
    shaped = {
        name: part.reshape(weights[name].shape) for name, part in zip(config["grad_all_order"], parts, strict=True)
    }
    expected = canonical(shaped)
    del expected["logit_scale"]
    assert expected.keys() == trained.keys()
    for name, values in trained.items():
        torch.testing.assert_close(
            values.grad, expected[name], rtol=1e-3, atol=1e-5 * float(expected[name].abs().max())
        )


def test_one_dict_of_parameters_has_both_towers_and_no_scale(published, towers):
    _, config, _ = published
    assert sum(values.numel() for values in towers.params.values()) == config["saft_candidates"]
    assert {name.partition(".")[0] for name in towers.params} == {"visual", "text"}
    assert {name.partition(".")[0] for name in towers.image_params} == {"visual"}


def hugging_face(weights):
    """The weights as a CLIPModel spells them."""
    found = {"logit_scale": weights["logit_scale"]}
    for name, values in weights.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        own = name.removeprefix("visual.")
        if own.startswith("transformer.resblocks."):
            number, _, rest = own.removeprefix("transformer.resblocks.").partition(".")
            start = f"{tower}.encoder.layers.{number}."
            if rest.startswith("attn.in_proj_"):
                for letter, part in zip("qkv", values.chunk(3), strict=True):
                    found[f"{start}self_attn.{letter}_proj.{rest.removeprefix('attn.in_proj_')}"] = part
                continue
            for ours, theirs in (
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("attn.", "self_attn."),
                ("c_fc", "fc1"),
                ("c_proj", "fc2"),
            ):
                rest = rest.replace(ours, theirs)
            found[start + rest] = values
    found |= {
        "vision_model.embeddings.class_embedding": weights["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": weights["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": weights["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(10),
        "visual_projection.weight": weights["visual.proj"].T,
        "text_projection.weight": weights["text_projection"].T,
        "text_model.embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": weights["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        found[f"vision_model.pre_layrnorm.{kind}"] = weights[f"visual.ln_pre.{kind}"]
        found[f"vision_model.post_layernorm.{kind}"] = weights[f"visual.ln_post.{kind}"]
        found[f"text_model.final_layer_norm.{kind}"] = weights[f"ln_final.{kind}"]
    return found


def test_every_spelling_is_the_same_model(published, towers):
    _, config, weights = published
    under_text = {n if n.startswith(("visual.", "logit")) else f"text.{n}": v for n, v in weights.items()}
    spellings = {
        "openai": weights | OPENAI_KEYS,
        "custom text": under_text,
        "hugging face": hugging_face(weights),
        "ours": canonical(weights),
        "module": {f"module.{name}": values for name, values in weights.items()},
    }
    for name, spelled in spellings.items():
        again = build_towers(towers_about(config), spelled)
        assert again.fingerprint == towers.fingerprint, name
    half = {name: values.half() for name, values in weights.items()}
    assert all(v.dtype == torch.float32 for v in build_towers(towers_about(config), half).params.values())


def test_weights_of_another_model_are_refused(published):
    _, config, weights = published
    about = towers_about(config)
    for broken in (
        {name: values for name, values in weights.items() if name != "ln_final.bias"},
        {name: values for name, values in weights.items() if name != "visual.ln_post.bias"},
        weights | {"text_projection": weights["text_projection"][:, :8]},
        weights | {"visual.proj": weights["visual.proj"][:, :8]},
        weights | {"transformer.resblocks.7.ln_1.bias": weights["ln_final.bias"]},
    ):
        with pytest.raises(FewshotError, match="not of clip:golden"):
            build_towers(about, broken)


def test_text_is_read_as_far_as_it_goes(published, towers):
    """What fills a text up changes nothing, so that it need not be computed."""
    numbers, _, _ = published
    tokens = numbers["tokens"][:, 0]
    reader = text_tower(towers.model)
    state = {name.removeprefix("text."): v for name, v in towers.params.items() if name.startswith("text.")}
    whole = torch.func.functional_call(reader, state, (tokens,))
    torch.testing.assert_close(towers.text_features(tokens), whole, **CLOSE)


def test_positions_for_another_image_size(published):
    numbers, config, weights = published
    resized = resized_positions(weights["visual.positional_embedding"].unsqueeze(0), (4, 4))
    torch.testing.assert_close(resized[0], numbers["pos_embed_4x4"], **CLOSE)
    larger = build_towers(towers_about(config), weights, image_size=32)
    assert larger.features(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    assert larger.fingerprint == build_towers(towers_about(config), weights).fingerprint
    with pytest.raises(FewshotError) as refused:
        build_towers(towers_about(config), weights, image_size=30)
    assert refused.value.hint == "Give --image-size a multiple of 8."


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("shortest_bicubic_openai", {}),
        ("squash_bicubic_half", {"resize_mode": "squash", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}),
        (
            "squash_bilinear_imagenet",
            {
                "resize_mode": "squash",
                "interpolation": "bilinear",
                "mean": (0.485, 0.456, 0.406),
                "std": (0.229, 0.224, 0.225),
            },
        ),
    ],
)
def test_pictures_are_prepared_as_the_model_wants_them(published, towers, key, given):
    numbers, config, _ = published
    wanted = preprocessing_of(Description("clip:golden", config["model"], given))
    pixels = torch.from_numpy(load_array(numbers["pp.image_u8"].numpy(), wanted))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (wanted.mean, wanted.std))
    prepared = (pixels.float() / 255 - mean) / std
    level = 1 / 255 / min(wanted.std)  # of grey: Pillow rounds between its two passes
    assert (prepared - numbers[f"pp.{key}"]).abs().max() <= 1.01 * level


@pytest.mark.slow
def test_the_tokenizer_needs_no_network_and_says_what_it_would_cut(published):
    numbers, config, _ = published
    model = {"text_cfg": {"context_length": 77}}
    short = [text for text in config["tok_texts"] if text.count(" a") < 70]
    expected = torch.stack([ids for ids, t in zip(numbers["tok.ids"], config["tok_texts"], strict=True) if t in short])
    assert torch.equal(tokenizer(model)(short), expected)
    with pytest.raises(FewshotError, match="the model reads 77"):
        tokenizer(model)(["a " * 80])
    with pytest.raises(FewshotError, match="tokens"):
        tokenizer(config["model"])(["cat"])


def test_the_tag_decides_about_the_activation_and_the_preprocessing():
    assert described("clip:ViT-B-16/openai").model["quick_gelu"]
    assert not described("clip:ViT-B-16/laion2b_s34b_b88k").model["quick_gelu"]
    assert described("clip:ViT-B-16-quickgelu/openai").model["quick_gelu"]
    siglip = preprocessing_of(described("clip:ViT-B-16-SigLIP/webli"))
    assert (siglip.crop_mode, siglip.mean) == ("squash", (0.5, 0.5, 0.5))
    assert preprocessing_of(described("clip:ViT-B-32/openai")).crop_mode == "center"
    assert described("clip:ViT-B-16/openai").repository == "timm/vit_base_patch16_clip_224.openai"
    assert described("clip:ViT-B-16/openai").licence == "mit"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("clip:ViT-B-61/openai", "no model called 'ViT-B-61'"),
        ("clip:ViT-B-16", "does not say which weights"),
        ("clip:ViT-B-16/nobody", "no weights 'nobody'"),
    ],
)
def test_what_would_be_guessed_is_refused(name, problem):
    with pytest.raises(FewshotError, match=problem):
        described(name)


def test_words_beside_the_weights_that_describe_no_model_are_refused():
    with pytest.raises(FewshotError, match="does not describe a model"):
        described_beside("clip:mine", {"model_cfg": {"embed_dim": 3}})


def test_a_tower_of_timm_with_a_bias_is_open_clips():
    config = {
        "embed_dim": 16,
        "init_logit_bias": -10.0,
        "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": {"context_length": 16, "vocab_size": 128, "width": 32, "heads": 2, "layers": 2},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = open_clip.CustomTextCLIP(**config).eval()
    ours = build_towers(Description("clip:mine", config, {}), theirs.state_dict())
    assert ours.bias == -10.0
    images, tokens = torch.randn(2, 3, 160, 160), torch.randint(1, 127, (3, 16))
    with torch.no_grad():
        torch.testing.assert_close(ours.features(images), theirs.encode_image(images), **CLOSE)
        torch.testing.assert_close(ours.text_features(tokens), theirs.encode_text(tokens), **CLOSE)
    with pytest.raises(FewshotError, match="it takes 160"):
        build_towers(Description("clip:mine", config, {}), theirs.state_dict(), image_size=64)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-bigG-14-CLIPA", "ViT-gopt-16-SigLIP2-256", "ViT-H-14-378-quickgelu"])
def test_the_shapes_of_a_plain_text_tower_need_no_open_clip(name):
    model = open_clip.get_model_config(name)
    wanted = {each: tuple(values.shape) for each, values in text_tower(model).named_parameters()}
    plain = plain_text_shapes(model)
    assert plain == (None if "SigLIP" in name else wanted)  # whose text tower has a norm and a bias of its own


@pytest.mark.parametrize("more", [{"ls_init_value": 0.1}, {"embed_cls": True}, {"proj_bias": True}, {"qk_norm": True}])
def test_a_text_tower_with_more_weights_is_not_plain(more, published):
    _, config, _ = published
    text = config["model"]["text_cfg"]
    assert plain_text_shapes({**config["model"], "text_cfg": text | more}) is None
    assert plain_text_shapes({**config["model"], "text_cfg": text | dict.fromkeys(more)}) is not None


def test_another_activation_is_another_model(published, towers):
    _, config, weights = published
    quick = build_towers(Description("clip:golden", {**config["model"], "quick_gelu": True}, {}), weights)
    assert quick.fingerprint != towers.fingerprint
    same = build_towers(Description("clip:golden", {**config["model"], "quick_gelu": False}, {}), weights)
    assert same.fingerprint == towers.fingerprint
