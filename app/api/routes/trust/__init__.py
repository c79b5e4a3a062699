"""Routes of signed receipts."""
