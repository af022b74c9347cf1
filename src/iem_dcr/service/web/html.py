"""HTML, built as a tree and written by the standard library, so that no text can ever become markup."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, tostring

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iem_dcr.service.web.view import Cell, Row, View


def tag(name: str, /, *children: Element | str | None, **attributes: str | None) -> Element:
    """Return an element.

    Args:
        name: of the element.
        children: elements and texts, in their order; None is left out.
        attributes: a trailing underscore is taken off a name, any other is a hyphen; None is left out.
    """
    made = Element(name)
    for key, value in attributes.items():
        if value is not None:
            made.set(key.rstrip("_").replace("_", "-"), visible(value))
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif child is not None:
            if last is None:
                made.text = (made.text or "") + visible(child)
            else:
                last.tail = (last.tail or "") + visible(child)
    return made


def visible(text: str) -> str:
    """Replace by spaces what is no visible character: controls, and marks that turn the direction of writing."""
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def field(view: View, name: str, element: str = "span", **attributes: str | None) -> Element:
    """Return the element of a field of a view, which the page's program keeps up to date."""
    cell = view.fields[name]
    return tag(element, cell.text, data_field=name, data_kind=cell.kind, **attributes)


def rows(view: View, name: str, element: str = "tbody", **attributes: str | None) -> Element:
    """Return the element with the rows of a view's table: of a ``tbody``, or the items of a list."""
    make = table_row if element == "tbody" else list_item
    return tag(element, *map(make, view.tables[name]), data_rows=name, **attributes)


def table(caption: str, heads: Sequence[str], body: Element, **attributes: str | None) -> Element:
    """Return a table. Its parts say what they are, for on a phone they are laid out as no table is."""
    head = tag("tr", *(tag("th", head, scope="col", role="columnheader") for head in heads), role="row")
    body.set("role", "rowgroup")
    return tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", head, role="rowgroup"),
        body,
        role="table",
        **attributes,
    )


def table_row(row: Row) -> Element:
    """Return a row of a table; its first cell is its head."""
    head, *others = row.cells
    return tag(
        "tr",
        tag("th", *_content(head), scope="row", role="rowheader", data_kind=head.kind or None),
        *(tag("td", *_content(cell), role="cell", data_kind=cell.kind or None) for cell in others),
        role="row",
        data_key=row.key,
        data_kind=row.kind or None,
    )


def list_item(row: Row) -> Element:
    """Return an item of a list."""
    return tag("li", *_content(row.cells[0]), data_key=row.key, data_kind=row.kind or None)


def _content(cell: Cell) -> tuple[Element | str, ...]:
    return (tag("a", cell.text, href=cell.href),) if cell.href else (cell.text,)


def document(title: str, *body: Element | str | None, kind: str = "") -> str:
    """Return a page as a text.

    Args:
        title: of the page.
        body: what it shows.
        kind: what the page's program does with it; "" where it does nothing.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", f"{title} — IEM-DCR"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="/static/icon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href="/static/page.css"),
        tag("script", src="/static/page.js", type="module") if kind else None,
    )
    whole = tag("html", head, tag("body", *body, data_page=kind or None), lang="en")
    return "<!DOCTYPE html>\n" + tostring(whole, encoding="unicode", method="html") + "\n"


def page(text: str, status: int = 200) -> web.Response:
    """Return the answer that is a page."""
    return web.Response(status=status, text=text, content_type="text/html")
