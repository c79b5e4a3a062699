"""Training code of the embedded pack: data, trainers, judge, figures, export.

Serving never imports this package.
"""
