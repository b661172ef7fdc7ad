"""The methods. `AnyMethod` is the registry: a recipe's section `method` is one of these, told apart by `name`."""

from typing import Annotated, TypeAlias

from pydantic import Field

from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.lda import LDA
from fewshot_cli.methods.logistic import Logistic
from fewshot_cli.methods.lora import LoRA
from fewshot_cli.methods.protonet import ProtoNet
from fewshot_cli.methods.ridge import Ridge
from fewshot_cli.methods.saft import SAFT
from fewshot_cli.methods.shira import SHiRA

AnyMethod: TypeAlias = Annotated[
    ProtoNet | Ridge | Logistic | LDA | Finetune | LoRA | SAFT | SHiRA, Field(discriminator="name")
]
