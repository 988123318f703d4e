"""The productpage application: the page of one book, made from details and reviews.

Owns: the HTML page, login and logout, and the JSON paths below `/api/v1/products`.
Must not know: ratings, but for passing them on; the stars on the page come with the reviews.
Easy to break: reviews get two tries of 3 s each. With a ratings delay of 7 s the page therefore
comes after 6 s and says that there are no reviews, which is what the delay exercise shows.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from common import (
    App,
    BookinfoServer,
    Request,
    Response,
    argument_parser,
    instance_name,
    json_response,
    main,
    not_found,
)
from page import Book, Page, Section, render_index, render_page
from upstream import Upstream, UpstreamError

DETAILS_UNAVAILABLE = "Sorry, product details are currently unavailable for this book."
REVIEWS_UNAVAILABLE = "Sorry, product reviews are currently unavailable for this book."
RATINGS_UNAVAILABLE = "Sorry, product ratings are currently unavailable for this book."
SECONDS_PER_TRY = 3.0
REVIEWS_TRIES = 2
USER_COOKIE = "bookinfo-user"
# What may become the value of the header `end-user`.
USER_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")

PRODUCTS = (
    Book(
        id=0,
        title="The Comedy of Errors",
        description=(
            "Two pairs of identical twins, parted by a shipwreck as babies, are in the same town "
            "for one day without knowing it. One of Shakespeare's earliest plays, his shortest, "
            "and the one with the most slapstick."
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class ProductPage:
    """Answers for the product page, calling its three backends."""

    label: str
    instance: str
    details: Upstream
    reviews: Upstream
    ratings: Upstream

    def handle(self, request: Request) -> Response:
        """Answers one request."""
        match request.method, request.path.split("/")[1:]:
            case _, ["health"]:
                return html("Product page is healthy")
            case "GET", ["" | "index.html"]:
                return html(render_index())
            case "GET", ["productpage"]:
                return self._page(request)
            case "POST", ["login"]:
                return login(request)
            case _, ["logout"]:
                return redirect_to_page(f"{USER_COOKIE}=; Path=/; Max-Age=0")
            case "GET", ["api", "v1", "products"]:
                return json_response([product_json(product) for product in PRODUCTS])
            case "GET", ["api", "v1", "products", product_id, *rest] if product_id.isdecimal():
                return self._api(request, int(product_id), rest)
            case _:
                return not_found(request)

    def _page(self, request: Request) -> Response:
        headers = outgoing_headers(request)
        product = PRODUCTS[0]
        details = self._details(product.id, headers)
        reviews = self._reviews(product.id, headers)
        page = Page(
            product=product,
            user=user_of(request),
            served_by=f"{self.label} ({self.instance})",
            details=details,
            reviews=reviews,
        )
        served = (("x-details-app", details.app), ("x-reviews-app", reviews.app))
        return html(render_page(page), headers=tuple(pair for pair in served if pair[1]))

    def _api(self, request: Request, product_id: int, rest: list[str]) -> Response:
        headers = outgoing_headers(request)
        match rest:
            case []:
                section = self._details(product_id, headers)
            case ["reviews"]:
                section = self._reviews(product_id, headers)
            case ["ratings"]:
                section = ask(
                    self.ratings,
                    f"/ratings/{product_id}",
                    headers=headers,
                    unavailable=RATINGS_UNAVAILABLE,
                )
            case _:
                return not_found(request)
        if section.error:
            return json_response({"error": section.error}, status=section.status)
        return json_response(section.value)

    def _details(self, product_id: int, headers: Mapping[str, str]) -> Section:
        return ask(
            self.details,
            f"/details/{product_id}",
            headers=headers,
            unavailable=DETAILS_UNAVAILABLE,
        )

    def _reviews(self, product_id: int, headers: Mapping[str, str]) -> Section:
        return ask(
            self.reviews,
            f"/reviews/{product_id}",
            headers=headers,
            unavailable=REVIEWS_UNAVAILABLE,
            tries=REVIEWS_TRIES,
        )


def ask(
    upstream: Upstream,
    path: str,
    *,
    headers: Mapping[str, str],
    unavailable: str,
    tries: int = 1,
) -> Section:
    """What `upstream` answers, or `unavailable` when no try brought a JSON object."""
    started = time.monotonic()
    status, reason, app = 500, "", ""
    for _ in range(tries):
        try:
            reply = upstream.get(path, headers=headers, timeout=SECONDS_PER_TRY)
        except UpstreamError as error:
            status, reason, app = 500, str(error), ""
            continue
        app = reply.app
        if reply.status == 200 and isinstance(reply.value, dict):
            return Section(reply.status, time.monotonic() - started, app, value=reply.value)
        status = reply.status if reply.status >= 400 else 500
        reason = f"{upstream.url.removeprefix('http://')}: answered {reply.status}"
    print(f"productpage: no answer for {path}: {reason}", file=sys.stderr, flush=True)
    elapsed = time.monotonic() - started
    return Section(status, elapsed, app, error=unavailable, reason=reason)


def user_of(request: Request) -> str:
    """Who looks at the page: `?u=NAME`, else who logged in; empty for nobody.

    `?u=normal` is the address that Bookinfo always had for the plain page.
    """
    asked = request.query.get("u", "normal")
    if asked != "normal" and USER_NAME.fullmatch(asked):
        return asked
    try:
        cookie = SimpleCookie(request.headers.get("cookie", "")).get(USER_COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie and USER_NAME.fullmatch(cookie.value) else ""


def outgoing_headers(request: Request) -> dict[str, str]:
    """The headers of every call to a backend, `end-user` among them when somebody is known."""
    headers = request.propagated_headers()
    user = user_of(request)
    if user:
        headers["end-user"] = user
    return headers


def login(request: Request) -> Response:
    """Remembers the user name of the form in a cookie; there is no password."""
    form = parse_qs(request.body.decode("utf-8", "replace"))
    user = form.get("username", [""])[0].strip()
    if not USER_NAME.fullmatch(user):
        message = "a user name has 1 to 64 letters, digits and . _ @ -"
        return json_response({"error": message}, status=400)
    return redirect_to_page(f"{USER_COOKIE}={user}; Path=/; HttpOnly; SameSite=Lax")


def redirect_to_page(cookie: str) -> Response:
    """Sends the browser back to the page with `cookie`."""
    headers = (("Location", "/productpage"), ("Set-Cookie", cookie))
    return Response(302, b"", "text/plain", headers)


def html(text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """`text` as an HTML answer."""
    return Response(200, text.encode(), "text/html; charset=utf-8", headers)


def product_json(product: Book) -> dict[str, Any]:
    """One product as the API lists it."""
    return {"id": product.id, "title": product.title, "descriptionHtml": product.description}


def make_server(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    version: str = "v1",
    instance: str | None = None,
    quiet: bool = True,
    details_url: str = "http://details:9080",
    reviews_url: str = "http://reviews:9080",
    ratings_url: str = "http://ratings:9080",
    mesh_proxy: str = "",
) -> BookinfoServer:
    """A bound server; `serve_forever` runs it. Raises OSError when the address is taken."""
    pages = ProductPage(
        label=f"productpage-{version}",
        instance=instance_name(instance),
        details=Upstream(details_url, mesh_proxy),
        reviews=Upstream(reviews_url, mesh_proxy),
        ratings=Upstream(ratings_url, mesh_proxy),
    )
    app = App("productpage", version, pages.handle, pages.instance)
    return BookinfoServer(app, (host, port), quiet=quiet)


def command_line() -> int:
    """Runs the application with the flags of the command line."""
    parser = argument_parser(
        "Bookinfo: the product page", upstreams=("details", "reviews", "ratings")
    )
    parser.add_argument("--version", default="v1", help="version shown in x-app (%(default)s)")
    return main(parser, make_server)


if __name__ == "__main__":
    sys.exit(command_line())
