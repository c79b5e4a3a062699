"""`python -m app.cli` is `frontrunner`."""

from app.cli import main

main()
