"""Plain words in README, docs, YAML comments, and in docstrings, messages and comments of the code.

CONTRIBUTING asks for subject, verb, object and at most 30 words per sentence. This test finds long
sentences and the phrases that made earlier texts hard to read.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

LIMITS = {"docs": 0, "yaml": 0, "src": 0, "stages": 0}  # findings per area; only ever lower them
LONGEST = 30  # words per sentence
HISTORY = {"log.md", "CHANGELOG.md", "RESULTS.md"}  # not rewritten
PHRASES = re.compile(
    r"\b(told|stands|stood|lies|lie|came|beside|anew|so many|one's own|that which|of others"
    r"|as it stands|(goes|go|gone|went) on"
    r"|[Ww]hat (is|was|are|were|has|a|an|the)\b(?![^.?\n]*\?)"  # no question: a noun
    r"|a (number|value|row|file|run|stage|class|seed|line|directory|section) an? )\b"
)


def documents() -> list[Path]:
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    return sorted(path for path in paths if path.name not in HISTORY)


def prose(path: Path) -> Iterator[str]:
    """Yield the paragraphs of a file: of code its strings with a space, and its comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        lines = [line for line in text.splitlines() if not line.startswith("|")]
        yield from re.split(r"\n\s*\n|\n#+ .*\n|\n(?=\s*[-*] )", "\n".join(lines))
    elif path.suffix == ".yaml":
        yield from (line.partition("#")[2] for line in text.splitlines() if "#" in line)
    else:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from re.split(r"\n\s*\n|\n\s*(?:[-*] |>>>)", node.value)
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.string.lstrip("# ")


def findings(paths: list[Path]) -> list[str]:
    """Return a line for each phrase and each long sentence."""
    found = []
    for path in paths:
        for paragraph in map(" ".join, map(str.split, prose(path))):
            if " " not in paragraph:
                continue
            for match in PHRASES.finditer(paragraph):
                found.append(f"{path}: {match[0].strip()!r} in: {paragraph}")
            for sentence in re.split(r"(?<=[.!?;:])\s+", paragraph):
                if (count := len(sentence.split())) > LONGEST:
                    found.append(f"{path}: {count} words in: {sentence}")
    return found


def test_texts_are_in_plain_words(subtests):
    areas = {"docs": documents(), "yaml": sorted(ROOT.glob("*.yaml"))}
    for area, limit in LIMITS.items():
        found = findings(areas.get(area) or sorted((ROOT / area).rglob("*.py")))
        with subtests.test(area=area):
            assert len(found) <= limit, "\n".join(found)


def test_the_old_voice_is_found(tmp_path):
    page, code = tmp_path / "page.md", tmp_path / "code.py"
    page.write_text("What is told here.\n\n" + "word " * 31 + ".\n\n```\nwhat is told\n```\n")
    code.write_text('def f():\n    """Came anew."""\n    # lies beside\n')
    assert len(findings([page])) == 3
    assert len(findings([code])) == 3
