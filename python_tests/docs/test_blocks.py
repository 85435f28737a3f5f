"""The test of the pages finds what is wrong in them."""

from __future__ import annotations

import pytest
from page_blocks import Block, blocks_of

pytest.importorskip("typer", reason='needs the extra "clip"')

from page_reader import Reader


def page(tmp_path, monkeypatch, text):
    monkeypatch.setattr("page_blocks.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    return blocks_of(tmp_path / "page.md")


def fence(language: str, content: str, comment: str | None = None) -> str:
    above = f"<!-- {comment} -->\n" if comment else ""
    return f"Words.\n\n{above}```{language}\n{content}\n```\n\n"


def test_blocks_are_found_with_their_comments(tmp_path, monkeypatch):
    found = page(
        tmp_path,
        monkeypatch,
        fence("python", "x = 1")
        + fence("sh", "awpf run \\\n    --dataset a   # b\n\n# c", "needs: weights")
        + "- item\n\n  ```text\n  a\n  ```\n",
    )
    assert [block.language for block in found] == ["python", "sh", "text"]
    assert found[0] == Block("page.md:3", "python", "", "", "x = 1\n")
    assert (found[1].kind, found[1].detail) == ("needs", "weights")
    assert found[1].commands == [["awpf", "run", "--dataset", "a"]]
    assert found[2].content == "a\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (fence("python", "1 / 0"), "division by zero"),
        (fence("python", "print(1)") + fence("text", "2", "output"), "this was printed"),
        (fence("text", "nothing above it"), "no comment above it"),
        (fence("fortran", "end"), "no test knows"),
        (fence("sh", "ls"), "ls is not run by any test"),
        (fence("sh", "awpf run --dataset features:none.npz"), "ended with 2"),
        (fence("sh", "awpf methods", "fails: 2"), "ended with 0"),
        (fence("sh", "awpf run --dataset cifar100 --basis 3", "needs: data"), "--basis"),
        (fence("sh", "awpf run --dataset cifar100 --set epoch=3", "needs: data"), "epoch"),
        (fence("sh", "awpf predict --basis 3", "needs: a run"), "--basis"),
        (fence("text", "certainly not", "message from page.md: a word"), "is not in"),
    ],
)
def test_what_is_wrong_is_found(tmp_path, page_folder, monkeypatch, text, message):
    blocks = page(tmp_path, monkeypatch, text)
    with pytest.raises(Exception, match=message):
        Reader(page_folder, monkeypatch, root=tmp_path).follow(blocks)
