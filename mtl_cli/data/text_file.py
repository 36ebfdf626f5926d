"""Text files as UTF-8, with the line of whatever is not."""

from __future__ import annotations

from pathlib import Path

from mtl_cli.types import UserError


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, without a byte order mark; line ends as they are.

    Raises:
        UserError: the file cannot be opened, or holds bytes that are not UTF-8 (with the line).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}). Convert the file, "
            f"for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def split_lines(text: str) -> list[str]:
    r"""Lines ended by \n or \r\n and nothing else.

    str.splitlines would also end a line at characters that occur within texts, such as U+2028 and U+0085.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    return lines
