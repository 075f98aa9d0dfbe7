"""What an annotation says: a fingerprint that tells versions apart, and classes to register."""

# ruff: noqa: F722, F821, UP006, UP007, UP013, UP035, UP045 - every spelling is a case
from __future__ import annotations

import dataclasses
import enum
import inspect
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Callable,
    Generic,
    Literal,
    NewType,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)

import attrs
import pydantic
import pytest

from tests.codec import samples
from tiercache.codec import Codec
from tiercache.errors import DecodeError

T = TypeVar("T")
UserId = NewType("UserId", samples.Plain)


@dataclasses.dataclass
class Leaf:
    id: int


class Kind(enum.Enum):
    ONE = 1


@dataclasses.dataclass
class Tree:
    """Recursive, and its annotations are text."""

    children: list[Tree]
    leaf: Leaf | None = None
    kind: Kind = Kind.ONE


@attrs.define
class AttrsHolder:
    leaf: Leaf


class ModelHolder(pydantic.BaseModel):
    leaf: dict[str, tuple[Leaf, ...]]


class TupleHolder(typing.NamedTuple):
    leaf: Leaf


class DictHolder(TypedDict):
    leaf: list[Leaf]


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


LEAF_ANNOTATIONS = [
    Leaf,
    Optional[Leaf],
    Leaf | None,
    Union[int, Leaf],
    list[Leaf],
    dict[str, Leaf],
    tuple[Leaf, ...],
    frozenset[Leaf],
    Annotated[Leaf, "note"],
    Annotated[list[Leaf | None], object()],
    Box[Leaf],
    list["Leaf | None"],
    type[Leaf],
    Callable[[Leaf], int],
    typing.Mapping[str, typing.Sequence[Leaf]],
    AttrsHolder,
    ModelHolder,
    TupleHolder,
    DictHolder,
    Tree,
    list[dict[str, Tree]],
    NewType("LeafId", Leaf),
    TypeVar("B", bound=Leaf),
]


@pytest.mark.parametrize("annotation", LEAF_ANNOTATIONS, ids=range(len(LEAF_ANNOTATIONS)))
def test_every_class_an_annotation_reaches_is_registered(annotation: object) -> None:
    """A process that has only decorated the function can read what another has written."""
    if annotation == list["Leaf | None"]:
        annotation = typing.get_type_hints(_with_forward_reference)["return"]
    payload = Codec().encode("key", Leaf(1))
    with pytest.raises(DecodeError, match=r"test_schema\.Leaf"):
        Codec().decode("key", payload)
    codec = Codec()
    codec.schema(annotation)
    assert codec.decode("key", payload).value == Leaf(1)


def _with_forward_reference() -> list[Leaf | None]: ...


def test_an_enum_is_reached_through_a_field_and_a_literal() -> None:
    """Members are registered with their class."""
    payload = Codec().encode("key", Kind.ONE)
    for annotation in (Tree, Kind, Literal[Kind.ONE], Optional[Literal[1, Kind.ONE]]):
        codec = Codec()
        codec.schema(annotation)
        assert codec.decode("key", payload).value is Kind.ONE


ODD = [
    inspect.Signature.empty,
    Any,
    object,
    None,
    "Unknown",
    "Leaf",
    typing.ForwardRef("X"),
    7,
    [],
    [Leaf],
    (),
    object(),
    ...,
    list["Missing"],
    dict["syntax error", int],
    Literal["a"],
    typing.NoReturn,
    typing.Never,
    typing.Self,
    T,
    typing.ParamSpec("P"),
    Callable,
    Callable[..., Any],
    type,
    typing.Generic,
    typing.Protocol,
    lambda: 1,
    typing,
    Annotated[int, lambda: 1],
    int,
    list,
    typing.List,
]


@pytest.mark.parametrize("annotation", ODD, ids=range(len(ODD)))
def test_no_annotation_raises(annotation: object) -> None:
    """Whatever stands after the arrow, the function can be decorated."""
    codec = Codec()
    schema = codec.schema(annotation)
    assert "Schema(" in repr(schema)
    assert codec.decode("key", codec.encode("key", (1,), schema=schema), schema=schema).value == (
        1,
    )


@pytest.mark.parametrize(
    "annotation", [inspect.Signature.empty, Any, object, "Unresolved"], ids=range(4)
)
def test_an_annotation_that_says_nothing_checks_nothing(annotation: object) -> None:
    """Its fingerprint is 0: it reads what any function wrote."""
    codec = Codec()
    assert codec.schema(annotation).fingerprint == 0
    payload = codec.encode("key", 1, schema=codec.schema(int))
    assert codec.decode("key", payload, schema=codec.schema(annotation)).value == 1


