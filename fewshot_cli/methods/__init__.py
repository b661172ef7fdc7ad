"""The methods. A recipe's section `method` is one of these, told apart by `name`: `AnyMethod` adapts to a support set,
`AnyMetaMethod` meta-tunes a bank to adapt from."""

from typing import Annotated, TypeAlias

from pydantic import Field

from fewshot_cli.methods.dense import FOMAML, Dense
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.lda import LDA
from fewshot_cli.methods.logistic import Logistic
from fewshot_cli.methods.lora import LoRA
from fewshot_cli.methods.mamf import MAMF
from fewshot_cli.methods.protonet import ProtoNet
from fewshot_cli.methods.ridge import Ridge
from fewshot_cli.methods.saft import SAFT
from fewshot_cli.methods.shira import SHiRA
from fewshot_cli.methods.smat import SMAT

AnyMethod: TypeAlias = Annotated[
    ProtoNet | Ridge | Logistic | LDA | Finetune | LoRA | SAFT | SHiRA, Field(discriminator="name")
]
AnyMetaMethod: TypeAlias = Annotated[SMAT | Dense | FOMAML | MAMF, Field(discriminator="name")]
