import shutil

import pytest
import torch
from PIL import Image

from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.classify.learned_doctor import learned_doctor
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")


@pytest.fixture
def judged():
    """With the backbone that comes with the install, which knows the drawn things apart."""

    def judged(folder):
        context = JobContext(Source(offline=True), CPU, NoCache(), NoProgress())
        return learned_doctor(folder, load_recipe("ridge", image_size=96), context)

    return judged


@pytest.fixture
def things(tmp_path):
    write_folder(tmp_path / "things", ("cat", "flower", "house", "star"), 6, seed=0, size=128)
    return tmp_path / "things"


@pytest.mark.slow
def test_a_wrong_label_and_a_burst_are_named_with_reasons(things, judged, learn):
    wrong = sorted((things / "star").iterdir())[0]
    moved = shutil.move(wrong, things / "house" / "moved.jpg")
    one = sorted((things / "cat").iterdir())[0]
    picture = Image.open(one)
    picture.crop((1, 1, picture.width, picture.height)).save(things / "cat" / "again.jpg", quality=80)
    result = judged(things)
    labels = [each for each in result.learned if each.kind == "label"]
    assert labels[0].paths == (str(moved),) and labels[0].classes == ("house", "star")
    assert labels[0].probability > 0.5 and "'star'" in labels[0].problem
    assert len(labels[0].neighbours) == 3 and labels[0].neighbours[0].label == "star"
    (burst,) = [each for each in result.learned if each.kind == "burst"]
    assert set(burst.paths) == {str(one), str(things / "cat" / "again.jpg")} and burst.classes == ("cat",)
    learned = learn(things, things.parent / "x.fewshot", backbone="tf_efficientnet_lite0", image_size=96)
    assert learned["doubts"][0] == {
        "path": str(moved),
        "label": "house",
        "probably": "star",
        "probability": labels[0].probability,
    }


def test_what_stops_adapt_comes_first(things, judged):
    (things / "empty").mkdir()
    result = judged(things)
    assert result.learned is None and "mended first" in result.not_learned
