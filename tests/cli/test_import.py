import json

import pytest

from fewshot_cli.cli.import_ import _names


def test_classes_are_words_between_commas_or_the_lines_of_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\n red kite \nSão Tomé, island\n", encoding="utf-8")
    assert _names("cat, red kite") == ("cat", "red kite")
    assert _names(str(tmp_path / "names.txt")) == ("cat", "red kite", "São Tomé, island")
    assert _names(None) is None
    assert _names("x" * 5000) == ("x" * 5000,)


@pytest.mark.parametrize(
    ("config", "says"), [(None, "adapter_config.json"), ({"peft_type": "LORA"}, "adapter_model.safetensors")]
)
def test_a_folder_without_an_adapter_is_a_sentence_and_exit_2(fewshot, tmp_path, config, says):
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    result = fewshot("import", str(tmp_path), "-o", str(tmp_path / "x.fewshot"), "--quiet", "--offline")
    assert result.exit_code == 2 and says in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "x.fewshot").exists()
