"""Neural models behind torch-free protocols, see `models.protocols`.

This package never imports `app`.
"""
