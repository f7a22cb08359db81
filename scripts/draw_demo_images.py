"""Draw the demo's pictures into include/squorflow/demo/images. The same Pillow draws the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw  # noqa: TID253 - drawing is all this program does

SIDE = 320
FOLDER = Path(__file__).resolve().parents[1] / "include" / "squorflow" / "demo" / "images"
PAPER = "#f6f2e9"


def bottle(draw: ImageDraw.ImageDraw) -> None:
    """A water bottle with a label."""
    draw.rectangle((140, 30, 180, 62), fill="#2f6fb3")
    draw.polygon([(146, 62), (174, 62), (214, 120), (106, 120)], fill="#a9d3ee")
    draw.rounded_rectangle((106, 112, 214, 296), radius=16, fill="#a9d3ee")
    draw.rectangle((106, 170, 214, 236), fill="#ffffff")
    draw.polygon([(116, 228), (150, 184), (168, 208), (182, 194), (204, 228)], fill="#4c9a5a")


def oats(draw: ImageDraw.ImageDraw) -> None:
    """A bowl of oats."""
    draw.ellipse((60, 110, 260, 210), fill="#e3c58d")
    for step in range(60):
        x, y = 80 + (step * 53) % 160, 126 + (step * 29) % 60
        draw.ellipse((x, y, x + 16, y + 9), fill="#f4e3bd", outline="#c9a463")
    draw.chord((50, 90, 270, 290), start=0, end=180, fill="#3f7cac")
    draw.rectangle((50, 182, 270, 194), fill="#356a94")


def sweets(draw: ImageDraw.ImageDraw) -> None:
    """Wrapped sweets in loud colours."""
    for row, colour in enumerate(("#d7263d", "#f4a300", "#1b998b", "#6a4c93")):
        y = 30 + row * 70
        x = 70 + (row % 2) * 50
        draw.polygon([(x - 40, y), (x, y + 25), (x - 40, y + 50)], fill=colour)
        draw.polygon([(x + 170, y), (x + 130, y + 25), (x + 170, y + 50)], fill=colour)
        draw.rounded_rectangle((x, y, x + 130, y + 50), radius=24, fill=colour)
        for stripe in range(3):
            draw.line((x + 30 + stripe * 34, y, x + 14 + stripe * 34, y + 50), fill="#ffffff", width=6)


def jar(draw: ImageDraw.ImageDraw) -> None:
    """A jar with a screw lid."""
    draw.rectangle((100, 40, 220, 84), fill="#8c2f39")
    for x in range(104, 220, 12):
        draw.line((x, 44, x, 80), fill="#6e232c", width=3)
    draw.rounded_rectangle((84, 84, 236, 290), radius=24, fill="#9bb86b")
    draw.rectangle((84, 150, 236, 230), fill="#fff8e1")
    draw.line((104, 176, 216, 176), fill="#5b5b5b", width=6)
    draw.line((104, 202, 180, 202), fill="#9a9a9a", width=6)


PICTURES: dict[str, Callable[[ImageDraw.ImageDraw], None]] = {
    "bottle.png": bottle,
    "oats.webp": oats,
    "sweets.gif": sweets,
    "jar.jpg": jar,
}


def main() -> None:
    """Draw every picture and print its size."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, paint in PICTURES.items():
        image = Image.new("RGB", (SIDE, SIDE), PAPER)
        paint(ImageDraw.Draw(image))
        path = FOLDER / name
        image.save(path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
