"""The types of a data set's evaluation."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.functional_validators import AfterValidator

from heated.config.base import Choice, Count, Section, Seed, distinct


class ScikitLearn(Choice):
    name: Literal["scikit-learn"]
    restarts: Count


class Lloyd(Choice):
    name: Literal["lloyd"]
    restarts: Count
    iterations: Count


class Evaluation(Section):
    recall_at: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
    kmeans: Annotated[ScikitLearn | Lloyd, Field(discriminator="name")]
    kmeans_seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)]
    memory: Count
