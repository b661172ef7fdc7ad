"""What PyTorch's exporter or onnxruntime can't do is told in a sentence, with what works instead."""

import pytest
import torch
from torch import nn

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.onnx import ExportedClassifier, onnx_session, write_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


class Undecided(nn.Module):
    """Its path depends on the numbers, which no exported graph can follow."""

    def forward(self, images):
        features = images.mean((2, 3))
        return features if features.sum() > 0 else -features


class OneSizeOnly(nn.Module):
    """It takes the number of images for a constant, as some relative positions do."""

    def forward(self, images):
        return images.mean((2, 3)).reshape(2, 3)


HEAD = Head(torch.ones(2, 3), torch.zeros(2), unit_norm=False)


@pytest.mark.slow
def test_a_network_that_takes_one_number_of_images_only_is_told_in_a_sentence(tmp_path):
    write_onnx(tmp_path / "x.onnx", ExportedClassifier(OneSizeOnly(), HEAD), (8, 8), {})
    answers = onnx_session(tmp_path / "x.onnx")
    assert answers(torch.zeros(2, 3, 8, 8)).shape == (2, 2)
    with pytest.raises(FewshotError, match="onnxruntime can't run the exported network on 7 images") as caught:
        answers(torch.zeros(7, 3, 8, 8))
    assert "--format safetensors" in caught.value.hint


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_is_told_in_a_sentence(tmp_path):
    with pytest.raises(FewshotError, match="PyTorch can't export this network to ONNX: ") as caught:
        write_onnx(tmp_path / "x.onnx", ExportedClassifier(Undecided(), HEAD), (8, 8), {})
    assert "\n" not in caught.value.problem and len(caught.value.problem) < 250
    assert caught.value.problem.endswith(".") and not caught.value.problem.endswith("..")
    assert "--format safetensors" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_graph_that_onnxruntime_cannot_run_is_told_in_a_sentence(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("NoSuchThing", ["images"], ["logits"])], "g", [value], [logits])
    onnx.save_model(helper.make_model(graph), str(tmp_path / "x.onnx"))
    with pytest.raises(FewshotError, match="onnxruntime can't load what PyTorch exported") as caught:
        onnx_session(tmp_path / "x.onnx")
    assert "--format safetensors" in caught.value.hint
