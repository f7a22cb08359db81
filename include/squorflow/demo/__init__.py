"""Twenty-five real products and a few drawn pictures, so that squorflow can be seen at work without any network.

Owns the demo's data. The products are from Open Food Facts (ODbL, see NOTICE.md beside them), chosen to differ in
language, completeness and score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

_BUNDLED = "bundled:"


def demo_products(image_base_url: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the products as `crawler_data`.

    Images that come with the package get addresses below `image_base_url` (a server of `images/` has to answer there);
    with `None` they stay `bundled:` addresses, which need no server.
    """
    base = None if image_base_url is None else image_base_url.rstrip("/") + "/"
    for line in (files(__name__) / "products.jsonl").read_text(encoding="utf-8").splitlines():
        product: dict[str, Any] = json.loads(line)
        if base is not None:
            product["images"] = [
                base + image.removeprefix(_BUNDLED) if image.startswith(_BUNDLED) else image
                for image in product["images"]
            ]
        yield product
