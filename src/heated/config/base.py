"""Types that every section of the parameters is made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]  # a schedule has a value for each
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# DVC joins names with `-` into a stage's name and breaks on `@`.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


def distinct(values: list[Any]) -> list[Any]:
    """Return the values; raise ValueError if one is there twice."""
    if len(set(values)) < len(values):
        raise ValueError("each entry only once")
    return values


class Section(BaseModel):
    """A mapping in the YAML files: no unknown keys, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Choice(Section):
    """A key of one of the package's dicts, with the options of the function it names."""

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name: keyword arguments of the chosen function."""
        return self.model_dump(exclude={"name"})
