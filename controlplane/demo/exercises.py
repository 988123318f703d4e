"""The classic Bookinfo exercises as checks: apply files, look at the page, judge.

Owns: what each exercise applies and what has to be seen then.
Must not know: how the example is run (a `Bookinfo`) or how progress is shown.
Easy to break: shares of random choices are judged with a tolerance made from their spread, so
that a right share fails once in some hundred thousand runs, and a wrong one is found.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import aiohttp
import msgspec

from controlplane.demo.layout import APPLICATIONS, Application, Layout
from controlplane.errors import OutsideError

NOBODY: Final = ""
JASON: Final = "jason"
NO_REVIEWS: Final = "Sorry, product reviews are currently unavailable for this book."
NO_RATINGS: Final = "Ratings service is currently unavailable"
STARS: Final = {"reviews-v2": 'data-color="black"', "reviews-v3": 'data-color="red"'}
CALLS: Final = 300
CALLERS: Final = 8
STANDARD_DEVIATIONS: Final = 4.5


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of the product page: its status, its text, who made the reviews, seconds."""

    status: int
    text: str
    reviews: str
    seconds: float


class Bookinfo(Protocol):
    """The running example, as far as exercises need it."""

    layout: Layout
    http: aiohttp.ClientSession

    async def apply(self, *, reviews: str | None = None, ratings: str | None = None) -> None:
        """Make files of the example hold, and wait until they do; raises OutsideError."""
        ...

    async def start_application(self, application: Application, *extra: str) -> None:
        """Start one application again with other flags; raises OutsideError."""
        ...

    def log_of(self, application: Application) -> str:
        """All that one application wrote."""
        ...


class Exercise(msgspec.Struct, frozen=True, kw_only=True):
    """One exercise; `check` returns what was seen, and raises FailedError when it is wrong."""

    title: str
    check: Callable[[Bookinfo], Awaitable[str]]


class FailedError(Exception):
    """What was seen is not what the exercise promises."""


async def get_page(mesh: Bookinfo, user: str = NOBODY) -> Page:
    """Load the page through the gateway as a user; raises FailedError when nothing comes."""
    started = time.monotonic()
    query = {"u": user} if user else {}
    try:
        async with mesh.http.get(mesh.layout.page, params=query) as answer:
            text = await answer.text()
            return Page(
                status=answer.status,
                text=text,
                reviews=answer.headers.get("x-reviews-app", "").partition(" ")[0],
                seconds=time.monotonic() - started,
            )
    except (aiohttp.ClientError, TimeoutError) as error:
        raise FailedError(f"the page did not come: {error}") from error


async def count_versions(mesh: Bookinfo, calls: int = CALLS) -> Counter[str]:
    """Ask for the reviews through the gateway, and count which version answered.

    What is not a good answer is counted by its status. Raises FailedError when nothing comes.
    """
    url = f"{mesh.layout.front}/api/v1/products/0/reviews"
    seen: Counter[str] = Counter()
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            async with mesh.http.get(url) as answer:
                if answer.status == 200:
                    seen[(await answer.json())["version"]] += 1
                else:
                    seen[f"status {answer.status}"] += 1

    try:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise FailedError(f"a call to the reviews failed: {error}") from error
    return seen


def must(condition: object, otherwise: str) -> None:
    """Raise FailedError with the sentence unless the condition holds."""
    if not condition:
        raise FailedError(otherwise)


def tolerance(share: float, calls: int) -> float:
    """How far a share seen in so many calls may be from the real one."""
    return STANDARD_DEVIATIONS * math.sqrt(share * (1 - share) / calls)


def stars_of(page: Page) -> str:
    """Which stars a page shows: none, black or red."""
    for version, mark in STARS.items():
        if mark in page.text:
            return "black" if version == "reviews-v2" else "red"
    return "none"


async def all_v1(mesh: Bookinfo) -> str:
    """Everybody gets version 1."""
    await mesh.apply(reviews="all-v1")
    pages = [await get_page(mesh) for _ in range(20)]
    for page in pages:
        must(page.status == 200, f"a page answered {page.status}")
        must(page.reviews == "reviews-v1", f"{page.reviews or 'nobody'} made the reviews")
        must(stars_of(page) == "none", f"a page has {stars_of(page)} stars")
    return f"{len(pages)} pages by reviews v1, no stars"


def split(file: str, shares: dict[str, float]) -> Callable[[Bookinfo], Awaitable[str]]:
    """The check of an exercise that divides the calls to reviews."""

    async def check(mesh: Bookinfo) -> str:
        await mesh.apply(reviews=file)
        seen = await count_versions(mesh)
        calls = seen.total()
        must(set(seen) <= set(shares), f"answers came from {dict(seen)}")
        for version, share in shares.items():
            found = seen[version] / calls
            must(
                abs(found - share) <= tolerance(share, calls),
                f"{found:.0%} of {calls} calls went to {version}, not {share:.0%}",
            )
        parts = ", ".join(f"{seen[version] / calls:.0%} {version}" for version in shares)
        return f"{calls} calls: {parts}"

    return check


