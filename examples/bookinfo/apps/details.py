"""The details application: facts about one book.

Owns: `/details/ID` and `/health`. Calls nobody.
"""

from __future__ import annotations

import sys

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


def details_of(product_id: int) -> dict[str, object]:
    """The fields of the original Bookinfo, whose only book is printed in one edition."""
    return {
        "id": product_id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    }


def handle(request: Request) -> Response:
    """Answers one request."""
    if request.path == "/health":
        return json_response({"status": "Details is healthy"})
    if request.method != "GET" or not request.path.startswith("/details/"):
        return not_found(request)
    product_id = product_id_of(request, "/details/")
    if product_id is None:
        return json_response({"error": "please provide a numeric product id"}, status=400)
    return json_response(details_of(product_id))


def make_server(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    version: str = "v1",
    instance: str | None = None,
    quiet: bool = True,
) -> BookinfoServer:
    """A bound server; `serve_forever` runs it. Raises OSError when the address is taken."""
    app = App("details", version, handle, instance_name(instance))
    return BookinfoServer(app, (host, port), quiet=quiet)


def command_line() -> int:
    """Runs the application with the flags of the command line."""
    parser = argument_parser("Bookinfo: facts about a book")
    parser.add_argument("--version", default="v1", help="version shown in x-app (%(default)s)")
    return main(parser, make_server)


if __name__ == "__main__":
    sys.exit(command_line())
