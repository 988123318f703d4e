"""The ratings application: how many stars each reviewer gave.

Owns: `/ratings/ID` (GET, and POST to change them in memory) and `/health`. Calls nobody.
Easy to break: `--fail-every N` fails only ratings, never health, or its pod would leave the mesh.
"""

from __future__ import annotations

import json
import sys
import threading

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
    product_id_of,
)

FIRST_RATINGS = {"Reviewer1": 5, "Reviewer2": 4}
MOST_STARS = 5


class Ratings:
    """The stars of each product; those of a product nobody changed are the same two."""

    def __init__(self, *, fail_every: int = 0) -> None:
        self._fail_every = fail_every
        self._asked = 0
        self._changed: dict[int, dict[str, int]] = {}
        self._lock = threading.Lock()

    def handle(self, request: Request) -> Response:
        """Answers one request."""
        if request.path == "/health":
            return json_response({"status": "Ratings is healthy"})
        if not request.path.startswith("/ratings/"):
            return not_found(request)
        product_id = product_id_of(request, "/ratings/")
        if product_id is None:
            return json_response({"error": "please provide a numeric product id"}, status=400)
        if request.method == "POST":
            return self._store(product_id, request.body)
        with self._lock:
            self._asked += 1
            fails = self._fail_every > 0 and self._asked % self._fail_every == 0
            ratings = self._changed.get(product_id, FIRST_RATINGS)
        if fails:
            return json_response({"error": "this answer fails on purpose"}, status=500)
        return json_response({"id": product_id, "ratings": ratings})

    def _store(self, product_id: int, body: bytes) -> Response:
        try:
            ratings = json.loads(body)
        except ValueError:
            return json_response({"error": "please provide valid ratings JSON"}, status=400)
        if not isinstance(ratings, dict) or not all(map(is_stars, ratings.values())):
            message = f"ratings are reviewers with 0 to {MOST_STARS} stars"
            return json_response({"error": message}, status=400)
        with self._lock:
            self._changed[product_id] = ratings
        return json_response({"id": product_id, "ratings": ratings})


def is_stars(value: object) -> bool:
    """Whether `value` is a number of stars."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_STARS


def make_server(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    version: str = "v1",
    instance: str | None = None,
    quiet: bool = True,
    fail_every: int = 0,
) -> BookinfoServer:
    """A bound server; `serve_forever` runs it. Raises OSError when the address is taken."""
    app = App("ratings", version, Ratings(fail_every=fail_every).handle, instance_name(instance))
    return BookinfoServer(app, (host, port), quiet=quiet)


def command_line() -> int:
    """Runs the application with the flags of the command line."""
    parser = argument_parser("Bookinfo: the stars of a book")
    parser.add_argument("--version", default="v1", help="version shown in x-app (%(default)s)")
    parser.add_argument(
        "--fail-every",
        type=int,
        default=0,
        metavar="N",
        help="answer every Nth call for ratings with 500, to see retries at work",
    )
    return main(parser, make_server)


if __name__ == "__main__":
    sys.exit(command_line())