def test_another_return_type_is_a_miss() -> None:
    """The older deploy returned a dict, the newer one a User."""
    codec = Codec()
    older, newer = codec.schema(dict[str, Any]), codec.schema(Leaf)
    payload = codec.encode("key", {"id": 1}, schema=older)
    with pytest.raises(DecodeError, match="another return type"):
        codec.decode("key", payload, schema=newer)
    assert codec.decode("key", payload, schema=older).value == {"id": 1}


def test_get_reads_what_a_function_wrote_and_the_reverse() -> None:
    """Where one side has no schema, there is nothing to compare."""
    codec = Codec()
    schema = codec.schema(Leaf)
    typed, untyped = codec.encode("key", Leaf(1), schema=schema), codec.encode("key", Leaf(1))
    assert codec.decode("key", typed).value == Leaf(1)
    assert codec.decode("key", untyped, schema=schema).value == Leaf(1)


def test_fingerprints_tell_annotations_apart() -> None:
    """Nothing that differs shares one, but for spellings of the same."""
    codec = Codec()
    different = [
        int,
        str,
        float,
        None,
        list,
        list[int],
        list[str],
        tuple[int],
        tuple[int, ...],
        dict[str, int],
        dict[int, str],
        Leaf,
        Tree,
        list[Leaf],
        Leaf | None,
        Box[int],
        Box[str],
        Literal[1],
        Literal["1"],
        Literal[True],
        Kind,
        DictHolder,
        TupleHolder,
        UserId,
    ]
    assert len({codec.schema(annotation).fingerprint for annotation in different}) == len(different)
    same = [Optional[int], int | None, Union[int, None], Annotated[int | None, object()]]
    assert len({codec.schema(annotation).fingerprint for annotation in same}) == 1


def test_a_typed_dict_is_told_by_its_keys() -> None:
    """Its values are plain dicts: no class identity is in the bytes."""
    one = TypedDict("Row", {"id": int})
    other = TypedDict("Row", {"id": int, "name": str})
    codec = Codec()
    assert codec.schema(one).fingerprint != codec.schema(other).fingerprint
    recursive = TypedDict("Node", {"children": list["Node"]})
    assert codec.schema(recursive).fingerprint


def test_a_name_defined_after_decoration_is_found_when_needed() -> None:
    """A class may refer to one that is written further down in its module."""
    source = "import dataclasses\n@dataclasses.dataclass\nclass Late:\n    id: int\n"
    module: Any = types.ModuleType("late_module")
    sys.modules["late_module"] = module
    try:
        exec(
            "import dataclasses\n@dataclasses.dataclass\nclass Early:\n    late: 'Late'\n",
            vars(module),
        )
        reader = Codec()
        schema = reader.schema(module.Early)
        assert not schema.is_complete
        exec(source, vars(module))
        payload = Codec().encode("key", module.Early(module.Late(1)))
        assert reader.decode("key", payload, schema=schema).value == module.Early(module.Late(1))
        assert schema.is_complete
    finally:
        del sys.modules["late_module"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is new in 3.12")
def test_type_aliases_are_followed() -> None:
    """Recursive ones, too."""
    scope: dict[str, Any] = {"Leaf": Leaf}
    exec("type Leaves = list[Leaf] | dict[str, Leaves]\ntype Of[T] = list[T]", scope)
    payload = Codec().encode("key", Leaf(1))
    for annotation in (scope["Leaves"], scope["Of"][Leaf]):
        codec = Codec()
        codec.schema(annotation)
        assert codec.decode("key", payload).value == Leaf(1)


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    """Neither hash seeds nor memory addresses enter into it."""
    script = (
        "from tiercache.codec import Codec; from tests.codec import test_schema as t\n"
        "print([Codec().schema(a).fingerprint for a in [*t.LEAF_ANNOTATIONS, *t.ODD]])"
    )
    root = Path(__file__).parents[2]
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_nothing_optional_is_imported() -> None:
    """pydantic, attrs and zstandard belong to the user: they stay where they are."""
    script = (
        "import sys, dataclasses; from tiercache.codec import Codec\n"
        "@dataclasses.dataclass\nclass A: x: int\n"
        "c = Codec(); s = c.schema(A | list[int]); p = c.encode('k', A(1), schema=s)\n"
        "assert c.decode('k', p, schema=s).value == A(1)\n"
        "assert not {'pydantic', 'attr', 'attrs', 'zstandard'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", script], cwd=root, env={"PYTHONPATH": str(root)}, check=True
    )
