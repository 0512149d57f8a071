"""What a package's sources make public, read without importing them."""

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from textwrap import fill

PACKAGE = Path(__file__).parents[1] / "src" / "alphaflow"

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Entry:
    """A public thing: its name, how it is written, what its docstring says, and for classes what is inside.

    known: names that its docstring may list with a colon: parameters and fields.
    """

    name: str
    module: str
    code: str
    text: str
    known: frozenset[str]
    members: list["Entry"] = field(default_factory=list)


@cache
class Module:
    """A module of the package, by its dotted name below it; "" is the package itself."""

    def __init__(self, name: str) -> None:
        path = PACKAGE.joinpath(*name.split(".")) if name else PACKAGE
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.name, self.is_package = name, path.is_dir()
        source = file.read_text()
        self.lines = [line.encode() for line in source.splitlines()]  # columns of a syntax tree count bytes
        self.tree = ast.parse(source)
        self.text = ast.get_docstring(self.tree) or ""
        self.definitions = self._definitions()

    def _definitions(self) -> dict[str, tuple[Definition, str]]:
        """What stands at its top, with the docstring, or the string below an assignment."""
        found: dict[str, tuple[Definition, str]] = {}
        for node, following in zip(self.tree.body, [*self.tree.body[1:], None]):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[node.name] = (node, ast.get_docstring(node) or "")
            elif isinstance(node, ast.Assign | ast.AnnAssign) and (name := assigned(node)):
                found[name] = (node, below(following))
        return found

    def homes(self) -> dict[str, str]:
        """Where the names come from that it imports from this package."""
        parts = self.name.split(".") if self.name else []
        parts = parts if self.is_package else parts[:-1]
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("alphaflow.")):
                above = parts[: len(parts) + 1 - node.level] if node.level else []
                below = (node.module or "").removeprefix("alphaflow.").split(".")
                found |= {alias.name: ".".join(part for part in (*above, *below) if part) for alias in node.names}
        return found

    def definer(self, name: str) -> "Module":
        """The module that defines a name which this one offers, through packages that hand it on."""
        return self if name in self.definitions else Module(self.homes()[name]).definer(name)

    def names(self) -> list[str]:
        """`__all__`, or what it defines without an underscore and with something said about it."""
        if "__all__" in self.definitions:
            return [str(name) for name in ast.literal_eval(self.definitions["__all__"][0].value)]  # type: ignore
        return [
            name
            for name, (node, text) in self.definitions.items()
            if not name.startswith("_") and (text or (isinstance(node, ast.ClassDef) and said(node)))
        ]

    def entry(self, name: str) -> Entry:
        """One of the names that it defines."""
        node, text = self.definitions[name]
        if isinstance(node, ast.FunctionDef):
            return Entry(name, self.name, self.signature(node, name), text, parameters(node))
        if isinstance(node, ast.ClassDef):
            known = {assigned(one) or "" for one, _ in fields(node)}
            begin = constructor(node)
            known |= parameters(begin) if begin else set()
            return Entry(name, self.name, self.class_code(node), text, frozenset(known), self.methods(node))
        code = self.code(node)
        return Entry(name, self.name, code if len(code) < 200 else f"{name} = …", text, frozenset())

    def entries(self) -> list[Entry]:
        """All public things, its own first, then those it hands on, in the order of their sources."""
        found = []
        for name in self.names():
            home = self.definer(name)
            found.append((home is not self, home.name, home.definitions[name][0].lineno, home.entry(name)))
        return [one for *_, one in sorted(found, key=lambda item: item[:3])]

    def code(self, node: ast.expr | ast.stmt) -> str:
        """As it is written, on one line. (`ast.get_source_segment` splits the whole file each time.)"""
        first, last = node.lineno - 1, node.end_lineno
        lines = self.lines[first:last]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return " ".join(b" ".join(lines).decode().split())

    def signature(self, node: ast.FunctionDef, name: str, *, method: bool = False) -> str:
        """`name(a: int, *, b: float = 1.0) -> str`, one parameter a line where it is long."""
        a = node.args
        plain = [*a.posonlyargs, *a.args]
        defaults: list[ast.expr | None] = [*[None] * (len(plain) - len(a.defaults)), *a.defaults]
        words = [self._parameter(one, default) for one, default in zip(plain, defaults)]
        if method and "staticmethod" not in decorators(node):
            words = words[1:]
        if a.vararg:
            words.append("*" + self._parameter(a.vararg, None))
        elif a.kwonlyargs:
            words.append("*")
        words += [self._parameter(one, default) for one, default in zip(a.kwonlyargs, a.kw_defaults)]
        if a.kwarg:
            words.append("**" + self._parameter(a.kwarg, None))
        returns = f" -> {self.code(node.returns)}" if node.returns else ""
        line = f"{name}({', '.join(words)}){returns}"
        return (
            line
            if len(line) <= 100
            else "\n    ".join([f"{name}(", *(f"{one}," for one in words)]) + f"\n){returns}"
        )

    def _parameter(self, one: ast.arg, default: ast.expr | None) -> str:
        kind = f": {self.code(one.annotation)}" if one.annotation else ""
        equals = " = " if kind else "="
        return f"{one.arg}{kind}" + (f"{equals}{self.code(default)}" if default is not None else "")

    def class_code(self, node: ast.ClassDef) -> str:
        """How it is constructed: by its `__init__`, or by its fields."""
        if begin := constructor(node):
            words = self.signature(begin, node.name, method=True).removesuffix(" -> None").removesuffix("()")
            return f"class {words}"
        bases = f"({', '.join(map(self.code, node.bases))})" if node.bases else ""
        lines = [f"class {node.name}{bases}:"]
        for one, text in fields(node):
            lines.append(f"    {self.code(one)}")
            if text:
                lines.append(fill(text, 92, initial_indent="        # ", subsequent_indent="        # "))
        return "\n".join(lines) if len(lines) > 1 else lines[0].removesuffix(":")

    def methods(self, node: ast.ClassDef) -> list[Entry]:
        """Public methods and properties that say what they do."""
        found = []
        for one in node.body:
            if not isinstance(one, ast.FunctionDef) or (one.name.startswith("_") and one.name != "__call__"):
                continue
            if text := ast.get_docstring(one):
                if decorators(one) & {"property", "cached_property", "functools.cached_property"}:
                    code = one.name + (f": {self.code(one.returns)}" if one.returns else "")
                else:
                    code = self.signature(one, one.name, method=True)
                found.append(Entry(one.name, "", code, text, parameters(one)))
        return found


def assigned(node: ast.stmt) -> str | None:
    """The single name that a statement assigns to."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign) else None


def below(node: ast.stmt | None) -> str:
    """The string that follows an assignment, which says what it means."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def said(node: ast.ClassDef) -> bool:
    """Whether strings below its fields say what they mean."""
    return any(text for _, text in fields(node))


def fields(node: ast.ClassDef) -> list[tuple[ast.AnnAssign, str]]:
    """The public annotated fields of a class, with what is said below each."""
    return [
        (one, below(following))
        for one, following in zip(node.body, [*node.body[1:], None])
        if isinstance(one, ast.AnnAssign) and not (assigned(one) or "_").startswith("_")
    ]


def constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)


def parameters(node: ast.FunctionDef) -> frozenset[str]:
    a = node.args
    return frozenset(one.arg for one in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if one)


def decorators(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    return {ast.unparse(one).split("(")[0] for one in node.decorator_list}
