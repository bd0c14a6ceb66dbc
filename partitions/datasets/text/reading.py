"""Text files in UTF-8: lines, tables and JSON lines. Every error names the file and the line."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partitions.errors import DataError

SHOWN = 40  # characters of a wrong line in an error


@dataclass(frozen=True)
class TextFile:
    """A text file, or a member of a zip archive."""

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """Its name in error messages."""
        return self.member or str(self.path)

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
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.name} cannot be read ({error})") from error

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield the number, from 1, and the text of each line that is not blank.

        Only a line feed ends a line: other separators of Unicode, such as U+2028, may be part of a text.
        """
        for number, line in enumerate(self.text().split("\n"), 1):
            if line.strip():
                yield number, line.removesuffix("\r")

    def table(self, columns: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the place and the cells of each row of tab-separated values without quoting.

        Args:
            columns: names of the columns if the text has no header.

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
            if len(cells) != len(names):
                raise DataError(f"{self.name}, line {number}: {len(cells)} cells, {len(names)} columns; correct it")
            yield f"{self.name}, line {number}", dict(zip(names, cells, strict=True))

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
                row = json.loads(line)
                line.encode()
                json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no character
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is no JSON in UTF-8 ({error}): write {form}, not {line[:SHOWN]}") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected {form}, not {line[:SHOWN]}")
            yield where, row


def text_files(files: Sequence[Path]) -> dict[str, TextFile]:
    """Find files in archives and folders. What macOS adds to them, and other hidden files, are left out.

    Returns:
        Files by their path in the archive or folder, or else by their name.

    Raises:
        DataError: an archive is not complete.
    """
    found: dict[str, TextFile] = {}
    for file in files:
        if file.is_dir():
            inside = (path for path in sorted(file.rglob("*")) if path.is_file())
            found |= {path.relative_to(file.parent).as_posix(): TextFile(path) for path in inside}
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                found |= {name: TextFile(file, name) for name in archive.namelist() if not name.endswith("/")}
        elif file.suffix == ".zip":
            raise DataError(f"{file} is no complete zip archive; download it again")
        else:
            found[file.name] = TextFile(file)
    return {name: file for name, file in found.items() if not _hidden(name)}


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in Path(name).parts)
