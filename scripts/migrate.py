"""create · upgrade · downgrade · current · history · finalize: `squorflow migrate`, from a checkout."""

from __future__ import annotations

import sys

from squorflow.cli import main

if __name__ == "__main__":
    main(["migrate", *sys.argv[1:]], prog_name="squorflow")
