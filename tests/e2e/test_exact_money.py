"""No float on a money path: the code of every room that amounts pass through is looked at.

Seconds may be floats: their names end in `_s`, and a `deadline` is the event loop's own time.
Everything else is integers and Decimal.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

import loyalty_gateway

PACKAGE = Path(loyalty_gateway.__path__[0])
MONEY_PATHS = (
    *sorted(PACKAGE.glob("domain/*.py")),
    *sorted(PACKAGE.glob("journal/**/*.py")),
    *sorted(PACKAGE.glob("providers/*/wire.py")),
    *sorted(PACKAGE.glob("providers/*/wire/*.py")),
    *sorted(PACKAGE.glob("rpc/codec/*.py")),
)
PLACES = [str(path.relative_to(PACKAGE)) for path in MONEY_PATHS]
DURATIONS = ("_s", "_ms", "_us")
FLOAT_MAKERS = frozenset({"float", "complex", "fsum", "from_float", "as_integer_ratio", "sqrt"})
FLOAT_MODULES = frozenset({"math", "cmath", "statistics", "random", "numpy", "struct"})
FLOAT_FORMATS = tuple("eEfFgG%")


@dataclass(frozen=True, slots=True)
class Float:
    """A place where a float can arise."""

    line: int
    what: str


class Search(ast.NodeVisitor):
    """Finds floats; `ancestors` are the nodes around the one that is looked at."""

    def __init__(self) -> None:
        self.found: list[Float] = []
        self.ancestors: list[ast.AST] = []

    def generic_visit(self, node: ast.AST) -> None:
        self.ancestors.append(node)
        super().generic_visit(node)
        self.ancestors.pop()

    def _note(self, node: ast.AST, what: str) -> None:
        if not self._is_of_a_duration():
            self.found.append(Float(getattr(node, "lineno", 0), what))

    def _is_of_a_duration(self) -> bool:
        """Whether what is looked at is given to, or compared with, a name that says seconds."""
        for above in reversed(self.ancestors):
            match above:
                case ast.keyword(arg=str(name)) | ast.arg(arg=name):
                    return is_duration(name)
                case ast.AnnAssign(target=target):
                    return is_duration(name_of(target))
                case ast.Assign(targets=[target]):
                    return is_duration(name_of(target))
                case ast.Compare(left=left, comparators=others):
                    return any(is_duration(name_of(side)) for side in (left, *others))
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    return is_duration(name)
        return False

    def visit_arguments(self, node: ast.arguments) -> None:
        """A default belongs to its argument, which the tree itself does not say."""
        plain = [*node.posonlyargs, *node.args]
        defaults = [*zip(plain[len(plain) - len(node.defaults) :], node.defaults, strict=True)]
        defaults += [
            (argument, default)
            for argument, default in zip(node.kwonlyargs, node.kw_defaults, strict=True)
            if default is not None
        ]
        for argument in (*plain, *node.kwonlyargs, node.vararg, node.kwarg):
            if argument is not None:
                self.visit(argument)
        for argument, default in defaults:
            self.ancestors.append(argument)
            self.visit(default)
            self.ancestors.pop()

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, float | complex):
            self._note(node, f"the literal {node.value!r}")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in FLOAT_MAKERS:
            self._note(node, f"the name {node.id}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in FLOAT_MAKERS:
            self._note(node, f"the attribute {node.attr}")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._judge_operator(node, node.op, node.left, node.right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._judge_operator(node, node.op, node.target, node.value)
        self.generic_visit(node)

    def _judge_operator(
        self, node: ast.AST, operator: ast.operator, left: ast.expr, right: ast.expr
    ) -> None:
        if isinstance(operator, ast.Div):
            # Text on one side makes it a path; a constant of seconds makes it a duration.
            is_path = any(
                isinstance(side, ast.Constant | ast.JoinedStr)
                and not isinstance(getattr(side, "value", ""), int | float)
                for side in (left, right)
            )
            if not is_path and not is_duration(name_of(left)):
                self._note(node, "a true division")
        if isinstance(operator, ast.Pow) and isinstance(right, ast.UnaryOp):
            self._note(node, "a negative power")

    def visit_Call(self, node: ast.Call) -> None:
        name = name_of(node.func)
        given = {keyword.arg for keyword in node.keywords}
        if name in ("loads", "load") and "parse_float" not in given:
            self._note(node, "JSON read without parse_float")
        if name == "JSONDecoder" and "parse_float" not in given:
            self._note(node, "JSON read without parse_float")
        if name == "round" and len(node.args) > 1:
            self._note(node, "round to digits")
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._judge_module(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._judge_module(node, node.module or "")

    def _judge_module(self, node: ast.AST, module: str) -> None:
        if module.partition(".")[0] in FLOAT_MODULES:
            self._note(node, f"the module {module}")

    def visit_FormattedValue(self, node: ast.FormattedValue) -> None:
        if node.format_spec is not None:
            [*_, last] = getattr(node.format_spec, "values", [None])
            text = last.value if isinstance(last, ast.Constant) else ""
            if isinstance(text, str) and text.endswith(FLOAT_FORMATS):
                self._note(node, f"the format {text!r}")
        self.generic_visit(node)


def is_duration(name: str) -> bool:
    return name == "deadline" or name.lower().endswith(DURATIONS)


def name_of(node: ast.AST) -> str:
    """The last name of an expression, for example `c` of `a.b.c`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def floats_in(source: str) -> list[Float]:
    search = Search()
    search.visit(ast.parse(source))
    return search.found


