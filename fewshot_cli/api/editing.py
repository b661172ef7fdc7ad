"""The functions that change a classifier's classes and labels, and that name the pictures to label next.

Each reads a delta file and writes another; `output` may be the same path, which changes it in place. All but
`rename_class` need the features that `adapt(..., keep_support=True)` keeps in the file.

>>> import tempfile
>>> import fewshot_cli as fewshot
>>> from fewshot_cli.images.drawing import draw, write_folder
>>> folder = tempfile.TemporaryDirectory()
>>> file = f"{folder.name}/things.fewshot"
>>> some = {label: [draw(label, seed=i, size=64) for i in range(4)] for label in ("cat", "star")}
>>> learned = fewshot.adapt(some, recipe="ridge", image_size=64, keep_support=True, offline=True)
>>> _ = learned.save(file)
>>> write_folder(Path(folder.name) / "new", ("house", "tree"), per_class=3, seed=1, size=64)
>>> fewshot.add_class(file, f"{folder.name}/new", file, offline=True).classes
('cat', 'house', 'star', 'tree')
>>> fewshot.remove_class(file, "tree", file).removed
{'tree': 3}
>>> fewshot.rename_class(file, "house", "home", file).classes
('cat', 'home', 'star')
>>> asked = fewshot.next(file, f"{folder.name}/new", count=2, offline=True)
>>> asked.images, asked.known, len(asked.pictures)
(3, 3, 2)
>>> rows = [f"{picture.path},star" for picture in asked.pictures]
>>> _ = Path(folder.name, "labels.csv").write_text("\\n".join(["path,label", *rows]))
>>> fewshot.correct(file, f"{folder.name}/labels.csv", file, offline=True).learned
2
>>> folder.cleanup()
"""

from pathlib import Path

from fewshot_cli.api.arguments import AnyPath, context_of
from fewshot_cli.errors import FewshotError
from fewshot_cli.jobs.edit.add_class import add_class as add_class_job
from fewshot_cli.jobs.edit.add_name import add_name
from fewshot_cli.jobs.edit.correct import correct as correct_job
from fewshot_cli.jobs.edit.next_ import next_ as next_job
from fewshot_cli.jobs.edit.remove_class import remove_class as remove_class_job
from fewshot_cli.jobs.edit.rename_class import rename_class as rename_class_job
from fewshot_cli.results import AddClassResult, CorrectResult, NextResult, RemoveClassResult, RenameClassResult


def add_class(
    file: AnyPath,
    folder: AnyPath | None,
    output: AnyPath,
    *,
    name: str | None = None,
    weights: AnyPath | None = None,
    device: str = "auto",
    offline: bool = False,
    no_cache: bool = False,
) -> AddClassResult:
    """Writes the classifier that knows the classes in the folder too; as `fewshot add-class` does.

    The folder holds the images of one class, called `name` or as the folder is, or a sub-folder for each of several.
    None adds a class by its `name` alone, where classes are what CLIP's text tower makes of names. Raises FewshotError
    where the file keeps no features, for a picture that it knows in another class, and where names make no classes.
    """
    context = context_of(weights, device, offline, no_cache)
    if folder is None:
        if name is None:
            raise FewshotError("There is nothing to add.", "Give a folder of images, or a name.")
        return add_name(Path(file), name, Path(output), context)
    return add_class_job(Path(file), Path(folder), name, Path(output), context)


def remove_class(file: AnyPath, name: str, output: AnyPath) -> RemoveClassResult:
    """Writes the classifier without a class, as if its images had never been there; as `fewshot remove-class` does.

    Of a file that was made from names alone, the other classes answer as before. Raises FewshotError where there is no
    such class, or only one other, and where the head can't be fitted anew.
    """
    return remove_class_job(Path(file), name, Path(output))


def rename_class(file: AnyPath, old: str, new: str, output: AnyPath) -> RenameClassResult:
    """Writes the classifier with another name for a class, every answer else the same; as `fewshot rename-class` does.

    Raises FewshotError where there is no class `old`, or already one called `new`.
    """
    return rename_class_job(Path(file), old, new, Path(output))


def correct(
    file: AnyPath,
    csv: AnyPath,
    output: AnyPath,
    *,
    weights: AnyPath | None = None,
    device: str = "auto",
    offline: bool = False,
    no_cache: bool = False,
) -> CorrectResult:
    """Writes the classifier that learned the labels in a CSV file, of old pictures and new; as `fewshot correct` does.

    The file has the columns path and label. Raises FewshotError for a class that the classifier lacks, for a list that
    says nothing new, and where a class would lose its last image.
    """
    return correct_job(Path(file), Path(csv), Path(output), context_of(weights, device, offline, no_cache))


def next(  # as the command is called
    file: AnyPath,
    folder: AnyPath,
    *,
    count: int = 10,
    weights: AnyPath | None = None,
    device: str = "auto",
    offline: bool = False,
    no_cache: bool = False,
) -> NextResult:
    """The pictures in a folder whose labels would teach a classifier most, the best first; as `fewshot next` does.

    Each is chosen as if those before it had their labels. Raises FewshotError where no picture is new.
    """
    return next_job(Path(file), Path(folder), count, context_of(weights, device, offline, no_cache))
