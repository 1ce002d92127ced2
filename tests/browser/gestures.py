"""Gestures of a person with a mouse, in CSS pixels from an element's corner."""

from __future__ import annotations

from playwright.sync_api import FloatRect, Locator, Page

Spot = tuple[float, float]


class Fingers:
    """Fingers on a touch screen, as the browser itself sees them.

    Args:
        page: of a context with touch.
    """

    def __init__(self, page: Page) -> None:
        self._page, self._session = page, page.context.new_cdp_session(page)

    def put(self, kind: str, *places: Spot) -> None:
        """One event: "touchStart", "touchMove" or "touchEnd", and where on the page fingers are."""
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        self._session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def tap(self, element: Locator) -> None:
        """Touch the middle of an element, as long as a person does."""
        element.scroll_into_view_if_needed()
        box = still(element)
        self.put("touchStart", (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))
        self._page.wait_for_timeout(100)
        self.put("touchEnd")

    def drag(self, element: Locator, *spots: Spot) -> None:
        """Go along spots of an element with one finger, and hold still on the last: else it were a flick."""
        first, *rest = [on(element, spot) for spot in spots]
        self.put("touchStart", first)
        for place in rest:
            self.put("touchMove", place)
        for step in (1, 0):
            self._page.wait_for_timeout(100)
            self.put("touchMove", (rest[-1][0] + step, rest[-1][1]))
        self.put("touchEnd")


def still(element: Locator, looks: int = 2) -> FloatRect:
    """The element's box once it has been the same at so many looks, 50 ms apart: pages move while they are drawn."""
    boxes = [element.bounding_box()]
    while len(boxes) < looks or any(box != boxes[-1] for box in boxes[-looks:]):
        assert len(boxes) < 1200, "the element does not come to rest"
        element.page.wait_for_timeout(50)
        boxes.append(element.bounding_box())
    assert boxes[-1] is not None, "the element is not shown"
    return boxes[-1]


def pixel(canvas: Locator, x: float, y: float, width: int = 256) -> Spot:
    """Where pixel (x, y) of a picture is on the canvas that it fills, CSS pixels from its corner."""
    scale = still(canvas)["width"] / width
    return (x + 0.5) * scale, (y + 0.5) * scale


def on(element: Locator, spot: Spot) -> Spot:
    """Where on the page a spot of an element is; the element is scrolled into view first."""
    element.scroll_into_view_if_needed()
    box = still(element)
    return box["x"] + spot[0], box["y"] + spot[1]


def drag(page: Page, element: Locator, *spots: Spot, steps: int = 6) -> None:
    """Press on the first spot, go along the others, and let go on the last."""
    first, *rest = [on(element, spot) for spot in spots]
    page.mouse.move(*first)
    page.mouse.down()
    for spot in rest:
        page.mouse.move(*spot, steps=steps)
    page.mouse.up()


def click(page: Page, element: Locator, spot: Spot) -> None:
    """Click a spot of an element."""
    page.mouse.click(*on(element, spot))
