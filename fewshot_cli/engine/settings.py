"""The base of everything that a recipe may say."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Validated fields that never change: an unknown name in a recipe is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
