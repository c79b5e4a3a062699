"""Entry point of `python -m app.cli`, the same as `frontrunner`."""

from app.cli import main

main()
