"""What the licence of a backbone's weights means for what is made with them."""

import re

PERMISSIVE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")
RESEARCH_ONLY = ("seer-license", "apple-amlr")
"""What no "nc" in the name tells."""
ON_THE_HUB = (*PERMISSIVE, "cc-by-nc-4.0", "apple-ascl", "apple-amlr", "gemma", "fair-noncommercial-research-license")
"""Those that timm states, and the hub has a name for; huggingface.co/docs/hub/repositories-licenses lists all."""


_STATED = re.compile(r"([\w.-]+)( \(.*\))?(, as its file says)?")
"""How a licence is told: its name, more about it, and that it was in the metadata of a file."""


def identifier(licence: str) -> str:
    """The name of the licence as the hub writes it, without what else is told of it."""
    found = _STATED.fullmatch(licence)
    return found[1].lower() if found else licence


def is_timms_word(licence: str) -> bool:
    """Whether the weights are timm's own, as far as is known: of those in a file, only the file can tell."""
    return licence != "unknown" and not licence.endswith(", as its file says")


def licence_metadata(licence: str) -> dict[str, str]:
    """The licence as the front matter of a card on the hub states it."""
    name = identifier(licence)
    return {"license": name} if name in (*ON_THE_HUB, "unknown") else {"license": "other", "license_name": name}


def is_non_commercial(licence: str) -> bool:
    """Whether the licence forbids commercial use."""
    name = identifier(licence).lower()
    parts = name.replace("non-commercial", "noncommercial").split("-")
    return "nc" in parts or "noncommercial" in parts or name in RESEARCH_ONLY


def meaning(licence: str, thing: str, timms: str = "unknown") -> str:
    """What it means for the `thing`, in plain sentences; `timms` is the licence of timm's own weights of that name."""
    if licence == "unknown":
        of_timm = f" timm's own weights of this name are under {timms}." * (timms != "unknown")
        return (
            f"The licence of the base weights is not known: they came from a file that does not say, or none is stated "
            f"for weights of this name.{of_timm} Find out before you share or sell what you make with this {thing}."
        )
    under = f"The base weights are under {licence}"
    if is_non_commercial(licence):
        return (
            f"{under}. That does not allow commercial use. This {thing} is of no use without them, so it can't be used "
            "commercially either, unless the owners of the base allow it."
        )
    if identifier(licence) in PERMISSIVE:
        return (
            f"{under}. Anyone may use, change and share them under it, also commercially, who keeps the notices that "
            f"it asks for. That holds for a model merged from them and this {thing}, too."
        )
    return f"{under}. It has terms of its own: read them before you use this {thing}, which needs these weights."
