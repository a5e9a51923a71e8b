"""The tree as it stands keeps every law of the house."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import pytest

from comity.cli.configuration_text import toml
from comity.config import documented_keys
from tests.house import laws
from tests.house.tree import ROOT, Module, modules, text_files

COMITY = modules("comity")
TESTS = modules("tests")


def obeyed(breaches: Iterable[str]) -> None:
    """Fail with every breach, one a line."""
    found = list(breaches)
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_imports_go_strictly_downward() -> None:
    obeyed(laws.forbidden_imports(COMITY))


def test_no_module_reaches_itself() -> None:
    obeyed(laws.import_cycles(COMITY))


@pytest.mark.parametrize(
    "law",
    [
        laws.guarded_imports,
        laws.banned_calls,
        laws.impure_protocol,
        laws.waiting_store,
        laws.blocking_reads,
        laws.too_large,
        laws.no_docstring,
    ],
)
def test_each_module_of_comity(law: Callable[[Module], Iterator[str]]) -> None:
    obeyed(breach for module in COMITY for breach in law(module))


def test_tests_take_no_shortcuts() -> None:
    obeyed(breach for module in TESTS for breach in laws.shortcuts_in_tests(module))


def test_every_module_stands_in_the_map() -> None:
    obeyed(laws.unmapped(COMITY, (ROOT / "docs" / "map.md").read_text("utf-8")))


def test_every_configuration_key_is_documented() -> None:
    keys = {key.full_name: "" if key.default is None else toml(key.default) for key in documented_keys()}
    obeyed(laws.undocumented_keys(keys, (ROOT / "docs" / "running.md").read_text("utf-8")))


def test_text_is_tidy_and_knows_no_machine() -> None:
    obeyed(breach for path, text in text_files() for breach in laws.untidy_text(path, text))


def test_links_between_documents_lead_somewhere() -> None:
    obeyed(
        f"{path}: the link to {target} leads nowhere"
        for path, text in text_files()
        if path.endswith(".md")
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text)
        if not (ROOT / path).parent.joinpath(target).exists()
    )


def test_every_decision_is_numbered_once() -> None:
    numbers = [path.name[:4] for path in (ROOT / "docs" / "decisions").glob("*.md")]
    assert all(number.isdigit() for number in numbers), "a decision's file begins with four digits"
    assert len(numbers) == len(set(numbers)), f"a number was given twice: {sorted(numbers)}"