async def by_user(mesh: Bookinfo) -> str:
    """jason gets version 2, everybody else version 1."""
    await mesh.apply(reviews="reviews-test-v2")
    for _ in range(5):
        jason, other = await get_page(mesh, JASON), await get_page(mesh)
        must(jason.reviews == "reviews-v2", f"jason's reviews are by {jason.reviews}")
        must(stars_of(jason) == "black", f"jason's page has {stars_of(jason)} stars")
        must(other.reviews == "reviews-v1", f"everybody's reviews are by {other.reviews}")
    return "jason: black stars; anybody else: none"


async def delay(mesh: Bookinfo) -> str:
    """The ratings come 7 s late for jason; productpage gives up after 6 s."""
    await mesh.apply(reviews="reviews-test-v2", ratings="ratings-test-delay")
    jason, other = await asyncio.gather(get_page(mesh, JASON), get_page(mesh))
    must(NO_REVIEWS in jason.text, "jason's page still has reviews")
    must(5.5 < jason.seconds < 7.0, f"jason waited {jason.seconds:.1f} s, not 6 s")
    must(other.reviews == "reviews-v1", "anybody else got no reviews")
    must(other.seconds < 3.0, f"anybody else waited {other.seconds:.1f} s")
    return f"jason waited {jason.seconds:.1f} s and got no reviews; anybody else: at once"


async def abort(mesh: Bookinfo) -> str:
    """Every call to ratings made for jason ends with 500."""
    await mesh.apply(reviews="reviews-test-v2", ratings="ratings-test-abort")
    jason, other = await get_page(mesh, JASON), await get_page(mesh)
    must(jason.reviews == "reviews-v2", "jason got no reviews at all")
    must(NO_RATINGS in jason.text, "jason's page still has ratings")
    must(NO_RATINGS not in other.text, "anybody else is told that ratings are missing")
    return "jason reads that the ratings are unavailable"


async def mirror(mesh: Bookinfo) -> str:
    """Reviews v1 answers, v3 gets a copy of each call."""
    await mesh.apply(reviews="reviews-mirror")
    copies = logged_calls(mesh)
    pages = [await get_page(mesh) for _ in range(10)]
    for page in pages:
        must(page.reviews == "reviews-v1", f"{page.reviews or 'nobody'} made the reviews")
    for _ in range(100):
        if logged_calls(mesh) - copies >= len(pages):
            break
        await asyncio.sleep(0.02)
    found = logged_calls(mesh) - copies
    must(found == len(pages), f"reviews v3 got {found} copies of {len(pages)} calls")
    return f"{len(pages)} pages by reviews v1, {found} copies to v3"


def logged_calls(mesh: Bookinfo) -> int:
    """How many calls reviews v3 has logged; while it gets copies only, each is one."""
    return mesh.log_of(application("reviews-v3")).count("GET /reviews/0")


async def timeout(mesh: Bookinfo) -> str:
    """The mesh waits half a second for reviews, which wait for slow ratings."""
    await mesh.apply(reviews="reviews-timeout", ratings="ratings-delay-2s")
    page = await get_page(mesh)
    must(NO_REVIEWS in page.text, "the page still has reviews")
    must(0.9 < page.seconds < 2.0, f"the page took {page.seconds:.1f} s, not twice 0.5 s")
    return f"no reviews after {page.seconds:.1f} s: two tries of 0.5 s"


async def retries(mesh: Bookinfo) -> str:
    """Every second answer of ratings is a 500; only with retries nobody notices."""
    ratings = application("ratings-v1")
    await mesh.start_application(ratings, "--fail-every", "2")
    try:
        await mesh.apply(reviews="reviews-v3")
        without = [await get_page(mesh) for _ in range(10)]
        must(
            any(NO_RATINGS in page.text for page in without),
            "without retries no page misses its ratings, so nothing is proved",
        )
        await mesh.apply(reviews="reviews-v3", ratings="ratings-retries")
        pages = [await get_page(mesh) for _ in range(10)]
        for page in pages:
            must(stars_of(page) == "red", "a page misses its red stars")
    finally:
        await mesh.start_application(ratings)
    missing = sum(NO_RATINGS in page.text for page in without)
    return f"{missing} of {len(without)} pages without stars before, none with retries"


def application(name: str) -> Application:
    """The application of that name; raises StopIteration for none."""
    return next(entry for entry in APPLICATIONS if entry.name == name)


EXERCISES: Final = (
    Exercise(title="version 1 of all", check=all_v1),
    Exercise(title="90/10", check=split("reviews-90-10", {"v1": 0.9, "v2": 0.1})),
    Exercise(title="80/20", check=split("reviews-80-20", {"v1": 0.8, "v2": 0.2})),
    Exercise(title="50/50", check=split("reviews-50-v3", {"v1": 0.5, "v3": 0.5})),
    Exercise(title="jason to version 2", check=by_user),
    Exercise(title="delay of 7 s", check=delay),
    Exercise(title="abort with 500", check=abort),
    Exercise(title="mirror", check=mirror),
    Exercise(title="timeout of 0.5 s", check=timeout),
    Exercise(title="retries", check=retries),
)


async def judge(exercise: Exercise, mesh: Bookinfo) -> tuple[bool, str]:
    """Run one exercise and return whether it holds, and what was seen."""
    try:
        return True, await exercise.check(mesh)
    except (FailedError, OutsideError) as error:
        return False, str(error)
