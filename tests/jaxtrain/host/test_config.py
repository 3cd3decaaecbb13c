"""Config files: variants, typed values, comparison, printing."""

import json

import pytest
from ml_collections import ConfigDict, config_dict

from jaxtrain.host.config import UsageError, as_text, differences, parse_variant, set_value


def config():
    return ConfigDict(
        {
            "count": 1,
            "rate": 2.0,
            "on": False,
            "name": "x",
            "shape": (1, 2),
            "empty": (),
            "nothing": None,
            "size": config_dict.placeholder(int),
            "group": {"a": 1, "b": 2},
        }
    )


@pytest.mark.parametrize(
    ("item", "key", "value"),
    [
        ("count=-3", "count", -3),
        ("count=1e6", "count", 1_000_000),
        ("count=12345678901234567", "count", 12345678901234567),  # beyond float precision
        ("rate=3", "rate", 3.0),
        ("rate=1e-3", "rate", 0.001),
        ("on=true", "on", True),
        ("on=0", "on", False),
        ("name=5", "name", "5"),
        ("name='a, b'", "name", "a, b"),
        ("name=a=b", "name", "a=b"),
        ("shape=(3,)", "shape", (3,)),
        ("shape=[4,5,6]", "shape", (4, 5, 6)),
        ("empty=(1,'a')", "empty", (1, "a")),
        ("nothing=3", "nothing", 3),
        ("nothing=word", "nothing", "word"),
        ("size=3", "size", 3),
        ("group.b=5", "group.b", 5),
    ],
)
def test_values_take_the_type_of_the_present_one(item, key, value):
    result = parse_variant(item, {}, config())
    for name in key.split("."):
        result = result[name]
    assert result == value and type(result) is type(value)


def test_variants_apply_from_left_to_right():
    variants = {"a": {"count": 5, "group": {"a": 6}}, "b": lambda c: c.update(count=7)}
    result = parse_variant("a,rate=9,b,group.b=8", variants, config())
    assert (result.count, result.rate) == (7, 9.0)
    assert result.group.to_dict() == {"a": 6, "b": 8}
    assert result.is_locked
    assert parse_variant("b,a", variants, config()).count == 5


@pytest.mark.parametrize("value", ["true", "1.5", "nan", "inf", True, 1.5, None, (1,)])
def test_what_is_no_whole_number(value):
    with pytest.raises(UsageError, match="'count' must be a whole number, but got"):
        set_value(config(), "count", value)


def test_differences_name_old_and_new_value_and_leave_out_ignored_groups():
    new = config()
    new.count, new.rate, new.group.a = 2, 3.0, 9
    lines = differences(config(), new, ignore=("rate",))
    assert lines == ["count: 1 -> 2", "group.a: 1 -> 9"]
    assert differences(config(), new, ignore=("count", "group", "rat")) == ["rate: 2.0 -> 3.0"]
    assert differences({"a": 1}, {"b": (1, 2)}) == ["a: 1 -> absent", "b: absent -> [1, 2]"]
    assert differences(config(), json.loads(json.dumps(config().to_dict()))) == []


def test_as_text_indents_groups():
    assert as_text(ConfigDict({"a": {"b": "x", "c": {}}})) == 'a:\n  b: "x"\n  c: {}'
