"""Value types, base classes and validators that the schema is made of."""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    StringConstraints,
    create_model,
)


class StrictModel(BaseModel):
    """A mapping in the YAML files: no unknown keys, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NamedConfig(StrictModel):
    """A key of one of the package's registries, with the options of the function it names."""

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name: keyword arguments of the named function."""
        return self.model_dump(exclude={"name"})


def choice(options: Mapping[str, Mapping[str, Any]]) -> GetPydanticSchema:
    """Return the annotation of a NamedConfig: its names, each with the types of its options."""
    models = []
    for name, types in options.items():
        fields: dict[str, Any] = {"name": Literal[name], **types}
        models.append(create_model(name, __base__=NamedConfig, **fields))
    union: Any = Annotated[Union[tuple(models)], Field(discriminator="name")]  # noqa: UP007
    return GetPydanticSchema(lambda _, handler: handler.generate_schema(union))


def constraint(is_valid: Callable[[Any], object], expected: str) -> AfterValidator:
    """Return a validator that raises ValueError, with the expected value, if one is not valid."""

    def validate(value: Any) -> Any:
        if not is_valid(value):
            raise ValueError(expected)
        return value

    return AfterValidator(validate)


def is_json(value: Any) -> bool:
    """Whether a value can be written as JSON; NaN, infinity, dates and sets cannot."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


JSON_VALUE = constraint(is_json, "finite numbers, text, true, false, null, lists and mappings")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# DVC joins names with `-` into a stage's name and breaks on `@`.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
NonEmpty = Field(min_length=1)
Unique = constraint(lambda values: len(set(values)) == len(values), "each entry only once")
Names = Annotated[list[Name], Unique]
Seeds = Annotated[list[Seed], NonEmpty, Unique]
