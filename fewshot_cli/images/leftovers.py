"""What lies in folders of pictures and is none: what systems, drives, cameras and editors leave, and files of ours."""

SYSTEM = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@recently-snapshot", "@__thumb"),  # network drives
        *("lost+found", "lost.dir", "picasa.ini", "zbthumbnail.info"),  # Linux, phones, cameras
        *("__pycache__", "node_modules"),  # programs
    }
)
"""Names that mean no class and no picture of the user's, in lower case; what begins with a dot means none either."""
ENDINGS = ("~", ".tmp", ".part", ".crdownload", ".xmp", ".lrprev", ".lrdata", ".cosessiondb", ".thm")
"""Of backups, unfinished downloads, and editors' notes beside pictures."""
OURS = (
    *(".fewshot", ".bank", ".run.json", ".log.jsonl", ".checkpoint", ".partial", ".journal", ".lock"),
    *(".onnx", ".safetensors", ".pt2", ".csv", ".html", ".md"),
)
"""Endings of what fewshot writes, which may lie inside a folder that is learned from."""


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is passed over, wherever it lies."""
    small = name.casefold()
    return name.startswith(".") or small in SYSTEM or small.endswith(ENDINGS) or is_ours(name)


def is_ours(name: str) -> bool:
    """Whether fewshot writes files that are called so."""
    return name.casefold().endswith(OURS) or ".partial" in name
