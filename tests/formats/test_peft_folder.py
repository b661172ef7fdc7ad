import json

import pytest
import torch

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.peft_config import CONFIG, NOTE, TENSORS, is_ours
from fewshot_cli.formats.peft_folder import adapter_bytes, read_peft_folder


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    (folder / TENSORS).write_bytes(adapter_bytes({"x": torch.ones(2)}))
    return folder


def test_an_adapter_is_read_without_peft(adapter):
    found = read_peft_folder(adapter)
    assert found.config == {"peft_type": "LORA"} and found.tensors["x"].tolist() == [1, 1]
    assert found.note is None and found.untouched is None


def test_pickles_are_refused(adapter):
    (adapter / TENSORS).rename(adapter / "adapter_model.bin")
    with pytest.raises(FewshotError, match="only safetensors"):
        read_peft_folder(adapter)


@pytest.mark.parametrize(
    ("name", "content"),
    [(CONFIG, b"{"), (CONFIG, b"[]"), (CONFIG, b"\xff"), (CONFIG, b"[" * 10**5), (TENSORS, b"12"), (NOTE, b"{}")],
)
def test_damage_is_one_sentence_with_the_name_of_the_file(adapter, name, content):
    (adapter / name).write_bytes(content)
    with pytest.raises(FewshotError) as caught:
        read_peft_folder(adapter)
    assert name in caught.value.problem and caught.value.hint


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_what_is_missing_is_named(adapter, name):
    (adapter / name).unlink()
    with pytest.raises(FewshotError, match=name):
        read_peft_folder(adapter)
    with pytest.raises(FewshotError, match="no folder"):
        read_peft_folder(adapter / "elsewhere")


def test_only_a_folder_that_we_wrote_may_be_replaced(adapter, tmp_path):
    assert not is_ours(adapter)  # somebody's training
    (adapter / NOTE).touch()
    assert is_ours(adapter)
    (adapter / "thesis.tex").touch()
    assert not is_ours(adapter)
    (tmp_path / "empty").mkdir()
    assert is_ours(tmp_path / "empty")
