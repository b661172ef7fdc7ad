"""The registry of methods: their names in a recipe, and the classes, each of which is imported when it is asked for.

A method moves the backbone (MOVES), or is a head alone (HEADS). Meta-methods (META_METHODS) make banks to adapt from.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, TypeAlias

from pydantic import PlainValidator, SerializeAsAny
from pydantic_core import PydanticKnownError

from fewshot_cli.methods.base import HeadMethod, Method
from fewshot_cli.methods.meta import MetaMethod

HEADS = {
    "protonet": "protonet.ProtoNet",
    "ridge": "ridge.Ridge",
    "cosine-ridge": "cosine_ridge.CosineRidge",
    "logistic": "logistic.Logistic",
    "lda": "lda.LDA",
    "gaussian": "gaussian.Gaussian",
    "tim": "tim.TIM",
    "zero-shot": "zero_shot.ZeroShot",
    "gda": "gda.GDA",
    "lp++": "lp_plus_plus.LPPlusPlus",
    "taskres": "taskres.TaskRes",
    "cross-modal": "cross_modal.CrossModal",
}
MOVES = {
    "finetune": "finetune.Finetune",
    "lora": "lora.LoRA",
    "saft": "saft.SAFT",
    "shira": "shira.SHiRA",
    "kadaptation": "kadaptation.KAdaptation",
    "moa": "moa.MoA",
    "tsa": "tsa.TSA",
    "prolip": "prolip.ProLIP",
    "2sfs": "two_stage.TwoStage",
    "coop": "coop.CoOp",
    "coprompt": "coprompt.CoPrompt",
    "clap": "clap.CLAP",
    "clip-adapter": "clip_adapter.CLIPAdapter",
    "tip-adapter": "tip_adapter.TipAdapter",
    "tip-adapter-f": "tip_adapter.TipAdapterF",
}
META_METHODS = {
    "smat": "smat.SMAT",
    "dense": "dense.DenseMetaTuning",
    "fomaml": "dense.FOMAML",
    "mamf": "mamf.MAMF",
}
TRANSDUCTIVE = {"tim": HEADS["tim"]}
"""The heads that answer from all queries at once."""
GRAFTS = {
    "token mixture": "moa.TokenMixture",
    "feature map": "tsa.FeatureMap",
    "feature adapter": "clip_adapter.Blend",
    "vision prompt": "maple.VisionPrompt",
    "cache": "tip_adapter.Cache",
}
"""The kinds of graft that files may hold."""


def class_named(name: str, registry: Mapping[str, str]) -> type[Any]:
    """The class of this name. Raises KeyError where the registry has none."""
    module, _, class_name = registry[name].partition(".")
    found: type[Any] = getattr(import_module(f"{__name__}.{module}"), class_name)
    return found


def _read_by(registry: Mapping[str, str]) -> PlainValidator:
    """Reads a section by the class that its `name` says, as pydantic reads a union of all of them."""

    def read(section: Any) -> Any:
        if not isinstance(section, Mapping | HeadMethod | Method | MetaMethod):
            raise PydanticKnownError("model_attributes_type")
        name = section.get("name") if isinstance(section, Mapping) else section.name
        if name is None:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'name'"})
        if not isinstance(name, str) or name not in registry:
            known = ", ".join(f"'{each}'" for each in registry)
            tag = str(name).encode(errors="backslashreplace").decode()  # pydantic takes no half of a surrogate pair
            raise PydanticKnownError(
                "union_tag_invalid", {"discriminator": "'name'", "tag": tag, "expected_tags": known}
            )
        return class_named(name, registry).model_validate(section)

    return PlainValidator(read)


AnyMethod: TypeAlias = Annotated[SerializeAsAny[HeadMethod | Method], _read_by(HEADS | MOVES)]
AnyHead: TypeAlias = Annotated[SerializeAsAny[HeadMethod], _read_by(HEADS)]
AnyMetaMethod: TypeAlias = Annotated[SerializeAsAny[MetaMethod], _read_by(META_METHODS)]
