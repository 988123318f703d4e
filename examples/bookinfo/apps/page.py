"""The HTML of the product page.

Owns: what the page looks like. Must not know: where its values come from.
Easy to break: every value is text of another application or of the visitor, so each goes through
`escape`. Tests and demos recognise the stars by `data-color` and the answering version by
`data-app`, words that stand nowhere else on the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

MOST_STARS = 5
INK_OF_STARS = {"black": "#20242c", "red": "#d3222a"}
DETAIL_LABELS = (
    ("type", "Type"),
    ("pages", "Pages"),
    ("publisher", "Publisher"),
    ("language", "Language"),
    ("ISBN-10", "ISBN-10"),
    ("ISBN-13", "ISBN-13"),
)

STYLE = """
:root { color-scheme: light; --ink: #20242c; --soft: #667085; --line: #e4e1d8; --accent: #35558a; }
* { box-sizing: border-box; }
body { margin: 0; background: #f7f5ef; color: var(--ink);
  font: 16px/1.6 Georgia, "Iowan Old Style", "Times New Roman", serif; }
a { color: var(--accent); }
header { background: #263a5e; color: #fff; }
header > div, main { max-width: 62rem; margin: auto; padding: 0 1.25rem; }
header > div { display: flex; align-items: center; justify-content: space-between; gap: 1rem;
  flex-wrap: wrap; min-height: 3.75rem; }
header a { color: #fff; text-decoration: none; }
header .brand { font-size: 1.2rem; letter-spacing: .02em; }
form { display: flex; gap: .5rem; align-items: center; margin: 0; }
input, button, .user, footer, .by, .chip { font-family: system-ui, sans-serif; }
input, button { font-size: .9rem; padding: .35rem .7rem; border-radius: .4rem; border: 0; }
input { width: 9rem; }
button { background: #e8b44c; color: #2b2208; font-weight: 600; cursor: pointer; }
.user { font-size: .95rem; }
.book { padding: 2.5rem 0 1.75rem; }
h1 { font-size: clamp(2rem, 5vw, 3rem); line-height: 1.15; margin: 0 0 .75rem; }
.book p { max-width: 44rem; margin: 0; color: #475067; font-size: 1.1rem; }
.columns { display: grid; grid-template-columns: minmax(15rem, 1fr) 2fr; gap: 1.25rem;
  align-items: start; }
@media (max-width: 46rem) { .columns { grid-template-columns: 1fr; } }
section { background: #fff; border: 1px solid var(--line); border-radius: .7rem;
  padding: 1.25rem 1.4rem; }
h2 { font-size: 1.15rem; margin: 0 0 .8rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .3rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
blockquote { margin: 0; padding: 0 0 1.1rem; }
blockquote + blockquote { padding-top: 1.1rem; border-top: 1px solid var(--line); }
blockquote p { margin: 0 0 .35rem; }
cite { color: var(--soft); }
.stars { font-size: 1.35rem; letter-spacing: .12em; line-height: 1.2; margin-right: .6rem; }
.error { background: #fdf1ef; border: 1px solid #eec6c0; color: #8b2a1d; border-radius: .5rem;
  padding: .7rem .9rem; margin: 0; }
.error small { display: block; color: #a2665d; font-family: ui-monospace, monospace;
  overflow-wrap: anywhere; }
.by { color: var(--soft); font-size: .82rem; margin: 1rem 0 0; }
.chip { background: #eef1f7; color: var(--accent); border-radius: 1rem; padding: .1rem .6rem;
  font-weight: 600; }
footer { color: var(--soft); font-size: .82rem; padding: 1.5rem 0 2.5rem; }
"""
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ctext y='13' font-size='13'%3E%F0%9F%93%96%3C/text%3E%3C/svg%3E"
)


@dataclass(frozen=True, slots=True)
class Book:
    """A product."""

    id: int
    title: str
    description: str


@dataclass(frozen=True, slots=True)
class Section:
    """What a backend answered: `value`, or the `error` to show with its technical `reason`.

    `app` is the backend's own x-app header, empty when none came; `seconds` how long it took.
    """

    status: int
    seconds: float
    app: str
    value: Mapping[str, Any] | None = None
    error: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Everything the page shows; `user` is empty for somebody unknown."""

    product: Book
    user: str
    served_by: str
    details: Section
    reviews: Section


def render_page(page: Page) -> str:
    """The product page."""
    product = page.product
    return document(
        product.title,
        f"""{header(page.user)}
<main>
<div class="book"><h1>{escape(product.title)}</h1><p>{escape(product.description)}</p></div>
<div class="columns">
<section id="details"><h2>Book details</h2>
{"".join(details_box(page.details))}
{answered_by(page.details)}</section>
<section id="reviews"><h2>Book reviews</h2>
{"".join(reviews_box(page.reviews))}
{answered_by(page.reviews)}</section>
</div>
<footer>Page by {escape(page.served_by)}. Reload it to see which version of reviews is next.
</footer>
</main>""",
    )


def render_index() -> str:
    """The page at `/`, which only leads to the product page."""
    return document(
        "Bookinfo",
        f"""{header("")}
<main><div class="book"><h1>Bookinfo</h1>
<p>Four small applications show one book. Look at it as
<a href="/productpage?u=normal">anybody</a> or as <a href="/productpage?u=jason">jason</a>.</p>
</div></main>""",
    )


def document(title: str, body: str) -> str:
    """An HTML document; `body` is HTML already."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} - Bookinfo</title>
<link rel="icon" href="{ICON}">
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def header(user: str) -> str:
    """The bar at the top, with who is looking, or the form to say so."""
    if user:
        who = f"""<form method="post" action="/logout"><span class="user">Signed in as
<strong>{escape(user)}</strong></span> <button>Sign out</button></form>"""
    else:
        who = """<form method="post" action="/login"><label class="user" for="username">User</label>
<input id="username" name="username" placeholder="jason" required maxlength="64"
pattern="[A-Za-z0-9._@\\-]+"> <button>Sign in</button></form>"""
    return f'<header><div><a class="brand" href="/productpage">Bookinfo</a>{who}</div></header>'


def details_box(section: Section) -> Iterator[str]:
    """The inside of the details box."""
    if section.value is None:
        yield error_box(section.error, section.reason)
        return
    book = section.value
    yield "<dl>"
    if "author" in book:
        year = f" ({escape(str(book['year']))})" if "year" in book else ""
        yield f"<dt>Author</dt><dd>{escape(str(book['author']))}{year}</dd>"
    for key, label in DETAIL_LABELS:
        if key in book:
            yield f"<dt>{label}</dt><dd>{escape(str(book[key]))}</dd>"
    yield "</dl>"


def reviews_box(section: Section) -> Iterator[str]:
    """The inside of the reviews box."""
    if section.value is None:
        yield error_box(section.error, section.reason)
        return
    reviews = section.value.get("reviews")
    for review in reviews if isinstance(reviews, list) else ():
        match review:
            case {"reviewer": str(reviewer), "text": str(text)}:
                yield f"""<blockquote><p>{escape(text)}</p>
<cite>{escape(reviewer)}</cite>
{rating_line(review.get("rating"))}</blockquote>"""


def rating_line(rating: object) -> str:
    """The stars of one review, why there are none, or nothing when the version shows none."""
    match rating:
        case {"stars": int(stars), "color": str(color)} if color in INK_OF_STARS:
            filled = max(0, min(stars, MOST_STARS))
            glyphs = "&#9733;" * filled + "&#9734;" * (MOST_STARS - filled)
            return (
                f'<div class="stars" data-color="{color}" style="color:{INK_OF_STARS[color]}" '
                f'role="img" aria-label="{filled} of {MOST_STARS} stars">{glyphs}</div>'
            )
        case {"error": str(message)}:
            return error_box(message, "")
        case _:
            return ""


def error_box(message: str, reason: str) -> str:
    """A message for a reader, with the technical reason in small print."""
    small = f"<small>{escape(reason)}</small>" if reason else ""
    return f'<p class="error">{escape(message)}{small}</p>'


def answered_by(section: Section) -> str:
    """Which instance answered, and how fast."""
    took = f"{section.seconds * 1000:.0f} ms"
    if not section.app:
        return f'<p class="by">nobody answered, after {took}</p>'
    label, _, instance = section.app.partition(" ")
    chip = f'<span class="chip" data-app="{escape(label)}">{escape(label)}</span>'
    return f'<p class="by">answered by {chip} {escape(instance)} in {took}</p>'
