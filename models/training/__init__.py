"""How the embedded pack is made: data, trainers, judge, figures, export.  Serving never imports this package."""
