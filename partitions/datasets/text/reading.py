"""Text files in UTF-8: lines, tables and JSON lines. Every error names the file and the line."""

import csv
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partitions.errors import DataError, one_line

SHOWN = 40  # characters of a wrong line in an error


@dataclass(frozen=True)
class TextFile:
    """A text file, or a member of a zip archive."""

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """Its name in error messages."""
        return f"{self.member} in {self.path}" if self.member else str(self.path)

    def text(self) -> str:
        """Return the whole text, without a byte order mark.

        Raises:
            DataError: it cannot be read, or is not UTF-8.
        """
        try:
            if not self.member:
                return self.path.read_bytes().decode("utf-8-sig")
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.name} is not readable text ({error}); save it as UTF-8") from error
        except Exception as error:  # zipfile and the decompressors share no error for wrong bytes
            raise DataError(f"{self.name} cannot be read ({one_line(error)})") from error

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield the number, from 1, and the text of each line that is not blank.

        Only a line feed ends a line: other separators of Unicode, such as U+2028, may be part of a text.
        """
        for number, line in enumerate(self.text().split("\n"), 1):
            if line.strip():
                yield number, line.removesuffix("\r")

    def table(self, columns: Sequence[str] = (), cut: bool = False) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the place and the cells of each row of tab-separated values without quoting.

        Args:
            columns: names of the columns if the text has no header.
            cut: leave out rows with too few cells.

        Raises:
            DataError: a row has too few or too many cells, or two columns have one name.
        """
        names, lines = list(columns), self.lines()
        if not names:
            names = next(lines, (1, ""))[1].split("\t")
        if len(set(names)) < len(names):
            raise DataError(f"{self.name}: two columns have the same name ({', '.join(names)})")
        for number, line in lines:
            cells = line.split("\t")
            if cut and len(cells) < len(names):
                continue
            if len(cells) != len(names):
                raise DataError(f"{self.name}, line {number}: {len(cells)} cells, {len(names)} columns; correct it")
            yield f"{self.name}, line {number}", dict(zip(names, cells, strict=True))

    def cells(self, columns: int) -> Iterator[tuple[str, list[str]]]:
        """Yield the place and the cells of each row of comma-separated values with quotes and without a header.

        Raises:
            DataError: a row is no CSV, or has another number of cells.
        """
        rows = csv.reader(io.StringIO(self.text(), newline=""), strict=True)
        try:
            for row in rows:
                if len(row) != columns:
                    where = f"{self.name}, line {rows.line_num}"
                    raise DataError(f"{where}: {len(row)} cells, {columns} columns; correct it")
                yield f"{self.name}, line {rows.line_num}", row
        except csv.Error as error:
            raise DataError(f"{self.name}, line {rows.line_num}, is no CSV ({error}); correct it") from error

    def objects(self, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the place and the values of each line of JSON.

        Args:
            form: of a line, for error messages.

        Raises:
            DataError: a line is no JSON object, or has text that is not Unicode.
        """
        for number, line in self.lines():
            where = f"{self.name}, line {number}"
            try:
                row = json.loads(line, object_pairs_hook=_without_doubles)
                line.encode()
                json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no character
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is no JSON in UTF-8 ({error}): write {form}, not {line[:SHOWN]}") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected {form}, not {line[:SHOWN]}")
            yield where, row


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError if it has a key twice, because readers differ in which one they take."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def text_files(files: Sequence[Path]) -> dict[str, TextFile]:
    """Find files in archives and folders. What macOS adds to them, and other hidden files, are left out.

    Returns:
        Files by their whole path, which for a member is that of the archive and its own.

    Raises:
        DataError: an archive is not complete, or has two members of one name.
    """
    found: dict[str, TextFile] = {}
    for file in map(Path.absolute, files):
        if file.is_dir():
            inside = [(path.relative_to(file), TextFile(path)) for path in sorted(file.rglob("*")) if path.is_file()]
        elif zipfile.is_zipfile(file) or file.suffix == ".zip":
            inside = [(Path(name), TextFile(file, name)) for name in _members(file)]
        else:
            inside = [(Path(), TextFile(file))]
        found |= {(file / name).as_posix(): text for name, text in inside if not _hidden(name)}
    return found


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except Exception as error:  # zipfile lets errors of wrong bytes through
        raise DataError(f"{path} is no complete zip archive; download it again") from error
    if len({*names}) < len(names):
        raise DataError(f"{path} has two files of one name; extract it, and name the right files")
    return names


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
