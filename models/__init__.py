"""Neural models behind torch-free protocols (see `models.protocols`); this package never imports `app`."""
