"""A name is misspelt for us exactly where timm knows none of that name."""

import pytest
import timm

from fewshot_cli.engine.timm_spelling import check_spelling
from fewshot_cli.errors import FewshotError

DEPRECATED = "vit_tiny_patch16_224_in21k"


@pytest.mark.slow
def test_every_name_of_timm_is_known():
    for name in [*timm.list_models()[::40], DEPRECATED, "resnet50.a1_in1k"]:
        assert timm.is_model(name)
        check_spelling(name)


@pytest.mark.parametrize("name", ["resnet51", "resnet5", "vit_smal_patch16_224", "", "("])
def test_what_timm_does_not_know_is_refused_in_its_words(name):
    assert not timm.is_model(name)
    with pytest.raises(FewshotError) as caught:
        check_spelling(name)
    assert caught.value.problem == f"timm has no model called '{name}'."