@pytest.mark.parametrize("place", PLACES)
def test_no_float_can_arise_where_amounts_pass(place: str) -> None:
    found = floats_in((PACKAGE / place).read_text("utf-8"))
    assert not found, "\n".join(f"{place}:{float.line}: {float.what}" for float in found)


def test_every_room_of_money_is_looked_at() -> None:
    names = set(PLACES)
    assert {
        "domain/amounts.py",
        "domain/booking.py",
        "domain/operations.py",
        "journal/rows.py",
        "journal/schema.py",
        "providers/cashassist/wire.py",
        "rpc/codec/types.py",
        "rpc/codec/balance.py",
    } <= names
    adapters = {path.parent.name for path in PACKAGE.glob("providers/*/adapter.py")}
    shapes = {
        name: {f"providers/{name}/wire.py", f"providers/{name}/wire/__init__.py"}
        for name in adapters
    }
    assert [name for name, places in shapes.items() if not places & names] == []


PLANTED = (
    "fee_minor = minor * 0.1",
    "amount = float(text)",
    "units = minor / 100",
    "minor /= 100",
    "minor = units * 10 ** -2",
    "amount = json.loads(body)['amount']",
    "amount = json.load(file)",
    "amount = json.JSONDecoder().decode(text)",
    "text = f'{minor:.2f}'",
    "text = f'{share:.1%}'",
    "import math",
    "from statistics import mean",
    "value = Decimal.from_float(share)",
    "def total(rate: float) -> int: ...",
    "amounts = list(map(float, texts))",
    "half = round(minor, 2)",
    "class Price:\n    amount: float",
    "def apply(minor: int, rate=1.5): ...",
    "if minor > 99.5: ...",
    "def wait(limit_s: float, share=0.5) -> None: ...",
    "def wait(*, rate: object = 0.5, limit_s: float = 1) -> None: ...",
)
FINE = (
    "timeout_s: float = 2.5",
    "def wait(limit_s: float = 0.5) -> None: ...",
    "def open(*, retry_after_s: float | None = None) -> None: ...",
    "def book(call: Call, deadline: float) -> None: ...",
    "pool = make(timeout_s=1.5)",
    "def wait_s(tries: int) -> float: ...",
    "if waited_s > 0.5: ...",
    "units, rest = divmod(minor, 100)",
    "amount = json.loads(body, parse_float=Decimal)",
    "path = folder / 'loyalty.sqlite3'",
    "scale = 10 ** exponent",
    "half = round(value)",
    "text = f'{units:d}.{rest:02d}'",
)


@pytest.mark.parametrize("line", PLANTED)
def test_a_planted_float_is_found(line: str) -> None:
    assert floats_in(line)


@pytest.mark.parametrize("line", FINE)
def test_seconds_and_whole_numbers_are_let_be(line: str) -> None:
    assert floats_in(line) == []
