"""What the demo lets through, by value."""

import math

import pytest

from alphaflow import UserError
from alphaflow.demo.requests import Bounds, Request, labels_of

PLAIN = Bounds(num_classes=10, guidable=False)
GUIDED = Bounds(num_classes=10, guidable=True, models=2)
NO_CLASSES = Bounds(num_classes=0, guidable=False)

HOSTILE = [
    ({"count": 65}, "count 65: give a whole number from 1 to 64"),
    ({"count": 0}, "count 0"),
    ({"count": 10**400}, "count a number of more than 18 digits"),
    ({"count": 1e308}, r"count 1e\+308"),
    ({"count": math.nan}, "count nan"),
    ({"count": True}, "count True"),
    ({"count": None}, "count None"),
    ({"count": "64"}, "count '64'"),
    ({"count": 2.5}, r"count 2\.5: give a whole number"),
    ({"count": [64]}, r"count \[64\]"),
    ({"nfe": 65}, "nfe 65"),
    ({"nfe": -1}, "nfe -1"),
    ({"seed": 2**31}, "seed 2147483648: give a whole number from 0 to"),
    ({"seed": -math.inf}, "seed -inf"),
    ({"seed": {}}, r"seed \{\}"),
    ({"method": "od"}, "method 'od' is unknown: choose one of ode, consistency, euler, heun"),
    ({"method": ["ode"]}, r"method \['ode'\]"),
    ({"method": None}, "method None"),
    ({"label": 10}, "label 10: give a whole number from 0 to 9"),
    ({"label": -1}, "label -1"),
    ({"label": "x" * 10**6}, "label 'xxxx"),
    ({"label": "in  turn"}, "give the number of a class, or 'in turn'"),
    ({"label": math.nan}, "label nan"),
    ({"prompt": "a red circle"}, "prompt 'a red circle': this model is not told in words"),
    ({"prompt": "x" * 401}, "has 401 letters: give 400 at most"),
    ({"prompt": ["a"]}, r"prompt \['a'\]: give words"),
    ({"prompt": None}, "prompt None: give words"),
    ({"guidance": 2}, "guidance needs a model that was trained with some labels dropped"),
    ({"guidance": math.nan}, "guidance nan: give a number from 0 to 10"),
    ({"model": 1}, "model 1"),
    ({"model": "../../etc/passwd"}, r"model \(something with a slash in it\): give a whole number"),
    ({"label": {"path": "C:\\x"}}, r"label \(something with a slash in it\)"),
    ({"/etc/passwd": 1}, r"unknown name \(something with a slash in it\)"),
    ({"cuont": 3}, "unknown name 'cuont': did you mean 'count'"),
    ({"a" * 10**6: 3}, "unknown name 'aaa"),
    ({None: 3}, "unknown name None: there are"),
    ([1, 2], r"a request is an object with names and values, not \[1, 2\]"),
    (None, "not None"),
    (math.nan, "not nan"),
]


@pytest.mark.parametrize("asked, message", HOSTILE)
def test_what_is_out_of_bounds_is_refused_in_one_short_line(asked, message):
    with pytest.raises(UserError, match=message) as error:
        PLAIN.read(asked)
    assert len(str(error.value)) < 200 and "\n" not in str(error.value)


def test_what_fits_is_read():
    assert PLAIN.read({}) == Request()
    assert PLAIN.read({"label": 3.0, "count": 64, "seed": 2**31 - 1}) == Request(label=3, seed=2**31 - 1)
    asked = {"label": 9, "count": 1, "nfe": 64, "seed": 0, "method": "heun", "guidance": 2.5, "model": 1}
    assert GUIDED.read(asked) == Request(**asked)
    assert GUIDED.read({"label": -1}).label == -1
    with pytest.raises(UserError, match="guidance leads towards a class"):
        GUIDED.read({"label": -1, "guidance": 2})
    with pytest.raises(UserError, match="this model has no classes"):
        NO_CLASSES.read({"label": 0})
    assert NO_CLASSES.read({"label": "in turn"}) == Request()


def test_labels_go_round_or_stay():
    assert labels_of(Request(count=12), 10) == [*range(10), 0, 1]
    assert labels_of(Request(count=3, label=7), 10) == [7, 7, 7]
    assert labels_of(Request(count=2, label=-1), 10) == [10, 10]
    assert labels_of(Request(count=2), 0) is None
