"""What a page consists of: sections of notes, facts, tables, figures and galleries. The template draws each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from mmfeat.report.html.svg_charts import Chart
from mmfeat.report.table_layout import Table, Unshown

if TYPE_CHECKING:
    from markupsafe import Markup

PAGED = 100  # rows from which a table is shown page by page; `page.js` has the same number


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph. `kind` is plain, note, warn or bad."""

    block: ClassVar[str] = "text"
    text: str
    kind: str = "plain"


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading within a section."""

    block: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Pairs of a name and a text."""

    block: ClassVar[str] = "facts"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table of the page, which is also a CSV file beside it.

    Attributes
    ----------
    name : str
        The end of the CSV file's name; empty for a table without a file.
    table : Table
        Cells as on the terminal. A note is the last column.
    marks : tuple of Markup
        A small chart for each row, shown after the first column; `mark_title` is its title.
    looks : tuple of str
        For each row `this` (the subject of the page), `minor` or an empty text.
    links : tuple of str
        For each row an address that its first cell leads to; empty without.
    """

    block: ClassVar[str] = "table"
    name: str
    table: Table
    caption: str = ""
    sortable: bool = False
    marks: tuple[Markup, ...] = ()
    mark_title: str = ""
    looks: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def paged(self) -> bool:
        """Whether the script shows it page by page, with a search."""
        return self.sortable and len(self.table.rows) > PAGED

    @property
    def columns(self) -> list[int]:
        """The columns that are shown; the CSV file has all."""
        return [i for i, title in enumerate(self.table.head) if not isinstance(title, Unshown)]

    @property
    def noted(self) -> bool:
        """Whether some row has a note."""
        return any(len(row) > len(self.table.head) and row[-1] for row in self.table.rows)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with a title and a sentence on how to read it."""

    block: ClassVar[str] = "figure"
    title: str
    text: str
    chart: Chart


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Figures and tables side by side, where there is room."""

    block: ClassVar[str] = "columns"
    parts: tuple[Figure | PageTable, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Small charts, each with a name and a value."""

    block: ClassVar[str] = "curves"
    items: tuple[tuple[str, str, Markup], ...]


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A label of a sample. `kind` is right, missed, wrong or empty; `value` a probability as text."""

    text: str
    kind: str = ""
    value: str = ""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One sample of a card: a picture as JPEG bytes, if there is one, and its caption and labels.

    Attributes
    ----------
    missing : str
        Why there is no picture; shown in its place.
    chips : tuple of (str, tuple of Chip)
        Rows of labels by their title, such as `given` and `predicted`.
    """

    id: str
    caption: str = ""
    picture: bytes | None = None
    missing: str = ""
    chips: tuple[tuple[str, tuple[Chip, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Card:
    """One sample, or several that belong together, and the reason why they are shown."""

    members: tuple[Member, ...]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Cards. With `group`, a choice on the page shows those of one `name`; `detail` is shown beside the name."""

    block: ClassVar[str] = "gallery"
    cards: tuple[Card, ...]
    name: str = ""
    detail: str = ""
    group: str = ""
    pairs: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice among the galleries of a group; the script shows it."""

    block: ClassVar[str] = "choice"
    group: str
    label: str
    names: tuple[str, ...]


Block = Text | Heading | Facts | PageTable | Figure | Columns | Curves | Gallery | Choice


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page. `id` is its anchor."""

    id: str
    title: str
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, id: str, title: str, blocks: Sequence[Block | None]) -> Section:
        """A section of the blocks that are there."""
        return cls(id=id, title=title, blocks=tuple(block for block in blocks if block is not None))


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A key figure."""

    title: str
    value: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page.

    Attributes
    ----------
    eyebrow : str
        A line above the title.
    badges : tuple of (str, str)
        Words with their kind: good, warn, bad or empty.
    """

    title: str
    eyebrow: str = ""
    badges: tuple[tuple[str, str], ...] = ()
    intro: tuple[Text, ...] = ()
    tiles: tuple[Tile, ...] = ()
    sections: tuple[Section, ...] = field(default=())

    @property
    def tables(self) -> list[PageTable]:
        """The tables that have a file."""
        blocks = [block for section in self.sections for block in section.blocks]
        parts = [part for block in blocks for part in (block.parts if isinstance(block, Columns) else (block,))]
        return [part for part in parts if isinstance(part, PageTable) and part.name]
