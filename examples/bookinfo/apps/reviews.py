"""The reviews application: what two readers say, with or without the stars of ratings.

Owns: `/reviews/ID` and `/health`. v1 shows no stars and calls nobody, v2 shows black stars,
v3 red ones; both of them ask ratings.
Easy to break: v2 waits 10 s for ratings and v3 only 2.5 s. productpage gives up on reviews after
3 s, so a 7 s delay of ratings loses the whole review box with v2 and only the stars with v3: the
timeout that does not fit its caller's is the lesson of the delay exercise.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

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
from upstream import Reply, Upstream, UpstreamError

TEXTS = {
    "Reviewer1": (
        "Two pairs of twins, one stolen dinner and a debt collector who always meets the wrong "
        "brother. I laughed on every page and lost count of the slammed doors."
    ),
    "Reviewer2": (
        "Good fun, best read in one evening. The ending sorts everybody out a little too fast, "
        "and the play never digs as deep as the later comedies do."
    ),
}
RATINGS_UNAVAILABLE = "Ratings service is currently unavailable"


@dataclass(frozen=True, slots=True)
class Stars:
    """How a version shows stars, and how many seconds it waits for them."""

    color: str
    timeout: float


STARS_OF_VERSION: dict[str, Stars | None] = {
    "v1": None,
    "v2": Stars("black", 10.0),
    "v3": Stars("red", 2.5),
}


@dataclass(frozen=True, slots=True)
class Reviews:
    """Answers for one version of reviews, running as `instance`."""

    version: str
    instance: str
    ratings: Upstream

    def handle(self, request: Request) -> Response:
        """Answers one request."""
        if request.path == "/health":
            return json_response({"status": "Reviews is healthy"})
        if request.method != "GET" or not request.path.startswith("/reviews/"):
            return not_found(request)
        product_id = product_id_of(request, "/reviews/")
        if product_id is None:
            return json_response({"error": "please provide a numeric product id"}, status=400)
        reviews: list[dict[str, Any]] = [
            {"reviewer": reviewer, "text": text} for reviewer, text in TEXTS.items()
        ]
        stars = STARS_OF_VERSION[self.version]
        if stars is not None:
            reply = self._ask_ratings(request, product_id, stars.timeout)
            for review in reviews:
                review["rating"] = rating_of(reply, review["reviewer"], stars.color)
        return json_response(
            {
                "id": str(product_id),
                "podname": self.instance,
                "version": self.version,
                "reviews": reviews,
            }
        )

    def _ask_ratings(self, request: Request, product_id: int, timeout: float) -> Reply | None:
        try:
            return self.ratings.get(
                f"/ratings/{product_id}", headers=request.propagated_headers(), timeout=timeout
            )
        except UpstreamError as error:
            print(f"reviews-{self.version} got no ratings: {error}", file=sys.stderr, flush=True)
            return None


def rating_of(reply: Reply | None, reviewer: str, color: str) -> dict[str, object]:
    """The rating of one reviewer, or the reason why there is none."""
    match reply:
        case Reply(status=200, value={"ratings": {**ratings}}):
            return {"stars": ratings.get(reviewer, 0), "color": color}
        case _:
            return {"error": RATINGS_UNAVAILABLE}


def make_server(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    version: str = "v1",
    instance: str | None = None,
    quiet: bool = True,
    ratings_url: str = "http://ratings:9080",
    mesh_proxy: str = "",
) -> BookinfoServer:
    """A bound server; `serve_forever` runs it.

    Raises OSError when the address is taken, ValueError for a version other than v1, v2 and v3.
    """
    if version not in STARS_OF_VERSION:
        raise ValueError(f"reviews has no version {version!r}")
    reviews = Reviews(version, instance_name(instance), Upstream(ratings_url, mesh_proxy))
    app = App("reviews", version, reviews.handle, reviews.instance)
    return BookinfoServer(app, (host, port), quiet=quiet)


def command_line() -> int:
    """Runs the application with the flags of the command line."""
    parser = argument_parser("Bookinfo: reviews of a book", upstreams=("ratings",))
    parser.add_argument(
        "--version",
        choices=sorted(STARS_OF_VERSION),
        default="v1",
        help="v1 has no stars, v2 black ones, v3 red ones (%(default)s)",
    )
    return main(parser, make_server)


if __name__ == "__main__":
    sys.exit(command_line())
