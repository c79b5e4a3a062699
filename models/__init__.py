"""Neural models behind torch-free protocols (see `models.contract`); this package never imports `app`."""
