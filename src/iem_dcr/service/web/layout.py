"""What all pages have in common, and the two that are kept up to date: all meters, and one of them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from iem_dcr import __version__
from iem_dcr.service.web.html import document, field, rows, table, tag
from iem_dcr.service.web.meter_view import path_of
from iem_dcr.service.web.view import View

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from iem_dcr.service.observation import ObservedMeter

CHARTS: Final = (
    ("power", "Power", "kW"),
    ("voltage", "Voltage", "V"),
    ("current", "Current", "A"),
    ("energy", "Import register", "kWh"),
)
"""Name, title and unit of each chart."""
HOME: Final = "IEM-DCR meters"
"""What the page of all meters is called where it is led to."""
_FEW: Final = 8
"""With more meters than so many there is a field to find one."""
_AT_FIRST: Final = 200
"""So many meters are on the page when it is loaded; the stream brings the others, and to write them takes a while."""


def top(*crumbs: tuple[str, str], is_live: bool = True) -> Element:
    """Return the head of a page: where it is, and whether what it shows is live.

    Args:
        crumbs: text and path of each page above this one, and the text of this one with "".
        is_live: the page is kept up to date.
    """
    items = [
        tag("li", tag("a", text, href=href) if href else tag("span", text, aria_current="page"))
        for text, href in crumbs
    ]
    live = (
        tag(
            "p",
            tag("span", "Not live: this page needs JavaScript to go on by itself.", role="status"),
            tag("span"),  # how old it is; that is not spoken every second
            id="live",
            data_kind="off",
        )
        if is_live
        else None
    )
    return tag(
        "header",
        tag("a", "To the content", href="#content", class_="skip"),
        tag("nav", tag("ol", *items), aria_label="Where you are"),
        live,
    )


def bottom(*, is_open: bool = False) -> Element:
    """Return the foot of a page. To whom has not given the token it tells neither version nor zone."""
    if is_open:
        return tag("footer", tag("p", "iem-dcr"))
    now = datetime.now().astimezone()
    return tag(
        "footer",
        tag("p", f"iem-dcr {__version__}. This page only shows; nothing can be changed here. "),
        tag("p", f"Times are those of the host, UTC{now:%z}."),
    )


def overview_page(view: View, count: int) -> str:
    """Return the page of all meters."""
    heads = ("Meter", "State", "Power", "Voltage", "Current", "Import register", "Charged", "What is wrong")
    first = View(view.fields, {"meters": view.tables["meters"][:_AT_FIRST]})
    more = f"{count - _AT_FIRST} more meters are shown with JavaScript."
    find = tag(
        "form",
        tag("label", "Find a meter ", tag("input", type="search", id="find", autocomplete="off", spellcheck="false")),
        role="search",
        hidden="hidden",
        data_when_live="",
    )
    return document(
        "Meters",
        top((HOME, "")),
        tag(
            "main",
            tag("h1", "Meters"),
            tag("p", field(view, "summary"), ". ", field(view, "status"), ".", class_="summary"),
            find if count > _FEW else None,
            tag("div", table("All meters", heads, rows(first, "meters"), class_="meters"), class_="wide"),
            tag("noscript", tag("p", more)) if count > _AT_FIRST else None,
            id="content",
        ),
        bottom(),
        kind="overview",
    )


def meter_page(meter: ObservedMeter, view: View) -> str:
    """Return the page of one meter."""
    name = view.fields["name"].text
    return document(
        name,
        top((HOME, "/"), (name, "")),
        tag(
            "main",
            tag("h1", field(view, "name"), " ", field(view, "state", class_="state")),
            tag("p", field(view, "read"), field(view, "age"), class_="summary"),
            rows(view, "troubles", "ul", class_="troubles", aria_label="What is wrong"),
            _tiles(view),
            _charts(),
            tag("div", _transaction(view), _about(view), _words(view), class_="cards"),
            _receipts(view),
            _errors(view),
            id="content",
            data_events=f"{path_of(meter)}/events",
        ),
        bottom(),
        kind="meter",
    )


def _tiles(view: View) -> Element:
    tiles = (("power", "Power", "kW"), ("voltage", "Voltage", "V"), ("current", "Current", "A"),
             ("import", "Import register", "kWh"), ("export", "Export register", "kWh"))  # fmt: skip
    return tag(
        "dl",
        *(
            tag("div", tag("dt", head), tag("dd", field(view, name), " ", tag("small", unit)))
            for name, head, unit in tiles
        ),
        class_="tiles",
    )


def _charts() -> Element:
    figures = (
        tag(
            "figure",
            tag(
                "figcaption",
                tag("strong", title),
                " ",
                tag("span", unit, class_="unit"),
                " ",
                tag("output", class_="at"),
            ),
            tag("div", class_="chart", data_chart=name, data_unit=unit, data_title=title),
        )
        for name, title, unit in CHARTS
    )
    return tag(
        "section",
        tag("h2", "The last 30 minutes"),
        tag("noscript", tag("p", "Charts need JavaScript.")),
        tag("div", *figures, class_="charts"),
    )


def _card(title: str, *content: Element) -> Element:
    return tag("section", tag("h2", title), *content, class_="card")


def _list(view: View, *lines: tuple[str, str]) -> Element:
    return tag("dl", *(tag("div", tag("dt", head), field(view, name, "dd")) for head, name in lines), class_="pairs")


def _transaction(view: View) -> Element:
    return _card(
        "Transaction",
        _list(
            view,
            ("State", "transaction"),
            ("Charged", "charged"),
            ("Id", "transaction-id"),
            ("User", "user"),
            ("Tariff", "tariff"),
        ),
    )


def _about(view: View) -> Element:
    return _card(
        "Meter",
        _list(
            view,
            ("Serial", "serial"),
            ("Address", "address"),
            ("Type (CT)", "CT"),
            ("Charge point (CI)", "CI"),
            ("Its clock", "clock"),
            ("Difference", "clock-off"),
            ("Public key", "key"),
        ),
    )


def _table(view: View, name: str, caption: str, heads: tuple[str, ...], nothing: str) -> Element:
    is_empty = not view.tables[name]
    return tag(
        "div",
        tag("p", nothing, data_nothing=name, hidden=None if is_empty else "hidden"),
        table(caption, heads, rows(view, name), class_=name, hidden="hidden" if is_empty else None),
        class_="wide",
    )


def _words(view: View) -> Element:
    return _card(
        "Status words",
        _table(view, "words", "Status words of the meter", ("Word", "Value", "Meaning"), "None was read yet."),
    )


def _receipts(view: View) -> Element:
    heads = ("Receipt", "Ended", "Energy", "Signature", "Findings", "Transaction", "Transparency software")
    return tag(
        "section",
        tag("h2", "Latest receipts"),
        field(view, "receipts-note", "p", class_="note"),
        _table(view, "receipts", "Latest receipts, newest first", heads, "None yet."),
    )


def _errors(view: View) -> Element:
    heads = ("Raised", "Over", "Error", "Message")
    return tag(
        "section",
        tag("h2", "Errors at the station"),
        _table(view, "errors", "Errors raised at the station, newest first", heads, "None since the service started."),
    )
