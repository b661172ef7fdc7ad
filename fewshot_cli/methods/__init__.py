"""The methods, told apart by `name`: a recipe's section `method` is an `AnyMethod`, its section `head` an `AnyHead`.

A method moves the backbone, or is a head alone. `AnyMetaMethod` meta-tunes a bank to adapt from.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from fewshot_cli.methods.base import GraftSettings, TransductiveMethod
from fewshot_cli.methods.clap import CLAP
from fewshot_cli.methods.clip_adapter import Blend, CLIPAdapter
from fewshot_cli.methods.coop import CoOp
from fewshot_cli.methods.cosine_ridge import CosineRidge
from fewshot_cli.methods.cross_modal import CrossModal
from fewshot_cli.methods.dense import FOMAML, DenseMetaTuning
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.gaussian import Gaussian
from fewshot_cli.methods.gda import GDA
from fewshot_cli.methods.kadaptation import KAdaptation
from fewshot_cli.methods.lda import LDA
from fewshot_cli.methods.logistic import Logistic
from fewshot_cli.methods.lora import LoRA
from fewshot_cli.methods.lp_plus_plus import LPPlusPlus
from fewshot_cli.methods.mamf import MAMF
from fewshot_cli.methods.moa import MoA, TokenMixture
from fewshot_cli.methods.prolip import ProLIP
from fewshot_cli.methods.protonet import ProtoNet
from fewshot_cli.methods.ridge import Ridge
from fewshot_cli.methods.saft import SAFT
from fewshot_cli.methods.shira import SHiRA
from fewshot_cli.methods.smat import SMAT
from fewshot_cli.methods.taskres import TaskRes
from fewshot_cli.methods.tim import TIM
from fewshot_cli.methods.tip_adapter import Cache, TipAdapter, TipAdapterF
from fewshot_cli.methods.tsa import TSA, FeatureMap
from fewshot_cli.methods.two_stage import TwoStage
from fewshot_cli.methods.zero_shot import ZeroShot

Move: TypeAlias = (
    Finetune
    | LoRA
    | SAFT
    | SHiRA
    | KAdaptation
    | MoA
    | TSA
    | ProLIP
    | TwoStage
    | CoOp
    | CLAP
    | CLIPAdapter
    | TipAdapter
    | TipAdapterF
)
HeadAlone: TypeAlias = (
    ProtoNet
    | Ridge
    | CosineRidge
    | Logistic
    | LDA
    | Gaussian
    | TIM
    | ZeroShot
    | GDA
    | LPPlusPlus
    | TaskRes
    | CrossModal
)

AnyMethod: TypeAlias = Annotated[HeadAlone | Move, Field(discriminator="name")]
AnyHead: TypeAlias = Annotated[HeadAlone, Field(discriminator="name")]
TRANSDUCTIVE: tuple[type[TransductiveMethod], ...] = (TIM,)
"""The heads that answer from all queries at once."""
GRAFTS: tuple[type[GraftSettings], ...] = (TokenMixture, FeatureMap, Blend, Cache)
"""The kinds of graft that files may hold."""
AnyMetaMethod: TypeAlias = Annotated[SMAT | DenseMetaTuning | FOMAML | MAMF, Field(discriminator="name")]
